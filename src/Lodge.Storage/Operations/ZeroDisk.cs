using Lodge.Storage.Disks;

namespace Lodge.Storage.Operations;

/// <summary>A disk of zeroes, for reading: fills up a source to its target's units.</summary>
public sealed class ZeroDisk(long length) : IDisk, IBlockStatus
{
    /// <inheritdoc/>
    public long Length => length;

    /// <inheritdoc/>
    public int RequestAlignment => 1;

    /// <inheritdoc/>
    public bool IsReadOnly => true;

    /// <inheritdoc/>
    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        destination.Clear();
        return ValueTask.CompletedTask;
    }

    /// <inheritdoc/>
    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default) =>
        throw new DiskException(DiskError.ReadOnly, "a disk of zeroes is for reading only");

    /// <inheritdoc/>
    public ValueTask FlushAsync(CancellationToken cancellation = default) => ValueTask.CompletedTask;

    /// <inheritdoc/>
    public ValueTask<BlockExtent> GetStatusAsync(long offset, long count, CancellationToken cancellation = default) =>
        ValueTask.FromResult(new BlockExtent(count, BlockState.Zero | BlockState.Allocated));

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => ValueTask.CompletedTask;
}
