namespace Lodge.Storage.Disks;

/// <summary>
/// Orders requests that overlap: shared holders (reads) run beside each other, an exclusive one (a write that must read first) alone in its range. Waiters are
/// served in the order of their coming. Taking a free range allocates nothing.
/// </summary>
public sealed class RangeLock
{
    private readonly Lock _gate = new();
    private readonly List<Entry> _held = [];
    private readonly LinkedList<Waiter> _waiting = new();
    private long _nextId;

    /// <summary>Takes the bytes from <paramref name="start"/> up to <paramref name="end"/>; give the result to <see cref="Release"/>.</summary>
    public ValueTask<long> AcquireAsync(long start, long end, bool exclusive, CancellationToken cancellation = default)
    {
        Waiter waiter;
        lock (_gate)
        {
            var entry = new Entry(++_nextId, start, end, exclusive);
            if (IsFree(entry))
            {
                _held.Add(entry);
                return ValueTask.FromResult(entry.Id);
            }

            waiter = new Waiter(entry);
            waiter.Node = _waiting.AddLast(waiter);
        }

        return new ValueTask<long>(WaitAsync(waiter, cancellation));
    }

    /// <summary>Gives a range back.</summary>
    public void Release(long id)
    {
        List<Waiter>? ready = null;
        lock (_gate)
        {
            Remove(id);
            Wake(ref ready);
        }

        Complete(ready);
    }

    private static void Complete(List<Waiter>? ready)
    {
        foreach (var waiter in ready ?? [])
        {
            waiter.TrySetResult(waiter.Entry.Id);
        }
    }

    private async Task<long> WaitAsync(Waiter waiter, CancellationToken cancellation)
    {
        using var registration = cancellation.UnsafeRegister(
            static (state, token) => ((Waiter)state!).TrySetCanceled(token), waiter);
        try
        {
            return await waiter.Task.ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            List<Waiter>? ready = null;
            lock (_gate)
            {
                // It may have been given the range at the moment when the wait was ended.
                if (waiter.Node is { } node)
                {
                    _waiting.Remove(node);
                    waiter.Node = null;
                }
                else
                {
                    Remove(waiter.Entry.Id);
                }

                Wake(ref ready);
            }

            Complete(ready);
            throw;
        }
    }

    private void Remove(long id)
    {
        for (var index = 0; index < _held.Count; index++)
        {
            if (_held[index].Id == id)
            {
                _held[index] = _held[^1];
                _held.RemoveAt(_held.Count - 1);
                return;
            }
        }
    }

    private void Wake(ref List<Waiter>? ready)
    {
        for (var node = _waiting.First; node is not null;)
        {
            var (waiter, next) = (node.Value, node.Next);
            if (IsFree(waiter.Entry))
            {
                _waiting.Remove(node);
                waiter.Node = null;
                _held.Add(waiter.Entry);
                (ready ??= []).Add(waiter);
            }

            node = next;
        }
    }

    // Held ranges, and those of earlier waiters, so that nobody starves.
    private bool IsFree(Entry entry)
    {
        foreach (var held in _held)
        {
            if (held.Excludes(entry))
            {
                return false;
            }
        }

        foreach (var waiter in _waiting)
        {
            if (waiter.Entry.Id < entry.Id && waiter.Entry.Excludes(entry))
            {
                return false;
            }
        }

        return true;
    }

    private readonly record struct Entry(long Id, long Start, long End, bool Exclusive)
    {
        public bool Excludes(in Entry other) => (Exclusive || other.Exclusive) && Start < other.End && other.Start < End;
    }

    private sealed class Waiter(Entry entry) : TaskCompletionSource<long>(TaskCreationOptions.RunContinuationsAsynchronously)
    {
        public Entry Entry { get; } = entry;

        public LinkedListNode<Waiter>? Node { get; set; }
    }
}
