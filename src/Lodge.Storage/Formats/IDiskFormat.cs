using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats;

/// <summary>A disk image format: how it is recognized, opened, made and measured.</summary>
public interface IDiskFormat
{
    /// <summary>The name as qemu-img has it: <c>raw</c>, <c>qcow2</c>, <c>vpc</c>, <c>vhdx</c>, <c>vmdk</c>, <c>vdi</c>, <c>luks</c>.</summary>
    string Name { get; }

    /// <summary>Other names that users type, such as <c>vhd</c> for <c>vpc</c>.</summary>
    IReadOnlyList<string> OtherNames { get; }

    /// <summary>The options of <see cref="CreateAsync"/> (<c>-o name=value</c>), with qemu-img's names where it has them.</summary>
    IReadOnlyList<FormatOption> Options { get; }

    /// <summary>Whether a new image reads as zeroes; where not (luks), whoever fills it must write zeroes, too.</summary>
    bool NewImageReadsZero => true;

    /// <summary>How sure it is that a file is of this format: 0 (not) to 100, from its first bytes (up to 64 KiB), its last 512 bytes, and its length.</summary>
    int Probe(ReadOnlySpan<byte> head, ReadOnlySpan<byte> tail, long length);

    /// <summary>Opens an image; the returned disk owns <paramref name="file"/>.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.WrongFormat"/>, <see cref="DiskError.Corrupt"/>, <see cref="DiskError.Unsupported"/>, ...: then the caller still owns the file.</exception>
    ValueTask<IImage> OpenAsync(IStorageFile file, ImageContext context, CancellationToken cancellation = default);

    /// <summary>Writes a new, empty image of <paramref name="length"/> bytes into the empty <paramref name="file"/> and flushes it; the caller keeps the file.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/> with the option's name and value; <see cref="DiskError.Unsupported"/> for a size that the format cannot have.</exception>
    ValueTask CreateAsync(IStorageFile file, long length, FormatOptions options, ImageContext context, CancellationToken cancellation = default);

    /// <summary>Bytes that an image of this format takes for the content of <paramref name="source"/> (or an empty disk), and when all is allocated.</summary>
    ValueTask<ImageMeasure> MeasureAsync(long length, IDisk? source, FormatOptions options, CancellationToken cancellation = default);
}

/// <summary>Sizes of an image file to be, in bytes.</summary>
/// <param name="Required">With the source's present content.</param>
/// <param name="FullyAllocated">With every unit allocated.</param>
/// <param name="Bitmaps">For the source's dirty bitmaps, if it has any.</param>
public readonly record struct ImageMeasure(long Required, long FullyAllocated, long? Bitmaps = null);

/// <summary>What a format's opening or making needs besides its main file.</summary>
/// <param name="ReadOnly">Whether the image is opened for reading only (no byte of any file changes).</param>
/// <param name="Files">Opens the other files that the image names.</param>
/// <param name="Secret">The passphrase for an encrypted image, or null.</param>
/// <param name="OpenBacking">Whether the backing chain is opened, too; <c>info</c>, <c>check</c> and <c>rebase -u</c> do without.</param>
/// <param name="Checking">Whether it is opened to be checked or repaired: an image marked dirty or corrupt is opened all the same.</param>
/// <param name="DiscardToFile">Whether discards free space in the file.</param>
/// <param name="Snapshot">Name or id of the internal snapshot to open, for reading only, or null.</param>
public sealed record ImageContext(
    bool ReadOnly,
    IImageFiles Files,
    string? Secret = null,
    bool OpenBacking = true,
    bool Checking = false,
    bool DiscardToFile = true,
    string? Snapshot = null);

/// <summary>
/// The files beside an image: extents, external data, parents. Names come from the image and are hostile; implementations resolve them against the image's own
/// folder and refuse what policy forbids with <see cref="DiskError.Denied"/>, loops and too long chains with <see cref="DiskError.Corrupt"/>.
/// </summary>
public interface IImageFiles
{
    /// <summary>Opens a file that is part of the image (extent, external data).</summary>
    ValueTask<IStorageFile> OpenPartAsync(string name, bool writable, CancellationToken cancellation = default);

    /// <summary>Makes a file that is part of the image; it must not exist.</summary>
    ValueTask<IStorageFile> CreatePartAsync(string name, CancellationToken cancellation = default);

    /// <summary>Opens the parent (backing) image for reading only.</summary>
    /// <param name="name">As the image names it: a path relative to the image's folder, absolute, or an <c>nbd:</c> address.</param>
    /// <param name="format">The parent's format if the image says so; else null, which policy may refuse.</param>
    /// <param name="cancellation">Ends the wait.</param>
    ValueTask<IDisk> OpenBackingAsync(string name, string? format, CancellationToken cancellation = default);
}
