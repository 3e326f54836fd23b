namespace Lodge.Engine.Memory;

/// <summary>
/// Which pages of RAM were written, by the guest's processors or by devices, for migration and snapshots of running machines. Thread-safe.
/// </summary>
public interface IDirtyTracking
{
    /// <summary>Begins: writes from now on are remembered. Nothing happens when it has begun already.</summary>
    void Start();

    /// <summary>
    /// Sets a bit for each page written since <see cref="Start"/> or the last call; bits that are set already stay. What processors write meanwhile may come
    /// with this call or the next; after all processors have stopped, one call has everything.
    /// </summary>
    /// <param name="bitmap">A bit for each 4 KiB of the RAM's backing (offset / 4096), at least <see cref="WordCount"/> long.</param>
    void Collect(Span<ulong> bitmap);

    /// <summary>Ends and forgets.</summary>
    void Stop();

    /// <summary>Words of a bitmap that holds all of RAM.</summary>
    int WordCount { get; }
}
