using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats.Blocks;

namespace Lodge.Storage.Formats.Vdi;

/// <summary>The format vdi, VirtualBox's own disk image, header version 1.1: dynamic and static (all blocks allocated).</summary>
public sealed class VdiFormat : IDiskFormat
{
    private const int MaximumBlocks = 1 << 24;
    private const long DataAlignment = 1 << 20;

    /// <inheritdoc/>
    public string Name => "vdi";

    /// <inheritdoc/>
    public IReadOnlyList<string> OtherNames => [];

    /// <inheritdoc/>
    public IReadOnlyList<FormatOption> Options { get; } =
    [
        new("static", FormatOptionKind.Switch, "Allocate all blocks when the image is made", "off"),
        new("preallocation", FormatOptionKind.Choice, "metadata is the same as static=on", "off") { Choices = ["off", "metadata"] },
    ];

    /// <inheritdoc/>
    public int Probe(ReadOnlySpan<byte> head, ReadOnlySpan<byte> tail, long length) => VdiHeader.IsOne(head) ? 100 : 0;

    /// <inheritdoc/>
    public async ValueTask<IImage> OpenAsync(IStorageFile file, ImageContext context, CancellationToken cancellation = default)
    {
        try
        {
            var header = VdiHeader.Parse(await file.ReadBytesAsync(0, VdiHeader.Size, cancellation).ConfigureAwait(false));
            CheckBlocks(header.BlocksInImage);
            if (header.BlockMapOffset + (header.BlocksInImage * 4L) > file.Length)
            {
                throw new DiskException(DiskError.Corrupt, $"the map of {header.BlocksInImage} blocks reaches beyond the file's end");
            }

            var table = new BlockTable(header.BlockMapOffset, (int)header.BlocksInImage, 4, false, VdiImage.Free);
            await table.LoadAsync(file, cancellation).ConfigureAwait(false);
            return new VdiImage(file, header, table, context);
        }
        catch (DiskException failure) when (!failure.Message.StartsWith(file.Name, StringComparison.Ordinal))
        {
            throw new DiskException(failure.Error, $"{file.Name}: {failure.Message}", failure);
        }
    }

    /// <inheritdoc/>
    public async ValueTask CreateAsync(IStorageFile file, long length, FormatOptions options, ImageContext context, CancellationToken cancellation = default)
    {
        var blocks = BlocksOf(length);
        var isStatic = IsStatic(options);
        var data = DataOffsetOf(blocks);
        var header = new VdiHeader
        {
            ImageType = isStatic ? VdiImageType.Static : VdiImageType.Dynamic,
            BlockMapOffset = VdiHeader.Size,
            DataOffset = (uint)data,
            DiskSize = (ulong)RoundUp(length),
            BlocksInImage = (uint)blocks,
            BlocksAllocated = isStatic ? (uint)blocks : 0,
            Uuid = Guid.NewGuid(),
            ModificationUuid = Guid.NewGuid(),
        };
        var table = new BlockTable(VdiHeader.Size, (int)blocks, 4, false, VdiImage.Free);
        for (var block = 0; isStatic && block < blocks; block++)
        {
            table.Set(block, (uint)block);
        }

        await file.ResizeAsync(data + (isStatic ? blocks * VdiHeader.DefaultBlockSize : 0), cancellation).ConfigureAwait(false);
        await file.WriteAsync(0, header.Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
        const int Part = 1 << 18;
        for (var first = 0; first < table.Count; first += Part)
        {
            await file.WriteAsync(table.Offset + (first * 4L), table.Encode(first, Math.Min(Part, table.Count - first)), WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        await file.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public async ValueTask<ImageMeasure> MeasureAsync(long length, IDisk? source, FormatOptions options, CancellationToken cancellation = default)
    {
        var blocks = BlocksOf(length);
        var data = DataOffsetOf(blocks);
        var used = IsStatic(options) ? blocks : await BlockMeasure.CountAsync(source, VdiHeader.DefaultBlockSize, cancellation).ConfigureAwait(false);
        return new ImageMeasure(data + (used * VdiHeader.DefaultBlockSize), data + (blocks * VdiHeader.DefaultBlockSize));
    }

    internal static void CheckBlocks(long blocks)
    {
        if (blocks > MaximumBlocks)
        {
            throw new DiskException(DiskError.Unsupported, $"{blocks} blocks are too many; {MaximumBlocks} (16 TiB in blocks of 1 MiB) are the most");
        }
    }

    internal static long RoundUp(long length) => (length + 511) / 512 * 512;

    private static bool IsStatic(FormatOptions options) => options.Switch("static", false) || options.Text("preallocation") == "metadata";

    private static long BlocksOf(long length)
    {
        var blocks = length is < 0 or > long.MaxValue / 2 ? long.MaxValue : (RoundUp(length) + VdiHeader.DefaultBlockSize - 1) / VdiHeader.DefaultBlockSize;
        CheckBlocks(blocks);
        return blocks;
    }

    // As VirtualBox places it; the room between is for a map that grows.
    private static long DataOffsetOf(long blocks) => (VdiHeader.Size + (blocks * 4) + DataAlignment - 1) / DataAlignment * DataAlignment;
}
