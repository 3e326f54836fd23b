using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>A file that an image may use and not close.</summary>
internal sealed class BorrowedFile(IStorageFile file) : IStorageFile
{
    public string Name => file.Name;

    public long Length => file.Length;

    public long AllocatedLength => file.AllocatedLength;

    public int RequestAlignment => file.RequestAlignment;

    public bool IsReadOnly => file.IsReadOnly;

    public int DiscardGranularity => file.DiscardGranularity;

    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default) => file.ReadAsync(offset, destination, cancellation);

    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default) =>
        file.WriteAsync(offset, source, options, cancellation);

    public ValueTask FlushAsync(CancellationToken cancellation = default) => file.FlushAsync(cancellation);

    public ValueTask ResizeAsync(long length, CancellationToken cancellation = default) => file.ResizeAsync(length, cancellation);

    public ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default) =>
        file.WriteZeroesAsync(offset, length, options, cancellation);

    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default) => file.DiscardAsync(offset, length, cancellation);

    public ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default) => file.GetStatusAsync(offset, length, cancellation);

    public ValueTask AllocateAsync(long offset, long length, CancellationToken cancellation = default) => file.AllocateAsync(offset, length, cancellation);

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;
}
