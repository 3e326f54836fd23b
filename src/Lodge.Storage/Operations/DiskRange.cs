using Lodge.Storage.Disks;

namespace Lodge.Storage.Operations;

/// <summary>A stretch of a disk as a disk of its own, for reading: the source of <c>dd</c> with a start or an end.</summary>
public sealed class DiskRange(IDisk disk, long start, long length) : IDisk, IBlockStatus
{
    /// <summary>The whole disk.</summary>
    public IDisk Disk => disk;

    /// <inheritdoc/>
    public long Length => length;

    /// <inheritdoc/>
    public int RequestAlignment => disk.RequestAlignment;

    /// <inheritdoc/>
    public bool IsReadOnly => true;

    /// <inheritdoc/>
    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        return disk.ReadAsync(start + offset, destination, cancellation);
    }

    /// <inheritdoc/>
    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default) =>
        throw new DiskException(DiskError.ReadOnly, "a stretch of a disk is for reading only");

    /// <inheritdoc/>
    public ValueTask FlushAsync(CancellationToken cancellation = default) => ValueTask.CompletedTask;

    /// <inheritdoc/>
    public ValueTask<BlockExtent> GetStatusAsync(long offset, long count, CancellationToken cancellation = default) => disk.StatusAsync(start + offset, count, cancellation);

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => ValueTask.CompletedTask;
}
