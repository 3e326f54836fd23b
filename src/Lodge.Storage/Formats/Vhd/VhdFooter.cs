using System.Buffers.Binary;
using System.Text;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Vhd;

/// <summary>The field "Disk Type" of the footer.</summary>
internal enum VhdDiskType : uint
{
    Fixed = 2,
    Dynamic = 3,
    Differencing = 4,
}

/// <summary>The hard disk footer (Virtual Hard Disk Image Format Specification, "Hard Disk Footer Format"): the last 512 bytes, and of other than fixed disks the first, too.</summary>
internal sealed record VhdFooter
{
    public const int Size = 512;

    /// <summary>"Data Offset" of a fixed disk.</summary>
    public const ulong NoData = ulong.MaxValue;

    private const int ChecksumOffset = 64;
    private const uint ReservedFeature = 2;
    private const uint FileFormatVersion = 0x0001_0000;

    /// <summary>The field "Cookie".</summary>
    public static ReadOnlySpan<byte> Cookie => "conectix"u8;

    public ulong DataOffset { get; init; } = NoData;

    /// <summary>Seconds since the year 2000, UTC.</summary>
    public uint TimeStamp { get; init; }

    public string CreatorApplication { get; init; } = "ldge";

    public ulong OriginalSize { get; init; }

    public ulong CurrentSize { get; init; }

    public VhdGeometry Geometry { get; init; }

    public VhdDiskType DiskType { get; init; }

    public Guid UniqueId { get; init; }

    public bool SavedState { get; init; }

    /// <summary>
    /// Size of the disk in bytes. Virtual PC and QEMU count cylinders, heads and sectors; all others go by "Current Size", as all do for the largest geometry.
    /// </summary>
    public long Length => CreatorApplication is "vpc " or "qemu" && Geometry.Sectors is > 0 and < VhdGeometry.MaximumSectors
        ? Geometry.Sectors * 512
        : (long)(CurrentSize / 512 * 512);

    /// <summary>The footer of a new disk.</summary>
    /// <param name="length">Size asked for, in bytes.</param>
    /// <param name="exact">Whether the size holds to the sector; else it is rounded up to a geometry, so that products that go by that see the same.</param>
    /// <param name="type">Its kind.</param>
    public static VhdFooter Create(long length, bool exact, VhdDiskType type)
    {
        var sectors = (length + 511) / 512;
        var geometry = exact ? VhdGeometry.Of(sectors) : VhdGeometry.AtLeast(sectors);
        var size = exact || geometry.Sectors < sectors || geometry.Sectors >= VhdGeometry.MaximumSectors ? sectors : geometry.Sectors;
        return new VhdFooter
        {
            DataOffset = type == VhdDiskType.Fixed ? NoData : Size,
            TimeStamp = Now(),

            // The name of Hyper-V makes others go by the size in bytes.
            CreatorApplication = exact ? "win " : "ldge",
            OriginalSize = (ulong)size * 512,
            CurrentSize = (ulong)size * 512,
            Geometry = geometry,
            DiskType = type,
            UniqueId = Guid.NewGuid(),
        };
    }

    /// <summary>The same disk with another size, by which all go to the byte.</summary>
    public VhdFooter WithLength(long length) => this with { CurrentSize = (ulong)length, Geometry = VhdGeometry.Of(length / 512), CreatorApplication = "win " };

    /// <summary>Reads a footer; null if these bytes are none or its checksum is wrong.</summary>
    /// <param name="bytes">512, or 511 as old versions of Virtual PC wrote.</param>
    public static VhdFooter? TryParse(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length < Size - 1 || !bytes.StartsWith(Cookie) || Checksum(bytes, ChecksumOffset) != BinaryPrimitives.ReadUInt32BigEndian(bytes[ChecksumOffset..]))
        {
            return null;
        }

        return new VhdFooter
        {
            DataOffset = BinaryPrimitives.ReadUInt64BigEndian(bytes[16..]),
            TimeStamp = BinaryPrimitives.ReadUInt32BigEndian(bytes[24..]),
            CreatorApplication = Encoding.Latin1.GetString(bytes.Slice(28, 4)),
            OriginalSize = BinaryPrimitives.ReadUInt64BigEndian(bytes[40..]),
            CurrentSize = BinaryPrimitives.ReadUInt64BigEndian(bytes[48..]),
            Geometry = new VhdGeometry(BinaryPrimitives.ReadUInt16BigEndian(bytes[56..]), bytes[58], bytes[59]),
            DiskType = (VhdDiskType)BinaryPrimitives.ReadUInt32BigEndian(bytes[60..]),
            UniqueId = new Guid(bytes.Slice(68, 16), bigEndian: true),
            SavedState = bytes[84] != 0,
        };
    }

    /// <summary>Fails on values that no disk can have.</summary>
    public void Validate()
    {
        if (DiskType is not (VhdDiskType.Fixed or VhdDiskType.Dynamic or VhdDiskType.Differencing))
        {
            throw new DiskException(DiskError.Unsupported, $"disk type {(uint)DiskType} is none of fixed (2), dynamic (3) and differencing (4)");
        }

        if (CurrentSize > long.MaxValue / 2)
        {
            throw new DiskException(DiskError.Corrupt, $"a disk cannot have {CurrentSize} bytes");
        }
    }

    public byte[] Encode()
    {
        var bytes = new byte[Size];
        Cookie.CopyTo(bytes);
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(8), ReservedFeature);
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(12), FileFormatVersion);
        BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(16), DataOffset);
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(24), TimeStamp);
        Encoding.Latin1.GetBytes(CreatorApplication, bytes.AsSpan(28, 4));
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(32), 0x0001_0000);
        "Wi2k"u8.CopyTo(bytes.AsSpan(36));
        BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(40), OriginalSize);
        BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(48), CurrentSize);
        BinaryPrimitives.WriteUInt16BigEndian(bytes.AsSpan(56), Geometry.Cylinders);
        bytes[58] = Geometry.Heads;
        bytes[59] = Geometry.SectorsPerTrack;
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(60), (uint)DiskType);
        UniqueId.TryWriteBytes(bytes.AsSpan(68), bigEndian: true, out _);
        bytes[84] = SavedState ? (byte)1 : (byte)0;
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(ChecksumOffset), Checksum(bytes, ChecksumOffset));
        return bytes;
    }

    /// <summary>The one's complement of the sum of all bytes but the checksum's own.</summary>
    public static uint Checksum(ReadOnlySpan<byte> bytes, int checksumOffset)
    {
        uint sum = 0;
        for (var index = 0; index < bytes.Length; index++)
        {
            sum += index >= checksumOffset && index < checksumOffset + 4 ? 0u : bytes[index];
        }

        return ~sum;
    }

    public static uint Now() => (uint)Math.Max(0, (DateTimeOffset.UtcNow - new DateTimeOffset(2000, 1, 1, 0, 0, 0, TimeSpan.Zero)).TotalSeconds);
}
