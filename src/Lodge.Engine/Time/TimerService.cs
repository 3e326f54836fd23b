namespace Lodge.Engine.Time;

/// <summary>
/// Timers on machine time, for devices and local APICs: one thread, started by the first armed timer, that sleeps until the earliest deadline.
/// Callbacks run on that thread, must be short and must not block; a timer may be re-armed from its own callback.
/// </summary>
public sealed class TimerService : IDisposable
{
    private readonly Lock _gate = new();
    private readonly PriorityQueue<(MachineTimer Timer, long Generation), long> _queue = new();
    private readonly PreciseWait _wait = new();
    private readonly MachineClock _clock;
    private Thread? _thread;
    private volatile bool _calling; // set with the gate held
    private bool _disposed;

    /// <summary>Creates a service on the given clock.</summary>
    public TimerService(MachineClock clock)
    {
        _clock = clock;
        clock.Changed += ClockChanged;
    }

    /// <summary>The clock that deadlines refer to.</summary>
    public MachineClock Clock => _clock;

    /// <summary>Creates a timer that calls <paramref name="callback"/> when it expires.</summary>
    public MachineTimer Create(Action callback) => new(this, callback);

    /// <summary>
    /// Makes the thread look at the clock again. It does so by itself after the clock was started, stopped or set. When the clock has stopped, a callback that had begun has
    /// ended and none begins: what is saved then has all or nothing of what a timer does.
    /// </summary>
    public void ClockChanged()
    {
        _wait.Wake();
        if (_clock.Running || Thread.CurrentThread == _thread)
        {
            return;
        }
        lock (_gate)
        {
            // A timer that was taken while the clock ran is being called by now.
        }
        SpinWait wait = default;
        while (_calling)
        {
            wait.SpinOnce();
        }
    }

    /// <summary>Number of armed timers.</summary>
    internal int ArmedTimers { get { lock (_gate) { return _queue.Count; } } }

    internal void Arm(MachineTimer timer, long deadline)
    {
        lock (_gate)
        {
            Remove(timer);
            timer.Deadline = deadline;
            _queue.Enqueue((timer, timer.Generation), deadline);
            if (_thread is null && !_disposed)
            {
                _thread = new Thread(Loop) { IsBackground = true, Name = "timers" };
                _thread.Start();
            }
            if (_queue.Peek().Timer != timer)
            {
                return;
            }
        }
        _wait.Wake();
    }

    internal void Cancel(MachineTimer timer)
    {
        lock (_gate)
        {
            Remove(timer);
        }
    }

    /// <summary>Takes the timer out of the queue at once: a guest that re-arms a distant timer again and again must not make the queue grow.</summary>
    private void Remove(MachineTimer timer)
    {
        if (timer.Deadline is not null)
        {
            _queue.Remove((timer, timer.Generation), out _, out _);
            timer.Deadline = null;
        }
        timer.Generation++;
    }

    private void Loop()
    {
        while (true)
        {
            MachineTimer? due = null;
            long timeout = -1;
            lock (_gate)
            {
                if (_disposed)
                {
                    return;
                }
                while (_queue.TryPeek(out var head, out long deadline))
                {
                    if (head.Generation != head.Timer.Generation)
                    {
                        _queue.Dequeue();
                        continue;
                    }
                    if (!_clock.Running)
                    {
                        break;
                    }
                    long now = _clock.Now;
                    if (deadline <= now)
                    {
                        _queue.Dequeue();
                        head.Timer.Generation++;
                        head.Timer.Deadline = null;
                        due = head.Timer;
                        _calling = true;
                    }
                    else
                    {
                        timeout = deadline - now;
                    }
                    break;
                }
            }
            if (due is not null)
            {
                try
                {
                    due.Callback();
                }
                finally
                {
                    _calling = false;
                }
            }
            else
            {
                _wait.Wait(timeout);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _clock.Changed -= ClockChanged;
        lock (_gate)
        {
            _disposed = true;
        }
        _wait.Wake();
        if (_thread is { } thread && thread != Thread.CurrentThread)
        {
            thread.Join();
        }
        _wait.Dispose();
    }
}

/// <summary>A one-shot timer on machine time.</summary>
public sealed class MachineTimer
{
    private readonly TimerService _service;

    internal MachineTimer(TimerService service, Action callback)
    {
        _service = service;
        Callback = callback;
    }

    internal Action Callback { get; }

    internal long Generation { get; set; }

    /// <summary>Machine time in nanoseconds at which it will expire, or null when not armed.</summary>
    public long? Deadline { get; internal set; }

    /// <summary>Arms or re-arms for the machine time <paramref name="deadline"/> in nanoseconds (a past time expires at once).</summary>
    public void Arm(long deadline) => _service.Arm(this, deadline);

    /// <summary>Disarms. A callback that already started may still complete.</summary>
    public void Cancel() => _service.Cancel(this);
}
