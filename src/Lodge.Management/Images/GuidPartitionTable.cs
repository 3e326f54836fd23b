using System.Buffers.Binary;
using System.Text;

namespace Lodge.Management.Images;

/// <summary>A partition of a disk.</summary>
/// <param name="Type">Partition type GUID.</param>
/// <param name="Id">Unique partition GUID, which Linux calls PARTUUID.</param>
/// <param name="Offset">First byte.</param>
/// <param name="Length">Bytes.</param>
/// <param name="Name">Its name.</param>
internal sealed record GuidPartition(Guid Type, Guid Id, long Offset, long Length, string Name);

/// <summary>The GUID partition table (UEFI specification 2.10, chapter 5) of a disk with sectors of 512 bytes.</summary>
internal static class GuidPartitionTable
{
    /// <summary>Where the first partition begins, in bytes; as much is kept free at the end.</summary>
    public const long Alignment = 1 << 20;

    /// <summary>Linux root partition of x86-64 (Discoverable Partitions Specification).</summary>
    public static readonly Guid LinuxRootX64 = new("4f68bce3-e8cd-4db1-96e7-fbcaf984b709");

    private const int Sector = 512;
    private const int HeaderSize = 92;
    private const int EntrySize = 128;
    private const int Entries = 128;
    private const int TableSectors = Entries * EntrySize / Sector;
    private static ReadOnlySpan<byte> Signature => "EFI PART"u8;

    /// <summary>Writes the table with one partition that fills the disk.</summary>
    public static GuidPartition WriteSingle(Stream disk, Guid type, string name)
    {
        GuidPartition partition = new(type, Guid.NewGuid(), Alignment, disk.Length - (2 * Alignment), name);
        byte[] entries = new byte[Entries * EntrySize];
        partition.Type.TryWriteBytes(entries);
        partition.Id.TryWriteBytes(entries.AsSpan(16));
        BinaryPrimitives.WriteInt64LittleEndian(entries.AsSpan(32), partition.Offset / Sector);
        BinaryPrimitives.WriteInt64LittleEndian(entries.AsSpan(40), ((partition.Offset + partition.Length) / Sector) - 1);
        Encoding.Unicode.GetBytes(name, entries.AsSpan(56, 72));

        byte[] protective = new byte[Sector];
        Span<byte> record = protective.AsSpan(446, 16);
        record[2] = 2; // cylinder, head, sector of sector 1
        record[4] = 0xEE;
        record[5..8].Fill(0xFF);
        long sectors = disk.Length / Sector;
        BinaryPrimitives.WriteUInt32LittleEndian(record[8..], 1);
        BinaryPrimitives.WriteUInt32LittleEndian(record[12..], (uint)Math.Min(sectors - 1, uint.MaxValue));
        BinaryPrimitives.WriteUInt16LittleEndian(protective.AsSpan(510), 0xAA55);

        Guid id = Guid.NewGuid();
        Put(disk, 0, protective);
        Put(disk, Sector, Header(id, sectors, 1, sectors - 1, 2, entries));
        Put(disk, 2 * Sector, entries);
        Put(disk, disk.Length - ((TableSectors + 1) * Sector), entries);
        Put(disk, disk.Length - Sector, Header(id, sectors, sectors - 1, 1, sectors - TableSectors - 1, entries));
        return partition;
    }

    private static byte[] Header(Guid disk, long sectors, long own, long other, long table, byte[] entries)
    {
        byte[] header = new byte[Sector];
        Signature.CopyTo(header);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(8), 0x10000);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(12), HeaderSize);
        BinaryPrimitives.WriteInt64LittleEndian(header.AsSpan(24), own);
        BinaryPrimitives.WriteInt64LittleEndian(header.AsSpan(32), other);
        BinaryPrimitives.WriteInt64LittleEndian(header.AsSpan(40), 2 + TableSectors);
        BinaryPrimitives.WriteInt64LittleEndian(header.AsSpan(48), sectors - TableSectors - 2);
        disk.TryWriteBytes(header.AsSpan(56));
        BinaryPrimitives.WriteInt64LittleEndian(header.AsSpan(72), table);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(80), Entries);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(84), EntrySize);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(88), Checksum(entries));
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(16), Checksum(header.AsSpan(0, HeaderSize)));
        return header;
    }

    /// <summary>CRC-32 of ISO/IEC 8802-3 (UEFI 2.10, section 4.2).</summary>
    private static uint Checksum(ReadOnlySpan<byte> bytes)
    {
        uint crc = uint.MaxValue;
        foreach (byte value in bytes)
        {
            crc ^= value;
            for (int bit = 0; bit < 8; bit++)
            {
                crc = (crc >> 1) ^ (0xEDB88320 & (0 - (crc & 1)));
            }
        }
        return ~crc;
    }

    private static void Put(Stream disk, long offset, byte[] bytes)
    {
        disk.Position = offset;
        disk.Write(bytes);
    }
}
