using System.Diagnostics;

namespace Lodge.Engine.Time;

/// <summary>
/// The machine's time: nanoseconds since it was first started, standing still while the machine is paused or saved. Thread-safe.
/// </summary>
public sealed class MachineClock
{
    private readonly Lock _gate = new();
    private long _base;      // machine time at _since
    private long _since;     // Stopwatch ticks when running began
    private bool _running;

    /// <summary>Machine time in nanoseconds.</summary>
    public long Now
    {
        get
        {
            lock (_gate)
            {
                return _running ? _base + Elapsed(_since) : _base;
            }
        }
    }

    /// <summary>Whether time advances.</summary>
    public bool Running { get { lock (_gate) { return _running; } } }

    /// <summary>Raised, without lock, after time was started, stopped or set: whoever sleeps until a point in time must look again.</summary>
    public event Action? Changed;

    /// <summary>Lets time advance.</summary>
    public void Start()
    {
        lock (_gate)
        {
            if (!_running)
            {
                _since = Stopwatch.GetTimestamp();
                _running = true;
            }
        }
        Changed?.Invoke();
    }

    /// <summary>Holds time.</summary>
    public void Stop()
    {
        lock (_gate)
        {
            if (_running)
            {
                _base += Elapsed(_since);
                _running = false;
            }
        }
        Changed?.Invoke();
    }

    /// <summary>Sets the time of a stopped clock (restore).</summary>
    public void Set(long nanoseconds)
    {
        lock (_gate)
        {
            _base = nanoseconds;
            _since = Stopwatch.GetTimestamp();
        }
        Changed?.Invoke();
    }

    private static long Elapsed(long since) => Stopwatch.Frequency == 1_000_000_000
        ? Stopwatch.GetTimestamp() - since
        : (long)((Stopwatch.GetTimestamp() - since) * (1e9 / Stopwatch.Frequency));
}
