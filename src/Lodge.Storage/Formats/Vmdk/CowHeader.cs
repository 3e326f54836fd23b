using System.Buffers.Binary;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>The header of an ESX host's sparse extent (VMware, Virtual Disk Format 5.0, "ESXi Host Sparse Extents": <c>COWDisk_Header</c>), which is only read.</summary>
internal static class CowHeader
{
    /// <summary>"COWD".</summary>
    public const uint Magic = 0x44574F43;

    private const int TableEntries = 4096;
    private const uint MostGrainSectors = 1 << 13;

    public static bool HasMagic(ReadOnlySpan<byte> head) => head.Length >= 4 && BinaryPrimitives.ReadUInt32LittleEndian(head) == Magic;

    /// <exception cref="DiskException"><see cref="DiskError.Unsupported"/>, <see cref="DiskError.Corrupt"/>.</exception>
    public static GrainGeometry Parse(ReadOnlySpan<byte> bytes, string name)
    {
        if (bytes.Length < VmdkHeader.Length)
        {
            throw new DiskException(DiskError.Corrupt, $"{name}: the file is cut off in its header");
        }

        var version = BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]);
        if (version != 1)
        {
            throw new DiskException(DiskError.Unsupported, $"{name} is a COWD of version {version}; known is 1");
        }

        var capacity = BinaryPrimitives.ReadUInt32LittleEndian(bytes[12..]);
        var grain = BinaryPrimitives.ReadUInt32LittleEndian(bytes[16..]);
        var count = BinaryPrimitives.ReadUInt32LittleEndian(bytes[24..]);
        if (grain is 0 or > MostGrainSectors || (grain & (grain - 1)) != 0)
        {
            throw new DiskException(DiskError.Corrupt, $"{name}: a grain size of {grain} sectors is not a power of two up to {MostGrainSectors}");
        }

        var needed = VmdkHeader.DivideUp(capacity, (long)grain * TableEntries);
        return count < needed
            ? throw new DiskException(DiskError.Corrupt, $"{name}: its directory of {count} entries is too short for {capacity} sectors")
            : new GrainGeometry
            {
                Capacity = capacity,
                GrainSectors = grain,
                TableEntries = TableEntries,
                TableCount = needed,
                DirectorySector = BinaryPrimitives.ReadUInt32LittleEndian(bytes[20..]),
            };
    }
}
