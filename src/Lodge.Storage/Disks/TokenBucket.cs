namespace Lodge.Storage.Disks;

/// <summary>
/// A token bucket: fills at a rate up to the burst; who takes more than the burst does so when it is full and leaves a debt. Not safe for several threads.
/// </summary>
internal sealed class TokenBucket(TimeProvider time)
{
    private DiskRate _rate;
    private double _level;
    private long _seen = time.GetTimestamp();

    private double Burst => _rate.Burst > 0 ? _rate.Burst : Math.Max(_rate.PerSecond / 10, 1);

    /// <summary>Changes the limit; what is in the bucket stays, as far as it fits.</summary>
    public void Set(DiskRate rate)
    {
        Fill();
        var fresh = _rate.PerSecond == 0;
        _rate = rate;
        _level = fresh ? Burst : Math.Min(_level, Burst);
    }

    /// <summary>How long until <paramref name="cost"/> can be taken.</summary>
    public TimeSpan Wait(double cost)
    {
        if (_rate.PerSecond == 0)
        {
            return TimeSpan.Zero;
        }

        Fill();
        var missing = Math.Min(cost, Burst) - _level;
        return missing <= 1e-9 ? TimeSpan.Zero : TimeSpan.FromSeconds(Math.Min(missing / _rate.PerSecond, 86400)) + TimeSpan.FromTicks(1);
    }

    /// <summary>Takes.</summary>
    public void Take(double cost) => _level -= _rate.PerSecond == 0 ? 0 : cost;

    private void Fill()
    {
        var now = time.GetTimestamp();
        _level = Math.Min(Burst, _level + (time.GetElapsedTime(_seen, now).TotalSeconds * _rate.PerSecond));
        _seen = now;
    }
}
