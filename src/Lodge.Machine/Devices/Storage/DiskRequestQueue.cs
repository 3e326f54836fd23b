using System.Collections.Concurrent;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Storage;

/// <summary>
/// The requests that a device has given to its disk. They are begun and collected by the device's worker, and end on any thread, which only puts them
/// into a list and wakes the worker.
/// </summary>
/// <param name="wake">Wakes the worker after a request ended. Any thread.</param>
/// <param name="report">Told of the first failure of each kind, so that the host's user learns why his guest sees errors; bounded whatever the guest does. Any thread.</param>
internal sealed class DiskRequestQueue(Action wake, Action<Exception>? report)
{
    /// <summary>How long a stop waits for the disk before it gives the requests up: the guest then sees errors.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);

    private readonly object _gate = new();
    private readonly ConcurrentQueue<DiskRequest> _finished = new();
    private CancellationTokenSource _cancellation = new();
    private int _running;
    private long _reported;

    /// <summary>Gives a request to the disk. On the worker. True when it is finished already; else <see cref="TryCollect"/> yields it later.</summary>
    public bool Begin(DiskRequest request) => request.Begin(this, _cancellation.Token);

    /// <summary>The next request that ended after <see cref="Begin"/> had returned false. On the worker.</summary>
    public bool TryCollect(out DiskRequest request) => _finished.TryDequeue(out request!);

    /// <summary>Asks the disk to give up what it works on. The requests stay in flight until it has.</summary>
    public void Cancel()
    {
        if (!_cancellation.IsCancellationRequested)
        {
            _cancellation.Cancel();
        }
    }

    /// <summary>After <see cref="Cancel"/>, and when nothing is in flight any more: requests may be begun again.</summary>
    public void Renew()
    {
        if (_cancellation.IsCancellationRequested)
        {
            _cancellation.Dispose();
            _cancellation = new CancellationTokenSource();
        }
    }

    /// <summary>Waits until the disk works on nothing; all that ended can then be collected. While the worker is stopped.</summary>
    /// <returns>False: it still does after that time.</returns>
    public bool TryDrain(TimeSpan patience)
    {
        lock (_gate)
        {
            long end = Environment.TickCount64 + (long)patience.TotalMilliseconds;
            while (_running != 0 && Math.Max(0, end - Environment.TickCount64) is > 0 and var left)
            {
                Monitor.Wait(_gate, (int)left);
            }
            return _running == 0;
        }
    }

    /// <summary>Returns when the disk works on nothing; all that ended can then be collected. While the worker is stopped.</summary>
    public void Drain()
    {
        if (TryDrain(Patience))
        {
            return;
        }
        Cancel();
        lock (_gate)
        {
            while (_running != 0)
            {
                Monitor.Wait(_gate);        // guest memory is lent: no way around it
            }
        }
        Renew();
    }

    internal void Began()
    {
        lock (_gate)
        {
            _running++;
        }
    }

    internal void Finished(DiskRequest request)
    {
        _finished.Enqueue(request);
        lock (_gate)
        {
            if (--_running == 0)
            {
                Monitor.PulseAll(_gate);
            }
        }
        wake();
    }

    internal DiskError Classify(Exception failure)
    {
        DiskError error = failure is DiskException disk ? disk.Error : DiskError.InputOutput;
        if (failure is not OperationCanceledException && (Interlocked.Or(ref _reported, 1L << (int)error) & (1L << (int)error)) == 0)
        {
            report?.Invoke(failure);
        }
        return error;
    }
}
