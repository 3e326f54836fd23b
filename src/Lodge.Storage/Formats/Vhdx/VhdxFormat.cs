using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats.Blocks;

namespace Lodge.Storage.Formats.Vhdx;

/// <summary>The format vhdx, Hyper-V's disk image ([MS-VHDX]): dynamic, fixed, and differencing disks.</summary>
public sealed class VhdxFormat : IDiskFormat
{
    /// <summary>Largest disk in bytes (64 TiB).</summary>
    public const long MaximumLength = 64L << 40;

    private const int Megabyte = 1 << 20;
    private const int MaximumSlots = 1 << 26;

    /// <inheritdoc/>
    public string Name => "vhdx";

    /// <inheritdoc/>
    public IReadOnlyList<string> OtherNames => [];

    /// <inheritdoc/>
    public IReadOnlyList<FormatOption> Options { get; } =
    [
        new("subformat", FormatOptionKind.Choice, "Kind of image", "dynamic") { Choices = ["dynamic", "fixed"] },
        new("block_size", FormatOptionKind.Size, "Bytes in a block, a power of two from 1M to 256M; 0 chooses by the disk's size", "0"),
        new("log_size", FormatOptionKind.Size, "Bytes in the log, a multiple of 1M", "1M"),
        new("block_state_zero", FormatOptionKind.Switch, "Mark blocks of a new dynamic image as zero instead of not present", "on"),
        new("backing_file", FormatOptionKind.Text, "The parent, a vhdx image; makes a differencing image"),
        new("backing_fmt", FormatOptionKind.Choice, "The parent's format", "vhdx") { Choices = ["vhdx"] },
    ];

    /// <inheritdoc/>
    public int Probe(ReadOnlySpan<byte> head, ReadOnlySpan<byte> tail, long length) => head.StartsWith(VhdxHeader.FileSignature) ? 100 : 0;

    /// <inheritdoc/>
    public async ValueTask<IImage> OpenAsync(IStorageFile file, ImageContext context, CancellationToken cancellation = default)
    {
        IDisk? parent = null;
        try
        {
            var header = await VhdxHeader.ReadAsync(file, cancellation).ConfigureAwait(false);
            if (await VhdxLog.ReadAsync(file, header, cancellation).ConfigureAwait(false) is { } log)
            {
                if (context.ReadOnly || file.IsReadOnly)
                {
                    file = new VhdxReplayedFile(file, log);
                }
                else
                {
                    await VhdxLog.ReplayAsync(file, log, cancellation).ConfigureAwait(false);
                    header = await header.ReplaceAsync(file, header with { LogGuid = Guid.Empty }, cancellation).ConfigureAwait(false);
                }
            }

            var regions = await VhdxRegions.ReadAsync(file, cancellation).ConfigureAwait(false);
            var metadata = await VhdxMetadata.ReadAsync(file, regions.Metadata, cancellation).ConfigureAwait(false);
            var count = CountSlots((long)metadata.DiskSize, metadata);
            CheckSlots(count);
            if (count * 8 > regions.Bat.Length)
            {
                throw new DiskException(DiskError.Corrupt, $"the block allocation table of {regions.Bat.Length} bytes is too short for {metadata.DiskSize} bytes");
            }

            var table = new BlockTable(regions.Bat.Offset, (int)count, 8, false, 0);
            await table.LoadAsync(file, cancellation).ConfigureAwait(false);
            if (metadata.HasParent && context.OpenBacking)
            {
                parent = await OpenParentAsync(metadata.Parent!, context.Files, cancellation).ConfigureAwait(false);
            }

            return new VhdxImage(file, header, regions, metadata, table, context, parent);
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
        var metadata = NewMetadata(length, options);
        var backing = options.Text("backing_file");
        if (backing is not null)
        {
            var id = await IdentifyParentAsync(backing, context.Files, cancellation).ConfigureAwait(false);
            metadata = metadata with { Parent = VhdxParentLocator.Create(backing, id), HasParent = true };
        }

        var count = CountSlots((long)metadata.DiskSize, metadata);
        CheckSlots(count);
        var layout = Layout(count, options);
        var header = new VhdxHeader
        {
            SequenceNumber = 1,
            FileWriteGuid = Guid.NewGuid(),
            DataWriteGuid = Guid.NewGuid(),
            LogOffset = VhdxHeader.SectionLength,
            LogLength = (uint)layout.LogLength,
        };
        var regions = new VhdxRegions([
            new VhdxRegion(VhdxRegions.BatId, layout.Bat, (uint)layout.BatLength, true),
            new VhdxRegion(VhdxRegions.MetadataId, layout.Metadata, Megabyte, true),
        ]);
        var isFixed = metadata.LeaveBlocksAllocated;
        var blocks = CountBlocks((long)metadata.DiskSize, metadata.BlockSize);
        await file.ResizeAsync(layout.End + (isFixed ? blocks * metadata.BlockSize : 0), cancellation).ConfigureAwait(false);
        await header.CreateAsync(file, cancellation).ConfigureAwait(false);
        var table = regions.Encode();
        await file.WriteAsync(VhdxRegions.FirstOffset, table, WriteOptions.None, cancellation).ConfigureAwait(false);
        await file.WriteAsync(VhdxRegions.SecondOffset, table, WriteOptions.None, cancellation).ConfigureAwait(false);
        await file.WriteAsync(layout.Metadata, metadata.Create(), WriteOptions.None, cancellation).ConfigureAwait(false);
        var bat = new BlockTable(layout.Bat, (int)count, 8, false, 0);
        for (long block = 0; block < blocks; block++)
        {
            if (isFixed)
            {
                bat.Set(block + (block / metadata.ChunkRatio), (ulong)(layout.End + (block * metadata.BlockSize)) | VhdxImage.FullyPresent);
            }
            else if (backing is null && options.Switch("block_state_zero", true))
            {
                bat.Set(block + (block / metadata.ChunkRatio), VhdxImage.ZeroState);
            }
        }

        foreach (var page in bat.TakeDirty())
        {
            await file.WriteAsync(page.Offset, page.Bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        await file.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public async ValueTask<ImageMeasure> MeasureAsync(long length, IDisk? source, FormatOptions options, CancellationToken cancellation = default)
    {
        var metadata = NewMetadata(length, options);
        metadata = metadata with { HasParent = options.Text("backing_file") is not null };
        var count = CountSlots((long)metadata.DiskSize, metadata);
        CheckSlots(count);
        var overhead = Layout(count, options).End;
        var blocks = CountBlocks((long)metadata.DiskSize, metadata.BlockSize);
        var used = metadata.LeaveBlocksAllocated ? blocks : await BlockMeasure.CountAsync(source, (int)metadata.BlockSize, cancellation).ConfigureAwait(false);
        return new ImageMeasure(overhead + (used * metadata.BlockSize), overhead + (blocks * metadata.BlockSize));
    }

    internal static async ValueTask<IDisk> OpenParentAsync(VhdxParentLocator locator, IImageFiles files, CancellationToken cancellation)
    {
        DiskException? first = null;
        foreach (var name in locator.Names)
        {
            IDisk parent;
            try
            {
                parent = await files.OpenBackingAsync(name, "vhdx", cancellation).ConfigureAwait(false);
            }
            catch (DiskException failure) when (failure.Error is DiskError.NotFound or DiskError.Denied)
            {
                first ??= failure;
                continue;
            }

            if (parent is VhdxImage { DataWriteGuid: var id } && locator.IsIdentity(id))
            {
                return parent;
            }

            await parent.DisposeAsync().ConfigureAwait(false);
            throw new DiskException(
                DiskError.Corrupt,
                $"the parent {name} was written to after this image was made on it, or is another; if it is right all the same, say so with: lodge image rebase -u -b {name} -F vhdx");
        }

        throw first ?? new DiskException(DiskError.Corrupt, "a differencing disk does not name its parent");
    }

    internal static async ValueTask<Guid> IdentifyParentAsync(string name, IImageFiles files, CancellationToken cancellation)
    {
        var parent = await files.OpenBackingAsync(name, "vhdx", cancellation).ConfigureAwait(false);
        await using (parent.ConfigureAwait(false))
        {
            return parent is VhdxImage image
                ? image.DataWriteGuid
                : throw new DiskException(DiskError.Unsupported, $"the parent of an image of the format vhdx must be one, too; {name} is not");
        }
    }

    /// <summary>Entries of the block allocation table ([MS-VHDX] section 2.5).</summary>
    internal static long CountSlots(long length, VhdxMetadata metadata)
    {
        var blocks = CountBlocks(length, metadata.BlockSize);
        var ratio = metadata.ChunkRatio;
        return metadata.HasParent ? (blocks + ratio - 1) / ratio * (ratio + 1) : blocks == 0 ? 0 : blocks + ((blocks - 1) / ratio);
    }

    internal static void CheckSlots(long count)
    {
        if (count > MaximumSlots)
        {
            throw new DiskException(DiskError.Unsupported, $"a block allocation table of {count} entries; {MaximumSlots} are the most, so the blocks must be larger");
        }
    }

    internal static void CheckLength(long length)
    {
        if (length is < 0 or > MaximumLength)
        {
            throw new DiskException(DiskError.Unsupported, $"an image of the format vhdx cannot have {length} bytes; {MaximumLength} (64 TiB) are the most");
        }
    }

    internal static long RoundToMegabyte(long length) => (length + Megabyte - 1) / Megabyte * Megabyte;

    private static long CountBlocks(long length, uint blockSize) => (length + blockSize - 1) / blockSize;

    private static VhdxMetadata NewMetadata(long length, FormatOptions options)
    {
        CheckLength(length);
        var size = options.Size("block_size", 0);
        if (size == 0)
        {
            size = (length >> 30) switch { >= 32 << 10 => 64, >= 100 => 32, >= 1 => 16, _ => 8 } * (long)Megabyte;
        }

        if (size is < Megabyte or > 256 * Megabyte || !System.Numerics.BitOperations.IsPow2(size))
        {
            throw new DiskException(DiskError.InvalidOption, $"option 'block_size' has the value '{size}'; give a power of two from 1M to 256M");
        }

        return new VhdxMetadata
        {
            BlockSize = (uint)size,
            DiskSize = (ulong)((length + 511) / 512 * 512),
            Page83 = Guid.NewGuid(),
            LeaveBlocksAllocated = options.Text("subformat") == "fixed" && options.Text("backing_file") is null,
        };
    }

    private static (long LogLength, long Metadata, long Bat, long BatLength, long End) Layout(long slots, FormatOptions options)
    {
        var log = options.Size("log_size", Megabyte);
        if (log is < Megabyte or > 256 * Megabyte || log % Megabyte != 0)
        {
            throw new DiskException(DiskError.InvalidOption, $"option 'log_size' has the value '{log}'; give a multiple of 1M up to 256M");
        }

        var metadata = VhdxHeader.SectionLength + log;
        var bat = metadata + Megabyte;
        var length = Math.Max(RoundToMegabyte(slots * 8), Megabyte);
        return (log, metadata, bat, length, bat + length);
    }
}
