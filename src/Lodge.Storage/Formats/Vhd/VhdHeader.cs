using System.Buffers.Binary;
using System.Text;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Vhd;

/// <summary>A "Parent Locator Entry" of the dynamic disk header.</summary>
/// <param name="PlatformCode">Four letters that say what the name is: W2ru, W2ku, Wi2r, Wi2k, MacX.</param>
/// <param name="DataSpace">Room for the name in the file, in bytes; some products say it in sectors.</param>
/// <param name="DataLength">Bytes of the name.</param>
/// <param name="DataOffset">Where it is in the file.</param>
internal readonly record struct VhdParentLocator(string PlatformCode, uint DataSpace, uint DataLength, ulong DataOffset)
{
    /// <summary>Where its room ends, whichever unit was meant.</summary>
    public ulong End => DataOffset + Math.Max(DataLength, DataSpace);
}

/// <summary>The dynamic disk header (Virtual Hard Disk Image Format Specification, "Dynamic Disk Header Format").</summary>
internal sealed record VhdHeader
{
    public const int Size = 1024;

    /// <summary>What the specification recommends.</summary>
    public const int DefaultBlockSize = 2 << 20;

    private const int ChecksumOffset = 36;
    private const int NameOffset = 64;
    private const int NameLength = 512;
    private const int LocatorOffset = 576;
    private const int LocatorSize = 24;
    private const int LocatorCount = 8;
    private const int SmallestBlock = 4096;
    private const int LargestBlock = 256 << 20;

    public static ReadOnlySpan<byte> Cookie => "cxsparse"u8;

    public ulong TableOffset { get; init; }

    public uint MaxTableEntries { get; init; }

    public uint BlockSize { get; init; } = DefaultBlockSize;

    public Guid ParentUniqueId { get; init; }

    public uint ParentTimeStamp { get; init; }

    public string ParentUnicodeName { get; init; } = "";

    public IReadOnlyList<VhdParentLocator> Locators { get; init; } = [];

    /// <summary>Bytes of a block's sector bitmap, whole sectors.</summary>
    public int BitmapLength => BitmapLengthOf((int)BlockSize);

    public static int BitmapLengthOf(int blockSize) => ((blockSize / 512 / 8) + 511) / 512 * 512;

    public static VhdHeader Parse(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length < Size || !bytes.StartsWith(Cookie))
        {
            throw new DiskException(DiskError.Corrupt, "the dynamic disk header is missing");
        }

        if (VhdFooter.Checksum(bytes[..Size], ChecksumOffset) != BinaryPrimitives.ReadUInt32BigEndian(bytes[ChecksumOffset..]))
        {
            throw new DiskException(DiskError.Corrupt, "the checksum of the dynamic disk header is wrong");
        }

        var locators = new List<VhdParentLocator>();
        for (var index = 0; index < LocatorCount; index++)
        {
            var entry = bytes.Slice(LocatorOffset + (index * LocatorSize), LocatorSize);
            if (entry[..4].ContainsAnyExcept((byte)0))
            {
                locators.Add(new VhdParentLocator(
                    Encoding.Latin1.GetString(entry[..4]),
                    BinaryPrimitives.ReadUInt32BigEndian(entry[4..]),
                    BinaryPrimitives.ReadUInt32BigEndian(entry[8..]),
                    BinaryPrimitives.ReadUInt64BigEndian(entry[16..])));
            }
        }

        var blockSize = BinaryPrimitives.ReadUInt32BigEndian(bytes[32..]);
        if (!System.Numerics.BitOperations.IsPow2(blockSize) || blockSize is < SmallestBlock or > LargestBlock)
        {
            throw new DiskException(DiskError.Corrupt, $"a block cannot have {blockSize} bytes");
        }

        var name = Encoding.BigEndianUnicode.GetString(bytes.Slice(NameOffset, NameLength));
        return new VhdHeader
        {
            TableOffset = BinaryPrimitives.ReadUInt64BigEndian(bytes[16..]),
            MaxTableEntries = BinaryPrimitives.ReadUInt32BigEndian(bytes[28..]),
            BlockSize = blockSize,
            ParentUniqueId = new Guid(bytes.Slice(40, 16), bigEndian: true),
            ParentTimeStamp = BinaryPrimitives.ReadUInt32BigEndian(bytes[56..]),
            ParentUnicodeName = name.IndexOf('\0') is var end and >= 0 ? name[..end] : name,
            Locators = locators,
        };
    }

    public byte[] Encode()
    {
        var bytes = new byte[Size];
        Cookie.CopyTo(bytes);
        BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(8), ulong.MaxValue);
        BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(16), TableOffset);
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(24), 0x0001_0000);
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(28), MaxTableEntries);
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(32), BlockSize);
        ParentUniqueId.TryWriteBytes(bytes.AsSpan(40), bigEndian: true, out _);
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(56), ParentTimeStamp);
        var name = Encoding.BigEndianUnicode.GetBytes(ParentUnicodeName);
        name.AsSpan(0, Math.Min(name.Length, NameLength - 2)).CopyTo(bytes.AsSpan(NameOffset));
        for (var index = 0; index < Locators.Count; index++)
        {
            var entry = bytes.AsSpan(LocatorOffset + (index * LocatorSize), LocatorSize);
            Encoding.Latin1.GetBytes(Locators[index].PlatformCode, entry[..4]);
            BinaryPrimitives.WriteUInt32BigEndian(entry[4..], Locators[index].DataSpace);
            BinaryPrimitives.WriteUInt32BigEndian(entry[8..], Locators[index].DataLength);
            BinaryPrimitives.WriteUInt64BigEndian(entry[16..], Locators[index].DataOffset);
        }

        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(ChecksumOffset), VhdFooter.Checksum(bytes, ChecksumOffset));
        return bytes;
    }
}
