using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Ovf;

/// <summary>A file in an archive, read where it stands; closing it leaves the archive open.</summary>
internal sealed class OvaMember(IStorageFile archive, string name, long start, long length) : IStorageFile
{
    public string Name => $"{archive.Name}:{name}";

    public long Length => length;

    public long AllocatedLength => length;

    public int RequestAlignment => archive.RequestAlignment;

    public bool IsReadOnly => true;

    public int DiscardGranularity => 1;

    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        return archive.ReadAsync(start + offset, destination, cancellation);
    }

    public ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        return archive.GetStatusAsync(start + offset, length, cancellation);
    }

    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default) => throw Refusal();

    public ValueTask FlushAsync(CancellationToken cancellation = default) => ValueTask.CompletedTask;

    public ValueTask ResizeAsync(long length, CancellationToken cancellation = default) => throw Refusal();

    public ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default) => throw Refusal();

    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default) => throw Refusal();

    public ValueTask AllocateAsync(long offset, long length, CancellationToken cancellation = default) => throw Refusal();

    public ValueTask DisposeAsync() => ValueTask.CompletedTask;

    private DiskException Refusal() => new(DiskError.ReadOnly, $"{Name}: files in an archive are only read");
}

/// <summary>The files beside an image in an archive: none that it may name.</summary>
internal sealed class OvaFiles(string path) : IImageFiles
{
    public ValueTask<IStorageFile> OpenPartAsync(string name, bool writable, CancellationToken cancellation = default) => throw Refusal(name);

    public ValueTask<IStorageFile> CreatePartAsync(string name, CancellationToken cancellation = default) => throw Refusal(name);

    public ValueTask<IDisk> OpenBackingAsync(string name, string? format, CancellationToken cancellation = default) => throw Refusal(name);

    private DiskException Refusal(string name) => new(DiskError.Denied, $"{path}: a disk in an archive names another file, {name}");
}
