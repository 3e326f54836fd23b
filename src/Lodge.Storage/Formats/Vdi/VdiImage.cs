using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats.Blocks;

namespace Lodge.Storage.Formats.Vdi;

/// <summary>
/// An opened image. The header counts the blocks of the map, and QEMU goes by the count for the place of the next one: it may be too high after a crash, which costs
/// room, but never too low. QEMU's check wants it exact, so header and map are written at once where the changed part of the map follows the header closely; the
/// kernel keeps such a write whole within a page, which is the map of 896 MiB, and nearly always beyond.
/// </summary>
internal sealed class VdiImage : BlockImage
{
    /// <summary>An entry of the map for a block that was never written.</summary>
    public const uint Free = 0xFFFF_FFFF;

    private const uint Discarded = 0xFFFF_FFFE;

    // Entries that are written together with the header, from the first on: the map of 64 GiB.
    private const int EntriesAtOnce = 65536;
    private VdiHeader _header;
    private byte[]? _atOnce;
    private uint _taken;

    public VdiImage(IStorageFile file, VdiHeader header, BlockTable table, ImageContext context)
        : base(file, new BlockShape((long)header.DiskSize, (int)header.BlockSize, 512, false), table, context)
    {
        _header = header;
        CheckPlacement();
    }

    public override string FormatName => "vdi";

    protected override bool HasPending => _header.BlocksAllocated != PlacedBlocks;

    protected override IEnumerable<FileRegion> Structures => [new FileRegion(0, _header.DataOffset, "header or block map")];

    // Places up to the last block: where there are no gaps, which only other products leave, the number of blocks in the file.
    private uint PlacedBlocks => (uint)((End - _header.DataOffset) / BlockSize);

    public override ImageInformation Describe() => new()
    {
        VirtualSize = Length,
        ClusterSize = BlockSize,
        FormatSpecific =
        [
            KeyValuePair.Create("image-type", _header.ImageType.ToString().ToLowerInvariant()),
            KeyValuePair.Create("uuid", _header.Uuid.ToString()),
            KeyValuePair.Create("modification-uuid", _header.ModificationUuid.ToString()),
        ],
    };

    /// <inheritdoc/>
    /// <remarks>The map grows up to where the data begins; an image whose map has no more room has to be converted.</remarks>
    public override async ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(0, 0);
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        var size = VdiFormat.RoundUp(Math.Min(length, long.MaxValue / 2));
        var count = CountBlocks(size);
        VdiFormat.CheckBlocks(count);
        if (_header.BlockMapOffset + (count * 4) > _header.DataOffset)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name}: the block map has no room for {count} blocks; make a larger image with: lodge image convert -O vdi");
        }

        await EnsureBegunAsync(cancellation).ConfigureAwait(false);
        await CommitAsync(cancellation).ConfigureAwait(false);
        var old = Length;
        if (size < old)
        {
            SetLength(size);
            for (var block = count; block < Table.Count; block++)
            {
                if (Table[block] != Free)
                {
                    Assign(block, new BlockEntry(BlockKind.Absent));
                }
            }

            await CommitAsync(cancellation).ConfigureAwait(false);
            await ZeroTailAsync(size, cancellation).ConfigureAwait(false);
            await WithAllocationAsync(
                async () =>
                {
                    Table.Reshape(Table.Offset, (int)count, Free);
                    await WriteSizeAsync(size, cancellation).ConfigureAwait(false);
                    return true;
                },
                cancellation).ConfigureAwait(false);
            await CheckAsync(CheckRepair.Leaks, null, cancellation).ConfigureAwait(false);
            return;
        }

        await ZeroTailAsync(old, cancellation).ConfigureAwait(false);
        await WithAllocationAsync(
            async () =>
            {
                var first = Table.Count;
                if (count > first)
                {
                    Table.Reshape(Table.Offset, (int)count, Free);
                    await File.WriteAsync(Table.Offset + (first * 4L), Table.Encode(first, (int)count - first), WriteOptions.None, cancellation).ConfigureAwait(false);
                }

                await WriteSizeAsync(size, cancellation).ConfigureAwait(false);
                return true;
            },
            cancellation).ConfigureAwait(false);
        SetLength(size);
        if (_header.ImageType == VdiImageType.Static)
        {
            await AllocateAllAsync(cancellation).ConfigureAwait(false);
        }
    }

    protected override BlockEntry Find(long block) => Table[block] switch
    {
        Free => new BlockEntry(BlockKind.Absent),
        Discarded => new BlockEntry(BlockKind.Zero),
        var place => new BlockEntry(BlockKind.Data, _header.DataOffset + ((long)place * BlockSize)),
    };

    protected override void Assign(long block, BlockEntry entry) => Table.Set(block, entry.Kind switch
    {
        BlockKind.Absent => Free,
        BlockKind.Zero => Discarded,
        _ => (ulong)((entry.Offset - _header.DataOffset) / BlockSize),
    });

    protected override long PlaceAfter(long end) => _header.DataOffset + ((Math.Max(end - _header.DataOffset, 0) + BlockSize - 1) / BlockSize * BlockSize);

    protected override ValueTask BeginAsync(CancellationToken cancellation) => WriteHeaderAsync(_header with { ModificationUuid = Guid.NewGuid() }, cancellation);

    protected override ValueTask<List<PendingWrite>> TakeTableAsync(CancellationToken cancellation) => WithAllocationAsync(
        () =>
        {
            // No block is placed meanwhile: the count is that of the entries that are taken here or were written before.
            var pages = Table.TakeDirty();
            _taken = PlacedBlocks;
            _atOnce = null;
            if (pages.Count > 0 && Table.Offset == VdiHeader.Size && (pages[^1].Offset + pages[^1].Bytes.Length - Table.Offset) / 4 is <= EntriesAtOnce and var entries)
            {
                _atOnce = Table.Encode(0, (int)entries);
            }

            return ValueTask.FromResult(pages);
        },
        cancellation);

    protected override async ValueTask BeforeCommitAsync(CancellationToken cancellation)
    {
        if (_atOnce is null && _taken != _header.BlocksAllocated)
        {
            await WriteCountAsync([], cancellation).ConfigureAwait(false);
        }
    }

    protected override async ValueTask WriteTableAsync(List<PendingWrite> pages, CancellationToken cancellation)
    {
        if (_atOnce is { } entries)
        {
            _atOnce = null;
            await WriteCountAsync(entries, cancellation).ConfigureAwait(false);
            return;
        }

        await base.WriteTableAsync(pages, cancellation).ConfigureAwait(false);
    }

    protected override ValueTask<CheckResult> CheckFormatAsync(CheckRepair repair, List<string> messages, CancellationToken cancellation)
    {
        var (counted, written) = (PlacedBlocks, _header.BlocksAllocated);
        if (counted == written)
        {
            return ValueTask.FromResult(new CheckResult());
        }

        // Too high is what a crash leaves and costs at most room; too low makes QEMU put a block where another is. The next commit writes it.
        Report(messages, $"the header counts {written} blocks, the map has {counted}");
        var repaired = repair != CheckRepair.None ? 1 : 0;
        return ValueTask.FromResult(counted > written
            ? new CheckResult { Corruptions = 1, CorruptionsFixed = repaired }
            : new CheckResult { Leaks = 1, LeaksFixed = repaired });
    }

    /// <summary>Writes the header with the count that was taken, and behind it the first entries of the map.</summary>
    private async ValueTask WriteCountAsync(byte[] entries, CancellationToken cancellation) => await WithAllocationAsync(
        async () =>
        {
            var header = _header with { BlocksAllocated = _taken };
            await File.WriteAsync(0, (byte[])[.. header.Encode(), .. entries], WriteOptions.None, cancellation).ConfigureAwait(false);
            _header = header;
            return true;
        },
        cancellation).ConfigureAwait(false);

    private async ValueTask AllocateAllAsync(CancellationToken cancellation)
    {
        for (long block = 0; block < BlockCount; block++)
        {
            await EnsureAllocatedAsync(block, cancellation).ConfigureAwait(false);
        }

        await CommitAsync(cancellation).ConfigureAwait(false);
    }

    private async ValueTask WriteSizeAsync(long size, CancellationToken cancellation)
    {
        await File.FlushAsync(cancellation).ConfigureAwait(false);
        await WriteHeaderAsync(_header with { DiskSize = (ulong)size, BlocksInImage = (uint)Table.Count }, cancellation).ConfigureAwait(false);
        await File.FlushAsync(cancellation).ConfigureAwait(false);
    }

    private async ValueTask WriteHeaderAsync(VdiHeader header, CancellationToken cancellation)
    {
        await File.WriteAsync(0, header.Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
        _header = header;
    }
}
