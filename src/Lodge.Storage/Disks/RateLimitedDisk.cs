namespace Lodge.Storage.Disks;

/// <summary>
/// Holds a disk's traffic to limits by token buckets. Reads wait in their order, and so do writes (with zeroing and discarding, which cost an operation and no
/// bytes); waiting blocks no thread. Flushes pass.
/// </summary>
public sealed class RateLimitedDisk : FilterDisk
{
    private readonly Lock _gate = new();
    private readonly TimeProvider _time;
    private readonly TokenBucket _bytes;
    private readonly TokenBucket _operations;
    private readonly Direction _reads;
    private readonly Direction _writes;
    private DiskLimits _limits = DiskLimits.None;
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private bool _serving;

    /// <summary>Takes ownership of <paramref name="inner"/>.</summary>
    public RateLimitedDisk(IDisk inner, DiskLimits limits, TimeProvider? time = null)
        : base(inner)
    {
        _time = time ?? TimeProvider.System;
        _bytes = new TokenBucket(_time);
        _operations = new TokenBucket(_time);
        _reads = new Direction(_time);
        _writes = new Direction(_time);
        Limits = limits;
    }

    /// <summary>The limits; a change holds at once, also for requests that wait.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>.</exception>
    public DiskLimits Limits
    {
        get
        {
            lock (_gate)
            {
                return _limits;
            }
        }

        set
        {
            value.Check();
            lock (_gate)
            {
                _limits = value;
                _bytes.Set(value.Bytes);
                _operations.Set(value.Operations);
                _reads.Bytes.Set(value.ReadBytes);
                _reads.Operations.Set(value.ReadOperations);
                _writes.Bytes.Set(value.WriteBytes);
                _writes.Operations.Set(value.WriteOperations);
                WakeServer();
            }
        }
    }

    /// <inheritdoc/>
    public override ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        var admitted = AdmitAsync(_reads, destination.Length, cancellation);
        return admitted.IsCompletedSuccessfully ? Inner.ReadAsync(offset, destination, cancellation) : LaterAsync();

        async ValueTask LaterAsync()
        {
            await admitted.ConfigureAwait(false);
            await Inner.ReadAsync(offset, destination, cancellation).ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    public override ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        var admitted = AdmitAsync(_writes, source.Length, cancellation);
        return admitted.IsCompletedSuccessfully ? Inner.WriteAsync(offset, source, options, cancellation) : LaterAsync();

        async ValueTask LaterAsync()
        {
            await admitted.ConfigureAwait(false);
            await Inner.WriteAsync(offset, source, options, cancellation).ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    public override async ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default)
    {
        await AdmitAsync(_writes, 0, cancellation).ConfigureAwait(false);
        await base.DiscardAsync(offset, length, cancellation).ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public override async ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        await AdmitAsync(_writes, 0, cancellation).ConfigureAwait(false);
        await base.WriteZeroesAsync(offset, length, options, cancellation).ConfigureAwait(false);
    }

    private ValueTask AdmitAsync(Direction direction, long bytes, CancellationToken cancellation)
    {
        Waiter waiter;
        lock (_gate)
        {
            if (direction.Waiting.Count == 0 && WaitTime(direction, bytes) == TimeSpan.Zero)
            {
                Take(direction, bytes);
                return ValueTask.CompletedTask;
            }

            waiter = new Waiter(bytes);
            direction.Waiting.AddLast(waiter);
            if (!_serving)
            {
                _serving = true;
                _ = ServeAsync();
            }
            else if (direction.Waiting.Count == 1)
            {
                // The first of its direction may be due before the one whose time is waited for.
                WakeServer();
            }
        }

        return new ValueTask(WaitAsync(direction, waiter, cancellation));
    }

    private async Task WaitAsync(Direction direction, Waiter waiter, CancellationToken cancellation)
    {
        using var registration = cancellation.UnsafeRegister(static (state, token) => ((Waiter)state!).TrySetCanceled(token), waiter);
        try
        {
            await waiter.Task.ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            lock (_gate)
            {
                direction.Waiting.Remove(waiter);
            }

            throw;
        }
    }

    private void WakeServer()
    {
        _changed.SetResult();
        _changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
    }

    /// <summary>Lets waiting requests go as their time comes, and ends when none is left.</summary>
    private async Task ServeAsync()
    {
        while (true)
        {
            TimeSpan wait;
            Task changed;
            lock (_gate)
            {
                wait = Serve(_reads) is var reads && Serve(_writes) is var writes && reads < writes ? reads : writes;
                if (_reads.Waiting.Count == 0 && _writes.Waiting.Count == 0)
                {
                    _serving = false;
                    return;
                }

                changed = _changed.Task;
            }

            using var stop = new CancellationTokenSource();
            await Task.WhenAny(Task.Delay(wait, _time, stop.Token), changed).ConfigureAwait(false);
            await stop.CancelAsync().ConfigureAwait(false);
        }
    }

    /// <summary>Lets all go that may; how long the next has to wait.</summary>
    private TimeSpan Serve(Direction direction)
    {
        while (direction.Waiting.First is { } first)
        {
            var wait = WaitTime(direction, first.Value.Bytes);
            if (wait > TimeSpan.Zero)
            {
                return wait;
            }

            direction.Waiting.RemoveFirst();
            if (first.Value.TrySetResult())
            {
                Take(direction, first.Value.Bytes);
            }
        }

        return TimeSpan.MaxValue;
    }

    private TimeSpan WaitTime(Direction direction, long bytes)
    {
        var wait = _bytes.Wait(bytes);
        foreach (var other in (ReadOnlySpan<TimeSpan>)[_operations.Wait(1), direction.Bytes.Wait(bytes), direction.Operations.Wait(1)])
        {
            wait = other > wait ? other : wait;
        }

        return wait;
    }

    private void Take(Direction direction, long bytes)
    {
        _bytes.Take(bytes);
        _operations.Take(1);
        direction.Bytes.Take(bytes);
        direction.Operations.Take(1);
    }

    private sealed class Direction(TimeProvider time)
    {
        public TokenBucket Bytes { get; } = new(time);

        public TokenBucket Operations { get; } = new(time);

        public LinkedList<Waiter> Waiting { get; } = new();
    }

    private sealed class Waiter(long bytes) : TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously)
    {
        public long Bytes => bytes;
    }
}
