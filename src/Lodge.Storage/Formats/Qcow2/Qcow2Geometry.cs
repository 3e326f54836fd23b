namespace Lodge.Storage.Formats.Qcow2;

/// <summary>What a guest cluster, or a subcluster of it, is.</summary>
internal enum ClusterKind : byte
{
    /// <summary>Nothing here; the backing image or zeroes show.</summary>
    Unallocated,

    /// <summary>As <see cref="Unallocated"/>, and a host cluster is there for it (extended L2).</summary>
    UnallocatedHeld,

    /// <summary>Data in a host cluster.</summary>
    Normal,

    /// <summary>Reads as zeroes.</summary>
    Zero,

    /// <summary>Reads as zeroes, and a host cluster is kept for it.</summary>
    ZeroHeld,

    /// <summary>Compressed data.</summary>
    Compressed,

    /// <summary>An entry that the specification does not allow.</summary>
    Invalid,
}

/// <summary>Sizes that follow from the header, and the meaning of table entries (qcow2 specification, "Cluster mapping" and "Extended L2 Entries").</summary>
internal sealed class Qcow2Geometry
{
    /// <summary>Bit 63 of L1 and L2 entries: the refcount is exactly one.</summary>
    public const ulong Copied = 1UL << 63;

    /// <summary>Bit 62 of an L2 entry.</summary>
    public const ulong CompressedBit = 1UL << 62;

    /// <summary>Bit 0 of a standard cluster descriptor in version 3.</summary>
    public const ulong ZeroBit = 1;

    /// <summary>Bits 9 to 55.</summary>
    public const ulong OffsetMask = 0x00fffffffffffe00;

    /// <summary>Host offsets end below 64 PiB.</summary>
    public const long MaximumOffset = 1L << 56;

    private readonly int _compressedShift;

    public Qcow2Geometry(Qcow2Header header)
    {
        ClusterBits = header.ClusterBits;
        ClusterSize = 1 << ClusterBits;
        Extended = header.Extended;
        TableBits = ClusterBits - (Extended ? 4 : 3);
        TableEntries = 1 << TableBits;
        UnitBits = Extended ? ClusterBits - 5 : ClusterBits;
        UnitSize = 1 << UnitBits;
        External = header.HasDataFile;
        HasZeroes = header.Version >= 3;
        _compressedShift = 62 - (ClusterBits - 8);
    }

    public int ClusterBits { get; }

    public int ClusterSize { get; }

    public bool Extended { get; }

    /// <summary>log2 of the entries in an L2 table.</summary>
    public int TableBits { get; }

    public int TableEntries { get; }

    /// <summary>log2 of the bytes that share one state: a subcluster, or a cluster.</summary>
    public int UnitBits { get; }

    public int UnitSize { get; }

    /// <summary>Whether guest clusters are in an external data file.</summary>
    public bool External { get; }

    /// <summary>Whether there are zero clusters (version 3).</summary>
    public bool HasZeroes { get; }

    /// <summary>Guest bytes under one L2 table, log2.</summary>
    public int TableSpanBits => ClusterBits + TableBits;

    /// <summary>Highest host offset of compressed data, exclusive.</summary>
    public long CompressedLimit => Math.Min(1L << _compressedShift, MaximumOffset);

    /// <summary>Host bytes of a compressed cluster: the sectors that its descriptor names, from its first byte.</summary>
    public (long Offset, int Length) CompressedRange(ulong descriptor)
    {
        var offset = (long)(descriptor & ((1UL << _compressedShift) - 1));
        var sectors = (int)((descriptor >> _compressedShift) & ((1UL << (ClusterBits - 8)) - 1)) + 1;
        return (offset, (sectors * 512) - (int)(offset & 511));
    }

    /// <summary>The descriptor of compressed data of <paramref name="length"/> bytes at a host offset.</summary>
    public ulong CompressedDescriptor(long offset, int length)
    {
        var further = (ulong)(((offset + length - 1) >> 9) - (offset >> 9));
        return CompressedBit | (further << _compressedShift) | (ulong)offset;
    }

    /// <summary>Host clusters that compressed data touches.</summary>
    public (long First, long Last) CompressedClusters(ulong descriptor)
    {
        var (offset, length) = CompressedRange(descriptor);
        return (offset >> ClusterBits, (offset + length - 1) >> ClusterBits);
    }

    /// <summary>The kind of unit <paramref name="unit"/> (subcluster, 0 without extended L2) of an entry.</summary>
    public ClusterKind Kind(ulong descriptor, ulong bitmap, int unit)
    {
        if ((descriptor & CompressedBit) != 0)
        {
            return ClusterKind.Compressed;
        }

        var held = (descriptor & OffsetMask) != 0 || (External && (descriptor & Copied) != 0);
        if (held && (descriptor & OffsetMask & (ulong)(ClusterSize - 1)) != 0)
        {
            return ClusterKind.Invalid;
        }

        if (!Extended)
        {
            return HasZeroes && (descriptor & ZeroBit) != 0 ? held ? ClusterKind.ZeroHeld : ClusterKind.Zero : held ? ClusterKind.Normal : ClusterKind.Unallocated;
        }

        var allocated = ((bitmap >> unit) & 1) != 0;
        var zero = ((bitmap >> (32 + unit)) & 1) != 0;
        return (allocated, zero) switch
        {
            (true, true) => ClusterKind.Invalid,
            (true, false) => held ? ClusterKind.Normal : ClusterKind.Invalid,
            (false, true) => held ? ClusterKind.ZeroHeld : ClusterKind.Zero,
            _ => held ? ClusterKind.UnallocatedHeld : ClusterKind.Unallocated,
        };
    }

    /// <summary>Whether an entry has a host cluster of its own that may be written in place, whatever its units are.</summary>
    public bool IsOwnCluster(ulong descriptor) =>
        (descriptor & (Copied | CompressedBit)) == Copied && (External || (descriptor & OffsetMask) != 0);
}
