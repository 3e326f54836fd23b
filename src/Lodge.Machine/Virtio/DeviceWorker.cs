namespace Lodge.Machine.Virtio;

/// <summary>
/// Runs a device's work on the thread pool, never twice at a time. A signal only schedules: it is what a vCPU does for a notification. A signal that
/// comes while the work runs makes it run again, so none is lost. The work must be short; what is left over is continued in turn with other work.
/// </summary>
/// <param name="work">One bounded portion; returns whether more is left.</param>
internal sealed class DeviceWorker(Func<bool> work) : IThreadPoolWorkItem
{
    private readonly object _gate = new();
    private bool _signalled;
    private bool _scheduled;    // queued or running
    private bool _started;

    /// <summary>Asks for the work to run; remembered while stopped. Any thread; never blocks on the work.</summary>
    public void Signal()
    {
        lock (_gate)
        {
            _signalled = true;
            if (_scheduled || !_started)
            {
                return;
            }
            _scheduled = true;
        }
        ThreadPool.UnsafeQueueUserWorkItem(this, preferLocal: false);
    }

    /// <summary>Whether work may run.</summary>
    public bool Started
    {
        get
        {
            lock (_gate)
            {
                return _started;
            }
        }
    }

    /// <summary>Lets work run, at once if there was a signal.</summary>
    public void Start()
    {
        lock (_gate)
        {
            _started = true;
            if (_scheduled || !_signalled)
            {
                return;
            }
            _scheduled = true;
        }
        ThreadPool.UnsafeQueueUserWorkItem(this, preferLocal: false);
    }

    /// <summary>Prevents further work and returns when none runs. Not to be called from the work itself.</summary>
    public void Stop()
    {
        lock (_gate)
        {
            _started = false;
            while (_scheduled)
            {
                Monitor.Wait(_gate);
            }
        }
    }

    void IThreadPoolWorkItem.Execute()
    {
        bool more = false;
        lock (_gate)
        {
            if (_started)
            {
                _signalled = false;
                more = true;
            }
        }
        if (more)
        {
            more = work();
        }
        lock (_gate)
        {
            _signalled |= more;
            if (!_started || !_signalled)
            {
                _scheduled = false;
                Monitor.PulseAll(_gate);
                return;
            }
        }
        ThreadPool.UnsafeQueueUserWorkItem(this, preferLocal: false);
    }
}
