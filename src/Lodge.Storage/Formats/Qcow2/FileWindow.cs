using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>A part of a file as a disk for reading.</summary>
internal sealed class FileWindow(IStorageFile file, long start, long length) : IDisk
{
    public long Length => length;

    public int RequestAlignment => file.RequestAlignment;

    public bool IsReadOnly => true;

    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        return file.ReadAsync(start + offset, destination, cancellation);
    }

    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default) =>
        throw new DiskException(DiskError.ReadOnly, $"{file.Name}: this part is for reading only");

    public ValueTask FlushAsync(CancellationToken cancellation = default) => ValueTask.CompletedTask;

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;
}
