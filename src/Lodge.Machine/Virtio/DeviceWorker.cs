using System.Diagnostics;
using Lodge.Engine.Time;

namespace Lodge.Machine.Virtio;

/// <summary>
/// Runs a device's work on the thread pool, never twice at a time. A signal only schedules: it is what a vCPU does for a notification. A signal that
/// comes while the work runs makes it run again, so none is lost. The work must be short; what is left over is continued in turn with other work.
/// While signals follow each other closely the thread looks for the next one before it goes.
/// </summary>
/// <param name="work">One bounded portion; returns whether more is left.</param>
internal sealed class DeviceWorker(Func<bool> work) : IThreadPoolWorkItem
{
    private const int MaximumPoll = 100;    // microseconds
    private readonly object _gate = new();
    private readonly PollWindow _poll = new(MaximumPoll);
    private int _signalled;
    private bool _scheduled;    // queued or running
    private bool _started;
    private long _idleSince;    // Stopwatch ticks

    /// <summary>Asks for the work to run; remembered while stopped. Any thread; never blocks on the work.</summary>
    public void Signal()
    {
        lock (_gate)
        {
            _signalled = 1;
            if (_scheduled || !_started)
            {
                return;
            }
            _scheduled = true;
            if (_idleSince != 0)
            {
                _poll.Waited(_idleSince);
            }
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
            if (_scheduled || _signalled == 0)
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
        do
        {
            bool more = false;
            lock (_gate)
            {
                if (_started)
                {
                    _signalled = 0;
                    more = true;
                }
            }
            more = more && work();
            if (more)
            {
                Volatile.Write(ref _signalled, 1);
            }
        }
        while (Continue());
    }

    /// <summary>After a portion of work: whether another follows at once, since there was a signal meanwhile or soon after and nothing else waits for the thread.</summary>
    private bool Continue()
    {
        long since = Stopwatch.GetTimestamp();
        bool first = ThreadPool.PendingWorkItemCount == 0;
        if (first)
        {
            _poll.Poll(ref _signalled);
        }
        lock (_gate)
        {
            if (!_started || _signalled == 0)
            {
                _idleSince = since;
                _scheduled = false;
                Monitor.PulseAll(_gate);
                return false;
            }
        }
        if (!first)
        {
            ThreadPool.UnsafeQueueUserWorkItem(this, preferLocal: false);
        }
        return first;
    }
}
