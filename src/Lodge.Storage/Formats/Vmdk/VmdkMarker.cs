using System.Buffers.Binary;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>What follows a metadata marker.</summary>
internal enum VmdkMarkerType : uint
{
    EndOfStream = 0,
    GrainTable = 1,
    GrainDirectory = 2,
    Footer = 3,
}

/// <summary>Markers in a stream of compressed grains (VMware, Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse Extents").</summary>
/// <param name="Value">The grain's first sector in the disk, or the sectors that follow a metadata marker.</param>
/// <param name="Size">Bytes of compressed data after a grain marker; 0 for a metadata marker.</param>
/// <param name="Type">Of a metadata marker.</param>
internal readonly record struct VmdkMarker(ulong Value, uint Size, VmdkMarkerType Type)
{
    /// <summary>Bytes of a grain marker, directly followed by the data.</summary>
    public const int GrainLength = 12;

    /// <summary>Reads at least 16 bytes.</summary>
    public static VmdkMarker Parse(ReadOnlySpan<byte> bytes) => new(
        BinaryPrimitives.ReadUInt64LittleEndian(bytes),
        BinaryPrimitives.ReadUInt32LittleEndian(bytes[8..]),
        (VmdkMarkerType)BinaryPrimitives.ReadUInt32LittleEndian(bytes[12..]));

    public static void WriteGrain(Span<byte> bytes, long sector, int size)
    {
        BinaryPrimitives.WriteInt64LittleEndian(bytes, sector);
        BinaryPrimitives.WriteInt32LittleEndian(bytes[8..], size);
    }

    /// <summary>A metadata marker, which fills a sector.</summary>
    public static byte[] Metadata(VmdkMarkerType type, long sectors)
    {
        var bytes = new byte[VmdkHeader.SectorLength];
        BinaryPrimitives.WriteInt64LittleEndian(bytes, sectors);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(12), (uint)type);
        return bytes;
    }
}
