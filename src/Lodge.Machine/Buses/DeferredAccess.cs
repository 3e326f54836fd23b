namespace Lodge.Machine.Buses;

/// <summary>
/// An access that its handler completes later. The handler, on the vCPU thread and inside <see cref="IIoHandler.Read"/> or
/// <see cref="IIoHandler.Write"/>, calls <see cref="Begin"/>, hands the object to whoever will finish the work, and returns
/// <see cref="IoResult.Deferred"/>; the bus then waits on that thread, with no lock held, until <see cref="Complete"/>.
/// A device that defers must complete every access within bounded time on its own, and at the latest in its <see cref="IDevice.Stop"/>:
/// a processor that waits here cannot be stopped otherwise.
/// </summary>
public sealed class DeferredAccess
{
    [ThreadStatic]
    private static DeferredAccess? t_current;

    private readonly object _gate = new();
    private ulong _data;
    private int _length;
    private bool _completed;

    private DeferredAccess()
    {
    }

    /// <summary>Declares that the access in progress on this thread will be completed later.</summary>
    public static DeferredAccess Begin() => t_current = new DeferredAccess();

    /// <summary>
    /// Completes the access; any thread, before or after the handler returned. For a load, <paramref name="data"/> is what the guest reads
    /// (missing bytes read as ones); for a store it is empty. A second completion is ignored.
    /// </summary>
    public void Complete(ReadOnlySpan<byte> data = default)
    {
        lock (_gate)
        {
            if (_completed)
            {
                return;
            }
            _length = Math.Min(data.Length, sizeof(ulong));
            for (int i = 0; i < _length; i++)
            {
                _data |= (ulong)data[i] << (i * 8);
            }
            _completed = true;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Forgets what an earlier access on this thread left behind.</summary>
    internal static void Forget() => t_current = null;

    /// <summary>Takes the access that the handler just deferred on this thread; null when it deferred without <see cref="Begin"/>.</summary>
    internal static DeferredAccess? Take()
    {
        DeferredAccess? current = t_current;
        t_current = null;
        return current;
    }

    /// <summary>Waits for completion and copies the answer; empty <paramref name="data"/> for a store.</summary>
    internal void Wait(Span<byte> data)
    {
        lock (_gate)
        {
            while (!_completed)
            {
                Monitor.Wait(_gate);
            }
            for (int i = 0; i < data.Length; i++)
            {
                data[i] = i < _length ? (byte)(_data >> (i * 8)) : (byte)0xFF;
            }
        }
    }
}
