using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats.Blocks;

namespace Lodge.Storage.Formats.Vhd;

/// <summary>A dynamic or differencing disk.</summary>
internal sealed partial class VhdImage : BlockImage, IBackedImage, IVhdIdentity
{
    /// <summary>An entry of the block allocation table for a block that is not in the file.</summary>
    public const uint Unused = uint.MaxValue;

    private const int DataAlignment = 4096;
    private VhdHeader _header;
    private string? _parentName;
    private bool[] _ready;
    private volatile bool _footerMoved;
    private volatile bool _footerStale;

    public VhdImage(IStorageFile file, VhdFooter footer, VhdHeader header, BlockTable table, ImageContext context, IDisk? parent, string? parentName)
        : base(file, new BlockShape(footer.Length, (int)header.BlockSize, 512, footer.DiskType == VhdDiskType.Differencing), table, context)
    {
        Footer = footer;
        _header = header;
        _parentName = parentName;
        _ready = new bool[table.Count];
        CheckPlacement();
        Backing = parent;
    }

    public override string FormatName => "vpc";

    public VhdFooter Footer { get; private set; }

    protected override int BlockPrefix => _header.BitmapLength;

    protected override bool HighBitFirst => true;

    protected override int TrailerLength => VhdFooter.Size;

    protected override bool HasPending => _footerMoved || _footerStale;

    protected override IEnumerable<FileRegion> Structures
    {
        get
        {
            yield return new FileRegion(0, VhdFooter.Size, "copy of the footer");
            yield return new FileRegion((long)Footer.DataOffset, (long)Footer.DataOffset + VhdHeader.Size, "dynamic disk header");
            yield return new FileRegion(Table.Offset, Table.Offset + ((Table.ByteLength + 511) / 512 * 512), "block allocation table");
            foreach (var locator in _header.Locators)
            {
                if (locator.DataLength > 0 && locator.DataOffset < (ulong)File.Length)
                {
                    yield return new FileRegion((long)locator.DataOffset, (long)Math.Min(locator.End, (ulong)File.Length), "parent's name");
                }
            }
        }
    }

    public static long StrideOf(int blockSize) => (VhdHeader.BitmapLengthOf(blockSize) + (long)blockSize + DataAlignment - 1) / DataAlignment * DataAlignment;

    public override ImageInformation Describe() => new()
    {
        VirtualSize = Length,
        ClusterSize = BlockSize,
        BackingName = _parentName,
        BackingFormat = _parentName is null ? null : "vpc",
        FormatSpecific = DescribeFooter(Footer),
    };

    public static IReadOnlyList<KeyValuePair<string, string>> DescribeFooter(VhdFooter footer) =>
    [
        KeyValuePair.Create("subformat", footer.DiskType.ToString().ToLowerInvariant()),
        KeyValuePair.Create("creator-app", footer.CreatorApplication.TrimEnd('\0', ' ')),
        KeyValuePair.Create("geometry", $"{footer.Geometry.Cylinders}/{footer.Geometry.Heads}/{footer.Geometry.SectorsPerTrack}"),
        KeyValuePair.Create("uuid", footer.UniqueId.ToString()),
        KeyValuePair.Create("saved-state", footer.SavedState ? "true" : "false"),
    ];

    /// <summary>Writes entries of the table.</summary>
    public static async ValueTask WriteTableAsync(IStorageFile file, BlockTable table, int first, int count, CancellationToken cancellation)
    {
        const int Part = 1 << 18;
        for (var end = first + count; first < end; first += Part)
        {
            await file.WriteAsync(table.Offset + (first * 4L), table.Encode(first, Math.Min(Part, end - first)), WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        // The table takes whole sectors.
        if (table.ByteLength % 512 is var rest and not 0)
        {
            var padding = new byte[512 - rest];
            padding.AsSpan().Fill(0xFF);
            await file.WriteAsync(table.Offset + table.ByteLength, padding, WriteOptions.None, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Writes the parent's name into the file and gives the header that has it.</summary>
    public static async ValueTask<VhdHeader> WriteParentAsync(IStorageFile file, VhdHeader header, string name, VhdFooter parent, long offset, CancellationToken cancellation)
    {
        var (code, bytes) = VhdParentName.Encode(name);
        var room = new byte[VhdParentName.Space];
        bytes.CopyTo(room, 0);
        await file.WriteAsync(offset, room, WriteOptions.None, cancellation).ConfigureAwait(false);
        return header with
        {
            ParentUniqueId = parent.UniqueId,
            ParentTimeStamp = parent.TimeStamp,
            ParentUnicodeName = Path.GetFileName(name),
            Locators = [new VhdParentLocator(code, VhdParentName.Space, (uint)bytes.Length, (ulong)offset)],
        };
    }

    protected override BlockEntry Find(long block)
    {
        var sector = Table[block];
        return sector == Unused
            ? new BlockEntry(BlockKind.Absent)
            : new BlockEntry(IsDifferencing ? BlockKind.Partial : BlockKind.Data, ((long)sector * 512) + _header.BitmapLength);
    }

    protected override void Assign(long block, BlockEntry entry) =>
        Table.Set(block, entry.Kind == BlockKind.Absent ? Unused : (ulong)(entry.Offset - _header.BitmapLength) / 512);

    protected override long PlaceAfter(long end) => (end + DataAlignment - 1) / DataAlignment * DataAlignment;

    protected override long BitmapOffset(long block, BlockEntry entry) => entry.Offset - _header.BitmapLength;

    // A dynamic disk's bitmaps are not looked at for reading, but those that do look must find what is written.
    protected override bool IsReady(long block) => IsDifferencing || Volatile.Read(ref _ready[block]);

    protected override async ValueTask MakeReadyAsync(long block, BlockEntry entry, CancellationToken cancellation)
    {
        var bits = new byte[_header.BitmapLength];
        await File.ReadAsync(entry.Offset - bits.Length, bits, cancellation).ConfigureAwait(false);
        if (bits.AsSpan(0, BlockSize / 512 / 8).ContainsAnyExcept((byte)0xFF))
        {
            bits.AsSpan().Fill(0xFF);
            await File.WriteAsync(entry.Offset - bits.Length, bits, WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        Volatile.Write(ref _ready[block], true);
    }

    protected override async ValueTask OnAllocatedAsync(long block, BlockEntry entry, CancellationToken cancellation)
    {
        _footerMoved = true;
        if (entry.Offset / 512 >= Unused)
        {
            throw new DiskException(DiskError.NoSpace, $"{File.Name}: the file is too large for its 32-bit sector numbers");
        }

        // Also because the footer may have been here.
        var bits = new byte[_header.BitmapLength];
        bits.AsSpan().Fill(IsDifferencing ? (byte)0 : (byte)0xFF);
        await File.WriteAsync(entry.Offset - bits.Length, bits, WriteOptions.None, cancellation).ConfigureAwait(false);
        if (!IsDifferencing)
        {
            Volatile.Write(ref _ready[block], true);
        }
    }

    /// <summary>The footer at the end and, if it changed, its copy; the end does not move meanwhile.</summary>
    protected override async ValueTask BeforeCommitAsync(CancellationToken cancellation)
    {
        if (!HasPending)
        {
            return;
        }

        await WithAllocationAsync(
            async () =>
            {
                var bytes = Footer.Encode();
                if (_footerStale)
                {
                    await File.WriteAsync(0, bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
                }

                await File.WriteAsync(End, bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
                if (File.Length > End + bytes.Length)
                {
                    await File.ResizeAsync(End + bytes.Length, cancellation).ConfigureAwait(false);
                }

                (_footerMoved, _footerStale) = (false, false);
                return true;
            },
            cancellation).ConfigureAwait(false);
    }

    // The copy of the footer must be good before the one at the end is overwritten.
    protected override async ValueTask BeginAsync(CancellationToken cancellation)
    {
        var bytes = Footer.Encode();
        var copy = VhdFooter.TryParse(await File.ReadBytesAsync(0, VhdFooter.Size, cancellation).ConfigureAwait(false));
        if (copy != Footer)
        {
            await File.WriteAsync(0, bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
            await File.FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    protected override void OnCut() => _footerMoved = true;
}
