namespace Lodge.Storage.Formats.Qcow2;

/// <summary>Requests that began between two commits; what one of them may still use is not reused before all have left.</summary>
internal sealed class RequestEpoch
{
    private readonly TaskCompletionSource _drained = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private int _active;
    private volatile bool _closed;

    public bool IsClosed => _closed;

    public bool IsDrained => _closed && Volatile.Read(ref _active) == 0;

    public bool TryEnter()
    {
        Interlocked.Increment(ref _active);
        if (!_closed)
        {
            return true;
        }

        Leave();
        return false;
    }

    public void Leave()
    {
        if (Interlocked.Decrement(ref _active) == 0 && _closed)
        {
            _drained.TrySetResult();
        }
    }

    public Task CloseAsync()
    {
        _closed = true;
        Interlocked.MemoryBarrier();
        if (Volatile.Read(ref _active) == 0)
        {
            _drained.TrySetResult();
        }

        return _drained.Task;
    }
}

/// <summary>Lets requests in without a lock, counts them by epoch, and shuts them out while the image's structure is rebuilt.</summary>
internal sealed class RequestGate
{
    private readonly SemaphoreSlim _exclusive = new(1, 1);
    private readonly List<RequestEpoch> _closing = [];
    private volatile RequestEpoch _epoch = new();
    private volatile TaskCompletionSource? _reopened;

    /// <summary>Enters; the epoch is left with <see cref="RequestEpoch.Leave"/>. False while the gate is shut.</summary>
    public bool TryEnter(out RequestEpoch epoch)
    {
        do
        {
            epoch = _epoch;
            if (epoch.TryEnter())
            {
                return true;
            }
        }
        while (_reopened is null);
        return false;
    }

    /// <summary>Enters, after waiting until the gate is open.</summary>
    public async ValueTask<RequestEpoch> EnterAsync(CancellationToken cancellation)
    {
        while (true)
        {
            if (TryEnter(out var epoch))
            {
                return epoch;
            }

            if (_reopened is { } reopened)
            {
                await reopened.Task.WaitAsync(cancellation).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Begins a new epoch.</summary>
    public void Advance()
    {
        lock (_closing)
        {
            var ended = _epoch;
            _closing.RemoveAll(epoch => epoch.IsDrained);
            _closing.Add(ended);
            if (_reopened is null)
            {
                _epoch = new RequestEpoch();
                _ = ended.CloseAsync();
            }
        }
    }

    /// <summary>Whether all requests that began in ended epochs have left.</summary>
    public bool IsDrained
    {
        get
        {
            lock (_closing)
            {
                return _closing.TrueForAll(epoch => epoch.IsDrained);
            }
        }
    }

    /// <summary>Shuts the gate and waits until no request is inside.</summary>
    public async ValueTask ShutAsync(CancellationToken cancellation)
    {
        await _exclusive.WaitAsync(cancellation).ConfigureAwait(false);
        Task[] closing;
        lock (_closing)
        {
            _reopened = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            closing = [.. _closing.Append(_epoch).Select(epoch => epoch.CloseAsync())];
        }

        await Task.WhenAll(closing).ConfigureAwait(false);
    }

    /// <summary>Opens the gate again.</summary>
    public void Open()
    {
        TaskCompletionSource reopened;
        lock (_closing)
        {
            reopened = _reopened!;
            _epoch = new RequestEpoch();
            _reopened = null;
        }

        reopened.SetResult();
        _exclusive.Release();
    }
}

/// <summary>Ranges of guest clusters whose mapping is being changed: a second change waits for the first.</summary>
internal sealed class ClusterRanges
{
    private readonly Lock _gate = new();
    private readonly List<Range> _held = [];

    /// <summary>Waits until no held range overlaps, and holds the range until it is disposed.</summary>
    public async ValueTask<Range> EnterAsync(long first, long last, CancellationToken cancellation)
    {
        while (true)
        {
            Task wait;
            lock (_gate)
            {
                var other = Overlapping(first, last);
                if (other is null)
                {
                    var range = new Range(this, first, last);
                    _held.Add(range);
                    return range;
                }

                wait = other.Wait();
            }

            await wait.WaitAsync(cancellation).ConfigureAwait(false);
        }
    }

    private Range? Overlapping(long first, long last)
    {
        foreach (var range in _held)
        {
            if (range.First <= last && first <= range.Last)
            {
                return range;
            }
        }

        return null;
    }

    /// <summary>A held range.</summary>
    public sealed class Range(ClusterRanges owner, long first, long last) : IDisposable
    {
        private TaskCompletionSource? _left;

        public long First => first;

        public long Last => last;

        public Task Wait() => (_left ??= new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)).Task;

        public void Dispose()
        {
            lock (owner._gate)
            {
                owner._held.Remove(this);
                _left?.SetResult();
            }
        }
    }
}
