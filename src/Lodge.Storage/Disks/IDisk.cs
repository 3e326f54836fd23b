namespace Lodge.Storage.Disks;

/// <summary>What a write asks for beyond the transfer.</summary>
[Flags]
public enum WriteOptions
{
    /// <summary>The data may stay in caches until the next flush.</summary>
    None = 0,

    /// <summary>Force unit access: the data is durable when the write completes.</summary>
    ForceUnitAccess = 1,
}

/// <summary>
/// A disk: an array of bytes that is read and written at offsets. Everything that holds or filters data is one: a host file, an opened image, a chain of
/// images, an NBD client, a rate limiter. What a disk can do besides is told by the capability interfaces that it implements (<see cref="IDiscard"/>,
/// <see cref="IWriteZeroes"/>, <see cref="IResize"/>, <see cref="IBlockStatus"/>, ...); <see cref="DiskOperations"/> has the fallbacks.
/// </summary>
/// <remarks>
/// Any offset and length in bytes is accepted (implementations read, modify and write where their medium has a granularity). Requests may run at the same
/// time, from any thread; overlapping requests that run at once take effect in any order. A request lies within <see cref="Length"/>, else it fails with
/// <see cref="DiskError.OutOfRange"/>. All failures are <see cref="DiskException"/> or <see cref="OperationCanceledException"/>. A completed write is seen
/// by every later read; it is durable after the next completed flush that began after it.
/// </remarks>
public interface IDisk : IAsyncDisposable
{
    /// <summary>Size in bytes as a guest sees it.</summary>
    long Length { get; }

    /// <summary>Granularity in bytes, a power of two, at which requests cost no read-modify-write.</summary>
    int RequestAlignment { get; }

    /// <summary>Whether writes, discards and resizes fail with <see cref="DiskError.ReadOnly"/>.</summary>
    bool IsReadOnly { get; }

    /// <summary>Fills <paramref name="destination"/> from <paramref name="offset"/> (bytes).</summary>
    ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default);

    /// <summary>Writes <paramref name="source"/>, which is not modified, at <paramref name="offset"/> (bytes).</summary>
    ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default);

    /// <summary>Makes every write that completed before durable against power loss.</summary>
    ValueTask FlushAsync(CancellationToken cancellation = default);
}
