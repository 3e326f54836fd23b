namespace Lodge.Network.Limits;

/// <summary>
/// A token bucket: fills at a rate up to the burst; who takes more than the burst does so when it is full and leaves a debt. While somebody waits it fills beyond the burst
/// for a while, so that a timer that is late does not lower the rate. Not safe for several threads.
/// </summary>
internal sealed class TokenBucket(TimeProvider time)
{
    private const double LongestDelay = 0.1;

    private LinkRate _rate;
    private double _level;
    private bool _waiting;
    private long _seen = time.GetTimestamp();

    private double Burst => _rate.Burst > 0 ? _rate.Burst : Math.Max(_rate.PerSecond / 10, 1);

    /// <summary>Changes the limit; what is in the bucket stays, as far as it fits.</summary>
    public void Set(LinkRate rate)
    {
        Fill();
        bool isFresh = _rate.PerSecond == 0;
        _rate = rate;
        _level = isFresh ? Burst : Math.Min(_level, Burst);
        _waiting = false;
    }

    /// <summary>How long until <paramref name="cost"/> can be taken.</summary>
    public TimeSpan Wait(double cost)
    {
        if (_rate.PerSecond == 0)
        {
            return TimeSpan.Zero;
        }
        Fill();
        double missing = Math.Min(cost, Burst) - _level;
        _waiting = missing > 1e-9;
        return _waiting ? TimeSpan.FromSeconds(Math.Min(missing / _rate.PerSecond, 86400)) + TimeSpan.FromTicks(1) : TimeSpan.Zero;
    }

    /// <summary>Takes.</summary>
    public void Take(double cost) => _level -= _rate.PerSecond == 0 ? 0 : cost;

    private void Fill()
    {
        long now = time.GetTimestamp();
        double most = Burst + (_waiting ? _rate.PerSecond * LongestDelay : 0);
        _level = Math.Max(_level, Math.Min(most, _level + (time.GetElapsedTime(_seen, now).TotalSeconds * _rate.PerSecond)));
        _seen = now;
    }
}
