using Lodge.Storage.Disks;

namespace Lodge.Machine.Tests.Harness;

/// <summary>A disk in memory whose requests are done at once, or on another thread, or when the test lets them; and that fails as it is told.</summary>
public sealed class TestDisk(long length) : IDisk, IDiscard, IWriteZeroes, IResize
{
    private readonly List<TaskCompletionSource> _held = [];
    private int _running;

    /// <summary>What is stored.</summary>
    public byte[] Content { get; private set; } = new byte[length];

    /// <summary>Requests wait for <see cref="Release"/>.</summary>
    public bool Hold { get; set; }

    /// <summary>Requests end on another thread.</summary>
    public bool Asynchronous { get; set; }

    /// <summary>How a request at an offset fails; null: it does not. The operation is 'r', 'w', 'f', 'd' or 'z'.</summary>
    public Func<char, long, DiskError?> Fail { get; set; } = (_, _) => null;

    /// <summary>What was asked, in order.</summary>
    public List<string> Log { get; } = [];

    public int Flushes { get; private set; }

    /// <summary>Most requests that ran at once.</summary>
    public int MostRunning { get; private set; }

    /// <summary>Requests that are being held.</summary>
    public int Held
    {
        get
        {
            lock (_held)
            {
                return _held.Count;
            }
        }
    }

    public long Length => Content.Length;

    public int RequestAlignment { get; set; } = 1;

    public bool IsReadOnly { get; set; }

    public int DiscardGranularity => 4096;

    /// <summary>Lets the newest (or all) held requests go on.</summary>
    public void Release(int count = int.MaxValue)
    {
        List<TaskCompletionSource> go;
        lock (_held)
        {
            int first = Math.Max(0, _held.Count - count);
            go = _held.GetRange(first, _held.Count - first);
            _held.RemoveRange(first, go.Count);
        }
        go.Reverse();
        go.ForEach(one => one.TrySetResult());
    }

    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default) =>
        Run('r', offset, destination.Length, () => destination.CopyFrom(Content.AsSpan((int)offset)), cancellation);

    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default) =>
        Run('w', offset, source.Length, () => source.CopyTo(Content.AsSpan((int)offset)), cancellation, options != 0 ? " fua" : "");

    public ValueTask FlushAsync(CancellationToken cancellation = default) => Run('f', 0, 0, () => Flushes++, cancellation);

    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default) =>
        Run('d', offset, length, () => Content.AsSpan((int)offset, (int)length).Clear(), cancellation);

    public ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default) =>
        Run('z', offset, length, () => Content.AsSpan((int)offset, (int)length).Clear(), cancellation, options.HasFlag(ZeroOptions.MayUnmap) ? " unmap" : "");

    public ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        byte[] content = Content;
        Array.Resize(ref content, (int)length);
        Content = content;
        return ValueTask.CompletedTask;
    }

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    private ValueTask Run(char operation, long offset, long length, Action work, CancellationToken cancellation, string more = "")
    {
        TaskCompletionSource? hold = null;
        lock (_held)
        {
            Log.Add($"{operation} {offset} {length}{more}");
            MostRunning = Math.Max(MostRunning, ++_running);
            if (Hold)
            {
                _held.Add(hold = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously));
            }
        }
        if (hold is null && !Asynchronous)
        {
            End();
            return ValueTask.CompletedTask;
        }
        return new ValueTask(Later());

        async Task Later()
        {
            if (hold is not null)
            {
                await using (cancellation.Register(() => hold.TrySetCanceled(cancellation)))
                {
                    try
                    {
                        await hold.Task.ConfigureAwait(false);
                    }
                    catch (OperationCanceledException)
                    {
                        lock (_held)
                        {
                            _held.Remove(hold);
                            _running--;
                        }
                        throw;
                    }
                }
            }
            else
            {
                await Task.Yield();
            }
            End();
        }

        void End()
        {
            lock (_held)
            {
                _running--;
            }
            if (offset < 0 || length < 0 || offset + length > Content.Length)
            {
                throw new DiskException(DiskError.OutOfRange, "beyond the end");
            }
            if (Fail(operation, offset) is { } error)
            {
                throw new DiskException(error, "told to fail");
            }
            work();
        }
    }
}
