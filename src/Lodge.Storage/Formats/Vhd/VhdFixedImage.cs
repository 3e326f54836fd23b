using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vhd;

/// <summary>An image that tells another, differencing one who it is.</summary>
internal interface IVhdIdentity
{
    /// <summary>The footer.</summary>
    VhdFooter Footer { get; }

    /// <summary>The disk's identity.</summary>
    Guid UniqueId => Footer.UniqueId;
}

/// <summary>A fixed disk: the content, then the footer.</summary>
internal sealed class VhdFixedImage : IImage, IDiscard, IWriteZeroes, IResize, IVhdIdentity
{
    private readonly ImageContext _context;
    private long _length;
    private int _footerLength;

    public VhdFixedImage(IStorageFile file, VhdFooter footer, int footerLength, ImageContext context)
    {
        File = file;
        Footer = footer;
        _context = context;
        _footerLength = footerLength;
        var room = file.Length - footerLength;

        // The geometry of some products tells a larger disk than the file holds.
        _length = footer.Length <= room ? footer.Length : (long)(footer.CurrentSize / 512 * 512);
        if (_length > room)
        {
            throw new DiskException(DiskError.Corrupt, $"the file is too short for a fixed disk of {_length} bytes");
        }
    }

    public string FormatName => "vpc";

    public IStorageFile File { get; }

    public VhdFooter Footer { get; private set; }

    public long Length => Volatile.Read(ref _length);

    public int RequestAlignment => File.RequestAlignment;

    public bool IsReadOnly => _context.ReadOnly || File.IsReadOnly;

    public int DiscardGranularity => File.DiscardGranularity;

    public ImageInformation Describe() => new() { VirtualSize = Length, FormatSpecific = VhdImage.DescribeFooter(Footer) };

    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        return File.ReadAsync(offset, destination, cancellation);
    }

    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, source.Length);
        return File.WriteAsync(offset, source, options, cancellation);
    }

    public ValueTask FlushAsync(CancellationToken cancellation = default) => File.FlushAsync(cancellation);

    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        return _context.DiscardToFile ? File.DiscardAsync(offset, length, cancellation) : ValueTask.CompletedTask;
    }

    public ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        return File.WriteZeroesAsync(offset, length, options, cancellation);
    }

    public async ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        var extent = await File.GetStatusAsync(offset, length, cancellation).ConfigureAwait(false);
        return extent with { State = extent.State | BlockState.Allocated };
    }

    /// <inheritdoc/>
    /// <remarks>The new footer is durable at its place before the old one goes: the file ends in one at any moment.</remarks>
    public async ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        VhdFormat.CheckLength(length);
        var size = (length + 511) / 512 * 512;
        var old = File.Length - _footerLength;
        var footer = Footer.WithLength(size);
        if (size > old)
        {
            await File.WriteAsync(size, footer.Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
            await File.FlushAsync(cancellation).ConfigureAwait(false);
            await File.WriteZeroesAsync(old, Math.Min(VhdFooter.Size, size - old), ZeroOptions.None, cancellation).ConfigureAwait(false);
        }
        else
        {
            await File.WriteAsync(size, footer.Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
            await File.FlushAsync(cancellation).ConfigureAwait(false);
            await File.ResizeAsync(size + VhdFooter.Size, cancellation).ConfigureAwait(false);
        }

        await File.FlushAsync(cancellation).ConfigureAwait(false);
        Footer = footer;
        _footerLength = VhdFooter.Size;
        Volatile.Write(ref _length, size);
    }

    public ValueTask DisposeAsync() => File.DisposeAsync();
}
