using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Raw;

/// <summary>A raw image: passes everything on to its file, discards only if they shall free room there.</summary>
internal sealed class RawImage(IStorageFile file, bool discard) : IImage, IDiscard, IWriteZeroes, IResize
{
    public string FormatName => "raw";

    public IStorageFile File => file;

    public long Length => file.Length;

    public int RequestAlignment => file.RequestAlignment;

    public bool IsReadOnly => file.IsReadOnly;

    public int DiscardGranularity => file.DiscardGranularity;

    public ImageInformation Describe() => new() { VirtualSize = Length };

    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default) => file.ReadAsync(offset, destination, cancellation);

    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, source.Length);
        return file.WriteAsync(offset, source, options, cancellation);
    }

    public ValueTask FlushAsync(CancellationToken cancellation = default) => file.FlushAsync(cancellation);

    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        return discard ? file.DiscardAsync(offset, length, cancellation) : ValueTask.CompletedTask;
    }

    public ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        return file.WriteZeroesAsync(offset, length, discard ? options : options & ~ZeroOptions.MayUnmap, cancellation);
    }

    public ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        return file.ResizeAsync(length, cancellation);
    }

    public ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default) => file.GetStatusAsync(offset, length, cancellation);

    public ValueTask DisposeAsync() => file.DisposeAsync();
}
