namespace Lodge.Storage.Disks;

/// <summary>A disk that passes requests on to another one, which it owns; filters change what they want to.</summary>
public abstract class FilterDisk(IDisk inner) : IDisk, IDiscard, IWriteZeroes, IResize, IBlockStatus
{
    /// <summary>The disk below.</summary>
    public IDisk Inner => inner;

    /// <inheritdoc/>
    public long Length => inner.Length;

    /// <inheritdoc/>
    public int RequestAlignment => inner.RequestAlignment;

    /// <inheritdoc/>
    public bool IsReadOnly => inner.IsReadOnly;

    /// <inheritdoc/>
    public int DiscardGranularity => inner is IDiscard discard ? discard.DiscardGranularity : inner.RequestAlignment;

    /// <inheritdoc/>
    public virtual ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default) => inner.ReadAsync(offset, destination, cancellation);

    /// <inheritdoc/>
    public virtual ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default) =>
        inner.WriteAsync(offset, source, options, cancellation);

    /// <inheritdoc/>
    public virtual ValueTask FlushAsync(CancellationToken cancellation = default) => inner.FlushAsync(cancellation);

    /// <inheritdoc/>
    public virtual ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default) => inner.TryDiscardAsync(offset, length, cancellation);

    /// <inheritdoc/>
    public virtual ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default) =>
        inner.ZeroAsync(offset, length, options, cancellation);

    /// <inheritdoc/>
    public virtual ValueTask ResizeAsync(long length, CancellationToken cancellation = default) => inner.SetLengthAsync(length, cancellation);

    /// <inheritdoc/>
    public virtual ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default) => inner.StatusAsync(offset, length, cancellation);

    /// <inheritdoc/>
    public virtual ValueTask DisposeAsync() => inner.DisposeAsync();
}
