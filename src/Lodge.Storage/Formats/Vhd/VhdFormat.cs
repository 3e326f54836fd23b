using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats.Blocks;

namespace Lodge.Storage.Formats.Vhd;

/// <summary>The format vpc, Virtual PC's and Hyper-V's VHD (Microsoft, Virtual Hard Disk Image Format Specification, version 1.0): fixed, dynamic, and differencing disks.</summary>
public sealed class VhdFormat : IDiskFormat
{
    /// <summary>Largest disk in bytes: sectors are counted in 32 bits, and the last values are kept free, as Hyper-V does (2040 GiB).</summary>
    public const long MaximumLength = 0xFF00_0000L * 512;

    private const int DynamicTableOffset = 1536;
    private const int MaximumEntries = 1 << 24;

    /// <inheritdoc/>
    public string Name => "vpc";

    /// <inheritdoc/>
    public IReadOnlyList<string> OtherNames => ["vhd"];

    /// <inheritdoc/>
    public IReadOnlyList<FormatOption> Options { get; } =
    [
        new("subformat", FormatOptionKind.Choice, "Kind of image", "dynamic") { Choices = ["dynamic", "fixed"] },
        new("force_size", FormatOptionKind.Switch, "Keep the size as given instead of rounding it up to cylinders, heads and sectors", "off"),
        new("block_size", FormatOptionKind.Size, "Bytes in a block, a power of two from 4k to 256M", "2M"),
        new("backing_file", FormatOptionKind.Text, "The parent, a vpc image; makes a differencing image"),
        new("backing_fmt", FormatOptionKind.Choice, "The parent's format", "vpc") { Choices = ["vpc", "vhd"] },
    ];

    /// <inheritdoc/>
    public int Probe(ReadOnlySpan<byte> head, ReadOnlySpan<byte> tail, long length) =>
        head.StartsWith(VhdFooter.Cookie) ? 90 : tail.StartsWith(VhdFooter.Cookie) || (tail.Length > 0 && tail[1..].StartsWith(VhdFooter.Cookie)) ? 80 : 0;

    /// <inheritdoc/>
    public async ValueTask<IImage> OpenAsync(IStorageFile file, ImageContext context, CancellationToken cancellation = default)
    {
        IDisk? parent = null;
        try
        {
            var (footer, length) = await ReadFooterAsync(file, cancellation).ConfigureAwait(false);
            footer.Validate();
            if (footer.DiskType == VhdDiskType.Fixed)
            {
                return new VhdFixedImage(file, footer, length, context);
            }

            var header = await ReadHeaderAsync(file, footer, cancellation).ConfigureAwait(false);
            var names = footer.DiskType == VhdDiskType.Differencing ? await VhdParentName.ReadAsync(file, header, cancellation).ConfigureAwait(false) : [];
            var table = await LoadTableAsync(file, footer, header, cancellation).ConfigureAwait(false);
            if (names.Count > 0 && context.OpenBacking)
            {
                parent = await OpenParentAsync(names, header, context.Files, cancellation).ConfigureAwait(false);
            }
            else if (footer.DiskType == VhdDiskType.Differencing && context.OpenBacking)
            {
                throw new DiskException(DiskError.Corrupt, "a differencing disk does not name its parent");
            }

            return new VhdImage(file, footer, header, table, context, parent, names.Count > 0 ? names[0] : null);
        }
        catch (DiskException failure)
        {
            await (parent?.DisposeAsync() ?? ValueTask.CompletedTask).ConfigureAwait(false);
            throw failure.Message.StartsWith(file.Name, StringComparison.Ordinal) ? failure : new DiskException(failure.Error, $"{file.Name}: {failure.Message}", failure);
        }
    }

    /// <inheritdoc/>
    public async ValueTask CreateAsync(IStorageFile file, long length, FormatOptions options, ImageContext context, CancellationToken cancellation = default)
    {
        var backing = options.Text("backing_file");
        var type = backing is not null ? VhdDiskType.Differencing : options.Text("subformat") == "fixed" ? VhdDiskType.Fixed : VhdDiskType.Dynamic;
        var footer = NewFooter(length, options, type);
        if (type == VhdDiskType.Fixed)
        {
            await file.ResizeAsync((long)footer.CurrentSize, cancellation).ConfigureAwait(false);
            await file.WriteAsync((long)footer.CurrentSize, footer.Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
            await file.FlushAsync(cancellation).ConfigureAwait(false);
            return;
        }

        var blockSize = BlockSizeOf(options);
        var count = (int)Math.Min(CountBlocks((long)footer.CurrentSize, blockSize), MaximumEntries + 1);
        CheckEntries(count);
        var header = new VhdHeader { TableOffset = DynamicTableOffset, MaxTableEntries = (uint)count, BlockSize = (uint)blockSize };
        var table = new BlockTable(DynamicTableOffset, count, 4, true, VhdImage.Unused);
        var end = TableEnd(count);
        if (backing is not null)
        {
            var identity = await IdentifyParentAsync(backing, context.Files, cancellation).ConfigureAwait(false);
            header = await VhdImage.WriteParentAsync(file, header, backing, identity, end, cancellation).ConfigureAwait(false);
            end += VhdParentName.Space;
        }

        await file.WriteAsync(0, footer.Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
        await file.WriteAsync((long)footer.DataOffset, header.Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
        await VhdImage.WriteTableAsync(file, table, 0, count, cancellation).ConfigureAwait(false);
        await file.WriteAsync(end, footer.Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
        await file.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public async ValueTask<ImageMeasure> MeasureAsync(long length, IDisk? source, FormatOptions options, CancellationToken cancellation = default)
    {
        var fixedSize = options.Text("subformat") == "fixed" && options.Text("backing_file") is null;
        var size = (long)NewFooter(length, options, VhdDiskType.Dynamic).CurrentSize;
        if (fixedSize)
        {
            return new ImageMeasure(size + VhdFooter.Size, size + VhdFooter.Size);
        }

        var blockSize = BlockSizeOf(options);
        var blocks = CountBlocks(size, blockSize);
        CheckEntries(blocks);
        var metadata = TableEnd((int)blocks) + VhdFooter.Size + (options.Text("backing_file") is null ? 0 : VhdParentName.Space);
        var stride = VhdImage.StrideOf(blockSize);
        return new ImageMeasure(
            metadata + (await BlockMeasure.CountAsync(source, blockSize, cancellation).ConfigureAwait(false) * stride),
            metadata + (blocks * stride));
    }

    /// <summary>Opens the first parent that can be found and compares its identity with the one that the header keeps.</summary>
    internal static async ValueTask<IDisk> OpenParentAsync(IReadOnlyList<string> names, VhdHeader header, IImageFiles files, CancellationToken cancellation)
    {
        DiskException? first = null;
        foreach (var name in names)
        {
            IDisk parent;
            try
            {
                parent = await files.OpenBackingAsync(name, "vpc", cancellation).ConfigureAwait(false);
            }
            catch (DiskException failure) when (failure.Error is DiskError.NotFound or DiskError.Denied)
            {
                first ??= failure;
                continue;
            }

            if (parent is IVhdIdentity { UniqueId: var id } && id == header.ParentUniqueId)
            {
                return parent;
            }

            await parent.DisposeAsync().ConfigureAwait(false);
            throw new DiskException(
                DiskError.Corrupt,
                $"the parent {name} is not the disk {header.ParentUniqueId} on which this one was made; if it is right all the same, say so with: lodge image rebase -u -b {name} -F vpc");
        }

        throw first!;
    }

    internal static async ValueTask<VhdFooter> IdentifyParentAsync(string name, IImageFiles files, CancellationToken cancellation)
    {
        var parent = await files.OpenBackingAsync(name, "vpc", cancellation).ConfigureAwait(false);
        await using (parent.ConfigureAwait(false))
        {
            return parent is IVhdIdentity identity
                ? identity.Footer
                : throw new DiskException(DiskError.Unsupported, $"the parent of an image of the format vpc must be one, too; {name} is not");
        }
    }

    internal static void CheckLength(long length)
    {
        if (length is < 0 or > MaximumLength)
        {
            throw new DiskException(DiskError.Unsupported, $"an image of the format vpc cannot have {length} bytes; {MaximumLength} (2040 GiB) are the most");
        }
    }

    internal static void CheckEntries(long count)
    {
        if (count > MaximumEntries)
        {
            throw new DiskException(DiskError.Unsupported, $"{count} blocks are too many; {MaximumEntries} are the most, so the blocks must be larger");
        }
    }

    internal static long CountBlocks(long length, int blockSize) => (length + blockSize - 1) / blockSize;

    private static long TableEnd(int count) => DynamicTableOffset + (((count * 4L) + 511) / 512 * 512);

    private static VhdFooter NewFooter(long length, FormatOptions options, VhdDiskType type)
    {
        CheckLength(length);
        return VhdFooter.Create(length, options.Switch("force_size", false), type);
    }

    private static int BlockSizeOf(FormatOptions options)
    {
        var size = options.Size("block_size", VhdHeader.DefaultBlockSize);
        return size is >= 4096 and <= 256 << 20 && System.Numerics.BitOperations.IsPow2(size)
            ? (int)size
            : throw new DiskException(DiskError.InvalidOption, $"option 'block_size' has the value '{size}'; give a power of two from 4k to 256M");
    }

    /// <summary>The footer that holds, and its length (511 in images of old versions of Virtual PC).</summary>
    /// <remarks>
    /// The guest of a fixed disk writes the file's first sector, and that of a dynamic disk may, after a crash, have written its last one. So neither alone is
    /// believed when they contradict each other about the kind of disk.
    /// </remarks>
    private static async ValueTask<(VhdFooter Footer, int Length)> ReadFooterAsync(IStorageFile file, CancellationToken cancellation)
    {
        if (file.Length < VhdFooter.Size - 1)
        {
            throw new DiskException(DiskError.WrongFormat, "the file is too short for an image of the format vpc");
        }

        var tail = await file.ReadBytesAsync(Math.Max(file.Length - VhdFooter.Size, 0), VhdFooter.Size, cancellation).ConfigureAwait(false);
        var head = await file.ReadBytesAsync(0, VhdFooter.Size, cancellation).ConfigureAwait(false);
        var length = VhdFooter.Size;
        var last = VhdFooter.TryParse(tail);
        if (last is null && file.Length % 512 == VhdFooter.Size - 1)
        {
            length = VhdFooter.Size - 1;
            last = VhdFooter.TryParse(tail.AsSpan(tail.Length - length));
        }

        var first = VhdFooter.TryParse(head) is { DiskType: not VhdDiskType.Fixed } copy ? copy : null;
        if (first is not null && last is { DiskType: VhdDiskType.Fixed } && file.Length > VhdFooter.Size)
        {
            throw new DiskException(DiskError.Corrupt, "it ends like a fixed disk and begins like a dynamic one");
        }

        if ((first ?? last) is { } footer)
        {
            return (footer, length);
        }

        throw head.AsSpan().StartsWith(VhdFooter.Cookie) || tail.AsSpan().StartsWith(VhdFooter.Cookie)
            ? new DiskException(DiskError.Corrupt, "the footer's checksum is wrong, and so is its copy's")
            : new DiskException(DiskError.WrongFormat, "it is not an image of the format vpc");
    }

    private static async ValueTask<VhdHeader> ReadHeaderAsync(IStorageFile file, VhdFooter footer, CancellationToken cancellation)
    {
        if (footer.DataOffset < VhdFooter.Size || footer.DataOffset > (ulong)Math.Max(file.Length - VhdHeader.Size, 0))
        {
            throw new DiskException(DiskError.Corrupt, $"the dynamic disk header at {footer.DataOffset} lies outside of the file");
        }

        return VhdHeader.Parse(await file.ReadBytesAsync((long)footer.DataOffset, VhdHeader.Size, cancellation).ConfigureAwait(false));
    }

    private static async ValueTask<BlockTable> LoadTableAsync(IStorageFile file, VhdFooter footer, VhdHeader header, CancellationToken cancellation)
    {
        var count = CountBlocks(footer.Length, (int)header.BlockSize);
        if (footer.Length > MaximumLength || count > header.MaxTableEntries)
        {
            throw new DiskException(DiskError.Corrupt, $"{header.MaxTableEntries} blocks of {header.BlockSize} bytes are too few for {footer.Length} bytes");
        }

        CheckEntries(count);
        if (header.TableOffset > (ulong)file.Length || (count * 4) > file.Length - (long)header.TableOffset)
        {
            throw new DiskException(DiskError.Corrupt, $"the block allocation table at {header.TableOffset} reaches beyond the file's end");
        }

        var table = new BlockTable((long)header.TableOffset, (int)count, 4, true, VhdImage.Unused);
        await table.LoadAsync(file, cancellation).ConfigureAwait(false);
        return table;
    }
}
