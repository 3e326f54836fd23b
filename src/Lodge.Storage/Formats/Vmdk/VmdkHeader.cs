using System.Buffers.Binary;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>Bits of <c>flags</c> in the sparse extent header.</summary>
[Flags]
internal enum VmdkFlags : uint
{
    None = 0,
    NewlineTest = 1,
    RedundantTable = 2,
    ZeroedGrains = 4,
    CompressedGrains = 1 << 16,
    Markers = 1 << 17,
}

/// <summary>The header of a sparse extent (VMware, Virtual Disk Format 5.0, "Hosted Sparse Extents": <c>SparseExtentHeader</c>). Places and sizes are in sectors of 512 bytes.</summary>
internal sealed record VmdkHeader
{
    public const int Length = 512;
    public const int SectorLength = 512;

    /// <summary>"KDMV".</summary>
    public const uint Magic = 0x564D444B;

    /// <summary><c>GD_AT_END</c>: the directory's place is in the footer.</summary>
    public const ulong DirectoryAtEnd = ulong.MaxValue;

    public const int EntriesPerTable = 512;
    public const ushort Deflate = 1;

    private const long MostSectors = 1L << 40;
    private const long MostGrainSectors = 1 << 13;
    private const uint MostEntriesPerTable = 1 << 16;

    public uint Version { get; init; } = 1;

    public VmdkFlags Flags { get; init; } = VmdkFlags.NewlineTest;

    public long Capacity { get; init; }

    public long GrainSectors { get; init; }

    public long DescriptorSector { get; init; }

    public long DescriptorSectors { get; init; }

    public int TableEntries { get; init; } = EntriesPerTable;

    public long RedundantSector { get; init; }

    /// <summary>-1 for <see cref="DirectoryAtEnd"/>.</summary>
    public long DirectorySector { get; init; }

    public long OverHead { get; init; }

    public bool Unclean { get; init; }

    public ushort Compression { get; init; }

    public bool IsCompressed => (Flags & VmdkFlags.CompressedGrains) != 0;

    public static bool HasMagic(ReadOnlySpan<byte> head) => head.Length >= 4 && BinaryPrimitives.ReadUInt32LittleEndian(head) == Magic;

    /// <summary>Reads a header and checks each field by itself.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.WrongFormat"/>, <see cref="DiskError.Unsupported"/>, <see cref="DiskError.Corrupt"/>.</exception>
    public static VmdkHeader Parse(ReadOnlySpan<byte> bytes, string name)
    {
        if (bytes.Length < Length || !HasMagic(bytes))
        {
            throw new DiskException(DiskError.WrongFormat, $"{name} is not a VMDK sparse extent");
        }

        var version = BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]);
        if (version is 0 or > 3)
        {
            throw new DiskException(DiskError.Unsupported, $"{name} is a VMDK of version {version}; known are 1 to 3");
        }

        var flags = (VmdkFlags)BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]);
        if ((flags & VmdkFlags.NewlineTest) != 0 && !bytes.Slice(73, 4).SequenceEqual("\n \r\n"u8))
        {
            throw Corrupt(name, "its line ends were changed; it was copied as text");
        }

        var directory = BinaryPrimitives.ReadUInt64LittleEndian(bytes[56..]);
        var entries = BinaryPrimitives.ReadUInt32LittleEndian(bytes[44..]);
        var header = new VmdkHeader
        {
            Version = version,
            Flags = flags,
            Capacity = Sectors(bytes, 12, name, "capacity"),
            GrainSectors = Sectors(bytes, 20, name, "grain size"),
            DescriptorSector = Sectors(bytes, 28, name, "descriptor offset"),
            DescriptorSectors = Sectors(bytes, 36, name, "descriptor size"),
            TableEntries = entries is 0 or > MostEntriesPerTable ? throw Corrupt(name, $"{entries} entries in a grain table are out of range") : (int)entries,
            RedundantSector = (flags & VmdkFlags.RedundantTable) != 0 ? Sectors(bytes, 48, name, "redundant directory's offset") : 0,
            DirectorySector = directory == DirectoryAtEnd ? -1 : Sectors(bytes, 56, name, "directory's offset"),
            OverHead = Sectors(bytes, 64, name, "overhead"),
            Unclean = bytes[72] != 0,
            Compression = BinaryPrimitives.ReadUInt16LittleEndian(bytes[77..]),
        };
        if (header.GrainSectors is 0 or > MostGrainSectors || (header.GrainSectors & (header.GrainSectors - 1)) != 0)
        {
            throw Corrupt(name, $"a grain size of {header.GrainSectors} sectors is not a power of two up to {MostGrainSectors}");
        }

        return header.IsCompressed && header.Compression != Deflate
            ? throw new DiskException(DiskError.Unsupported, $"{name}: compression {header.Compression} is not known; only deflate (1) is")
            : header;
    }

    /// <summary>The header as it is stored.</summary>
    public byte[] ToBytes()
    {
        var bytes = new byte[Length];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, Magic);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(4), Version);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(8), (uint)Flags);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(12), Capacity);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(20), GrainSectors);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(28), DescriptorSector);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(36), DescriptorSectors);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(44), TableEntries);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(48), RedundantSector);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(56), DirectorySector);
        BinaryPrimitives.WriteInt64LittleEndian(bytes.AsSpan(64), OverHead);
        bytes[72] = Unclean ? (byte)1 : (byte)0;
        "\n \r\n"u8.CopyTo(bytes.AsSpan(73));
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(77), Compression);
        return bytes;
    }

    /// <summary>What the engine needs of it.</summary>
    public GrainGeometry Geometry => new()
    {
        Capacity = Capacity,
        GrainSectors = GrainSectors,
        TableEntries = TableEntries,
        TableCount = DivideUp(Capacity, GrainSectors * TableEntries),
        DirectorySector = DirectorySector,
        RedundantSector = RedundantSector,
        ZeroedGrains = (Flags & VmdkFlags.ZeroedGrains) != 0,
        Compressed = IsCompressed,
        Markers = (Flags & VmdkFlags.Markers) != 0,
    };

    public static long DivideUp(long value, long unit) => (value / unit) + (value % unit == 0 ? 0 : 1);

    public static long RoundUp(long value, long unit) => DivideUp(value, unit) * unit;

    private static long Sectors(ReadOnlySpan<byte> bytes, int at, string name, string what)
    {
        var value = BinaryPrimitives.ReadUInt64LittleEndian(bytes[at..]);
        return value <= MostSectors ? (long)value : throw Corrupt(name, $"the {what} of {value} sectors is out of range");
    }

    private static DiskException Corrupt(string name, string why) => new(DiskError.Corrupt, $"{name}: {why}");
}

/// <summary>Where the grains of a sparse extent are found; places and sizes are in sectors.</summary>
internal sealed record GrainGeometry
{
    public required long Capacity { get; init; }

    public required long GrainSectors { get; init; }

    public required int TableEntries { get; init; }

    public required long TableCount { get; init; }

    public required long DirectorySector { get; init; }

    /// <summary>0 if there is none.</summary>
    public long RedundantSector { get; init; }

    /// <summary>Whether an entry of 1 is a grain of zeroes.</summary>
    public bool ZeroedGrains { get; init; }

    public bool Compressed { get; init; }

    /// <summary>Whether a compressed grain begins with its place and size.</summary>
    public bool Markers { get; init; }

    /// <summary>Whether the directory was found through a footer and is written anew behind the data.</summary>
    public bool Movable { get; init; }

    public int GrainLength => (int)(GrainSectors * VmdkHeader.SectorLength);

    public long GrainCount => VmdkHeader.DivideUp(Capacity, GrainSectors);

    public int TableLength => TableEntries * sizeof(uint);

    public long TableSectors => VmdkHeader.DivideUp(TableLength, VmdkHeader.SectorLength);

    public long DirectoryLength => TableCount * sizeof(uint);
}
