using System.Buffers.Binary;
using System.Collections.Concurrent;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats.Blocks;

namespace Lodge.Storage.Formats.Vhdx;

/// <summary>
/// An opened image. Entries of the block allocation table are changed in place: each is whole within a sector and is written only when what it names is durable,
/// so no crash leaves one that is wrong. What cannot be changed in one sector (region table, metadata) goes through the log.
/// </summary>
internal sealed partial class VhdxImage : BlockImage, IBackedImage
{
    /// <summary>PAYLOAD_BLOCK_ZERO ([MS-VHDX] section 2.5.1.1).</summary>
    public const ulong ZeroState = 2;

    /// <summary>PAYLOAD_BLOCK_FULLY_PRESENT, and SB_BLOCK_PRESENT of a block of sector bitmaps.</summary>
    public const ulong FullyPresent = 6;

    private const ulong NotPresent = 0;
    private const ulong PartiallyPresent = 7;
    private const ulong StateMask = 7;
    private const ulong OffsetMask = ~0xF_FFFFUL;
    private const int BitmapBlockLength = 1 << 20;
    private const int Sector = 4096;

    private readonly int _ratio;
    private readonly ConcurrentQueue<long> _newBitmapBlocks = new();
    private VhdxHeader _header;
    private VhdxRegions _regions;
    private VhdxMetadata _metadata;
    private List<long> _bitmapBlocksToOrder = [];

    public VhdxImage(IStorageFile file, VhdxHeader header, VhdxRegions regions, VhdxMetadata metadata, BlockTable table, ImageContext context, IDisk? parent)
        : base(file, new BlockShape((long)metadata.DiskSize, (int)metadata.BlockSize, (int)metadata.LogicalSectorSize, metadata.HasParent), table, context)
    {
        _header = header;
        _regions = regions;
        _metadata = metadata;
        _ratio = metadata.ChunkRatio;
        CheckStructures();
        CheckPlacement();
        Backing = parent;
    }

    public override string FormatName => "vhdx";

    /// <summary>What a differencing image knows its parent by.</summary>
    public Guid DataWriteGuid => _header.DataWriteGuid;

    public override int RequestAlignment => Math.Max(SectorSize == 512 ? 1 : SectorSize, base.RequestAlignment);

    protected override bool HasZeroBlocks => true;

    protected override IEnumerable<FileRegion> Structures
    {
        get
        {
            yield return new FileRegion(0, VhdxHeader.SectionLength, "header section");
            yield return new FileRegion((long)_header.LogOffset, (long)_header.LogOffset + _header.LogLength, "log");
            foreach (var region in _regions.Entries)
            {
                yield return new FileRegion(region.Offset, region.End, region.Id == VhdxRegions.BatId ? "block allocation table" : region.Id == VhdxRegions.MetadataId ? "metadata" : "region " + region.Id);
            }

            for (long chunk = 0; IsDifferencing && chunk < Table.Count / (_ratio + 1); chunk++)
            {
                if (BitmapBlock(chunk) is { } offset)
                {
                    yield return new FileRegion(offset, offset + BitmapBlockLength, "sector bitmaps");
                }
            }
        }
    }

    public override ImageInformation Describe() => new()
    {
        VirtualSize = Length,
        ClusterSize = BlockSize,
        Dirty = _header.LogGuid != Guid.Empty,
        BackingName = _metadata.Parent?.Names.FirstOrDefault(),
        BackingFormat = _metadata.Parent is null ? null : "vhdx",
        FormatSpecific =
        [
            KeyValuePair.Create("subformat", IsDifferencing ? "differencing" : _metadata.LeaveBlocksAllocated ? "fixed" : "dynamic"),
            KeyValuePair.Create("logical-sector-size", _metadata.LogicalSectorSize.ToString()),
            KeyValuePair.Create("physical-sector-size", _metadata.PhysicalSectorSize.ToString()),
            KeyValuePair.Create("log-size", _header.LogLength.ToString()),
            KeyValuePair.Create("data-write-guid", _header.DataWriteGuid.ToString()),
            KeyValuePair.Create("page-83-id", _metadata.Page83.ToString()),
        ],
    };

    protected override BlockEntry Find(long block)
    {
        var entry = Table[Slot(block)];
        var offset = (long)(entry & OffsetMask);
        return (entry & StateMask) switch
        {
            NotPresent => new BlockEntry(BlockKind.Absent),
            FullyPresent => new BlockEntry(BlockKind.Data, offset),
            PartiallyPresent when IsDifferencing && BitmapBlock(block / _ratio) is not null => new BlockEntry(BlockKind.Partial, offset),

            // Undefined, zero and unmapped; what is faulty is refused when the image is opened.
            _ => new BlockEntry(BlockKind.Zero),
        };
    }

    protected override void Assign(long block, BlockEntry entry) => Table.Set(Slot(block), entry.Kind switch
    {
        BlockKind.Absent => NotPresent,
        BlockKind.Zero => ZeroState,
        BlockKind.Data => (ulong)entry.Offset | FullyPresent,
        _ => (ulong)entry.Offset | PartiallyPresent,
    });

    protected override string? Fault(long block) => (Table[Slot(block)] & StateMask) switch
    {
        4 => "state 4 does not exist",
        PartiallyPresent when !IsDifferencing => "partially present without a parent",
        PartiallyPresent when BitmapBlock(block / _ratio) is null => "partially present without a sector bitmap",
        _ => null,
    };

    protected override long PlaceAfter(long end) => VhdxFormat.RoundToMegabyte(end);

    protected override long BitmapOffset(long block, BlockEntry entry) =>
        (BitmapBlock(block / _ratio) ?? throw new DiskException(DiskError.Corrupt, $"{File.Name}: block {block} has no sector bitmap")) + (block % _ratio * BitmapLength);

    /// <remarks>The identities change before the first write, as section 2.2.2 asks, so that copies and children can tell.</remarks>
    protected override async ValueTask BeginAsync(CancellationToken cancellation) =>
        _header = await _header.ReplaceAsync(File, _header with { FileWriteGuid = Guid.NewGuid(), DataWriteGuid = Guid.NewGuid() }, cancellation).ConfigureAwait(false);

    protected override async ValueTask OnAllocatedAsync(long block, BlockEntry entry, CancellationToken cancellation)
    {
        if (entry.Kind != BlockKind.Partial)
        {
            return;
        }

        var chunk = block / _ratio;
        if (BitmapBlock(chunk) is { } bitmaps)
        {
            // Bits of an earlier life of the block.
            await File.WriteZeroesAsync(bitmaps + (block % _ratio * BitmapLength), BitmapLength, ZeroOptions.None, cancellation).ConfigureAwait(false);
            return;
        }

        var offset = await AddRoomAsync(0, BitmapBlockLength, cancellation).ConfigureAwait(false);
        Table.Set(BitmapSlot(chunk), (ulong)offset | FullyPresent);
        _newBitmapBlocks.Enqueue(chunk);
    }

    protected override ValueTask BeforeCommitAsync(CancellationToken cancellation)
    {
        // Only those whose room the coming flush makes durable.
        while (_newBitmapBlocks.TryDequeue(out var chunk))
        {
            _bitmapBlocksToOrder.Add(chunk);
        }

        return ValueTask.CompletedTask;
    }

    // A block of bitmaps is named before the first block that needs it, because their entries may lie in different sectors.
    protected override async ValueTask OrderCommitAsync(CancellationToken cancellation)
    {
        if (_bitmapBlocksToOrder.Count == 0)
        {
            return;
        }

        foreach (var chunk in _bitmapBlocksToOrder)
        {
            if (BitmapSlot(chunk) < Table.Count)
            {
                var entry = Table.Encode(BitmapSlot(chunk));
                await File.WriteAsync(entry.Offset, entry.Bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
            }
        }

        await File.FlushAsync(cancellation).ConfigureAwait(false);
        _bitmapBlocksToOrder = [];
    }

    private int BitmapLength => Math.Max(BlockSize / SectorSize / 8, 1);

    private long Slot(long block) => block + (block / _ratio);

    private long BitmapSlot(long chunk) => (chunk * (_ratio + 1L)) + _ratio;

    private long? BitmapBlock(long chunk)
    {
        var entry = Table[BitmapSlot(chunk)];
        return (entry & StateMask) == FullyPresent ? (long)(entry & OffsetMask) : null;
    }

    private void CheckStructures()
    {
        long end = 0;
        foreach (var region in Structures.OrderBy(region => region.Start))
        {
            if ((region.Start < end || region.End > File.Length || region.Start < 0) && !Context.Checking)
            {
                throw new DiskException(DiskError.Corrupt, $"the {region.What} at {region.Start} overlaps another part of the image or reaches beyond the file's end");
            }

            end = Math.Max(end, region.End);
        }
    }
}
