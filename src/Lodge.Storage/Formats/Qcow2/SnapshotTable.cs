using System.Buffers.Binary;
using System.Text;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>An entry of the snapshot table (qcow2 specification, "Snapshots").</summary>
internal sealed record SnapshotEntry
{
    public required string Id { get; init; }

    public required string Name { get; init; }

    public long L1Offset { get; init; }

    public int L1Size { get; init; }

    public uint Seconds { get; init; }

    public uint Nanoseconds { get; init; }

    public ulong MachineNanoseconds { get; init; }

    public ulong MachineStateSize { get; init; }

    /// <summary>Size of the disk in bytes; 0 if the entry does not say.</summary>
    public long DiskSize { get; init; }

    /// <summary>Extra data after the fields known here.</summary>
    public byte[] FurtherData { get; init; } = [];

    public ImageSnapshot Describe(long presentSize) => new(
        Id,
        Name,
        (long)Math.Min(MachineStateSize, long.MaxValue),
        DateTimeOffset.FromUnixTimeSeconds(Seconds).AddTicks(Nanoseconds / 100),
        TimeSpan.FromTicks((long)(MachineNanoseconds / 100)),
        DiskSize == 0 ? presentSize : DiskSize);
}

/// <summary>Reads and writes the snapshot table.</summary>
internal static class SnapshotTable
{
    /// <summary>Largest table, in bytes.</summary>
    public const long MaximumBytes = 64 << 20;

    private const int FixedLength = 40;
    private const int KnownExtra = 16;

    /// <summary>Takes a table apart.</summary>
    /// <param name="bytes">The file's content from the table's start; may be longer than the table.</param>
    /// <param name="count">Entries.</param>
    /// <param name="clusterSize">For the alignment of L1 tables.</param>
    /// <param name="name">How messages name the file.</param>
    /// <param name="length">Bytes of the table.</param>
    public static List<SnapshotEntry> Parse(ReadOnlySpan<byte> bytes, int count, int clusterSize, string name, out int length)
    {
        var entries = new List<SnapshotEntry>();
        var at = 0;
        for (var index = 0; index < count; index++)
        {
            if (bytes.Length - at < FixedLength)
            {
                throw Corrupt(name, "is cut off");
            }

            var entry = bytes[at..];
            var idLength = BinaryPrimitives.ReadUInt16BigEndian(entry[12..]);
            var nameLength = BinaryPrimitives.ReadUInt16BigEndian(entry[14..]);
            var extra = BinaryPrimitives.ReadUInt32BigEndian(entry[36..]);
            var l1Offset = BinaryPrimitives.ReadUInt64BigEndian(entry);
            var l1Size = BinaryPrimitives.ReadUInt32BigEndian(entry[8..]);
            var total = FixedLength + (long)extra + idLength + nameLength;
            if (total > entry.Length || extra > 1024)
            {
                throw Corrupt(name, "has an entry that reaches beyond it");
            }

            if (l1Size * 8L > Qcow2Header.MaximumL1Bytes || l1Offset > long.MaxValue || ((long)l1Offset & (clusterSize - 1)) != 0)
            {
                throw Corrupt(name, $"names an L1 table of {l1Size} entries at {l1Offset}");
            }

            var size = extra >= KnownExtra ? BinaryPrimitives.ReadUInt64BigEndian(entry[48..]) : 0;
            entries.Add(new SnapshotEntry
            {
                L1Offset = (long)l1Offset,
                L1Size = (int)l1Size,
                Seconds = BinaryPrimitives.ReadUInt32BigEndian(entry[16..]),
                Nanoseconds = BinaryPrimitives.ReadUInt32BigEndian(entry[20..]),
                MachineNanoseconds = BinaryPrimitives.ReadUInt64BigEndian(entry[24..]),
                MachineStateSize = extra >= 8 ? BinaryPrimitives.ReadUInt64BigEndian(entry[40..]) : BinaryPrimitives.ReadUInt32BigEndian(entry[32..]),
                DiskSize = size <= long.MaxValue ? (long)size : throw Corrupt(name, $"names a disk of {size} bytes"),
                FurtherData = extra > KnownExtra ? entry.Slice(FixedLength + KnownExtra, (int)extra - KnownExtra).ToArray() : [],
                Id = Encoding.UTF8.GetString(entry.Slice(FixedLength + (int)extra, idLength)),
                Name = Encoding.UTF8.GetString(entry.Slice(FixedLength + (int)extra + idLength, nameLength)),
            });
            at += (int)Math.Min((total + 7) & ~7L, entry.Length);
        }

        length = at;
        return entries;
    }

    /// <summary>The bytes of a table.</summary>
    public static byte[] Write(IReadOnlyList<SnapshotEntry> entries)
    {
        using var all = new MemoryStream();
        foreach (var entry in entries)
        {
            var id = Encoding.UTF8.GetBytes(entry.Id);
            var name = Encoding.UTF8.GetBytes(entry.Name);
            var bytes = new byte[(FixedLength + KnownExtra + entry.FurtherData.Length + id.Length + name.Length + 7) & ~7];
            var at = bytes.AsSpan();
            BinaryPrimitives.WriteInt64BigEndian(at, entry.L1Offset);
            BinaryPrimitives.WriteInt32BigEndian(at[8..], entry.L1Size);
            BinaryPrimitives.WriteUInt16BigEndian(at[12..], checked((ushort)id.Length));
            BinaryPrimitives.WriteUInt16BigEndian(at[14..], checked((ushort)name.Length));
            BinaryPrimitives.WriteUInt32BigEndian(at[16..], entry.Seconds);
            BinaryPrimitives.WriteUInt32BigEndian(at[20..], entry.Nanoseconds);
            BinaryPrimitives.WriteUInt64BigEndian(at[24..], entry.MachineNanoseconds);
            BinaryPrimitives.WriteUInt32BigEndian(at[32..], (uint)Math.Min(entry.MachineStateSize, uint.MaxValue));
            BinaryPrimitives.WriteInt32BigEndian(at[36..], KnownExtra + entry.FurtherData.Length);
            BinaryPrimitives.WriteUInt64BigEndian(at[40..], entry.MachineStateSize);
            BinaryPrimitives.WriteInt64BigEndian(at[48..], entry.DiskSize);
            entry.FurtherData.CopyTo(at[56..]);
            id.CopyTo(at[(56 + entry.FurtherData.Length)..]);
            name.CopyTo(at[(56 + entry.FurtherData.Length + id.Length)..]);
            all.Write(bytes);
        }

        return all.ToArray();
    }

    private static DiskException Corrupt(string name, string what) => new(DiskError.Corrupt, $"{name}: the snapshot table {what}");
}
