using System.Buffers.Binary;
using System.Text;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Vdi;

/// <summary>The field "image type" of the header.</summary>
internal enum VdiImageType : uint
{
    Dynamic = 1,
    Static = 2,
    Undo = 3,
    Differencing = 4,
}

/// <summary>The header of a VirtualBox disk image, version 1.1: a 64-byte text, signature and version, then the fields, all little-endian.</summary>
internal sealed record VdiHeader
{
    /// <summary>Bytes that are read and written: the header's sector.</summary>
    public const int Size = 512;

    public const uint Signature = 0xBEDA_107F;

    /// <summary>Bytes in a block, VirtualBox's and the only size that QEMU reads.</summary>
    public const int DefaultBlockSize = 1 << 20;

    private const uint Version = 0x0001_0001;
    private const uint LengthFromItself = 400;
    private const int SignatureOffset = 0x40;

    public VdiImageType ImageType { get; init; } = VdiImageType.Dynamic;

    public uint BlockMapOffset { get; init; }

    public uint DataOffset { get; init; }

    public ulong DiskSize { get; init; }

    public uint BlockSize { get; init; } = DefaultBlockSize;

    public uint BlocksInImage { get; init; }

    /// <summary>Blocks that the map places; QEMU puts the next one behind so many.</summary>
    public uint BlocksAllocated { get; init; }

    public Guid Uuid { get; init; }

    public Guid ModificationUuid { get; init; }

    /// <summary>The sector as it was read: what this program does not know of it stays.</summary>
    public byte[] Bytes { get; private init; } = [];

    public static bool IsOne(ReadOnlySpan<byte> head) => head.Length >= SignatureOffset + 4 && BinaryPrimitives.ReadUInt32LittleEndian(head[SignatureOffset..]) == Signature;

    public static VdiHeader Parse(ReadOnlySpan<byte> bytes)
    {
        if (!IsOne(bytes))
        {
            throw new DiskException(DiskError.WrongFormat, "it is not an image of the format vdi");
        }

        if (bytes.Length < Size)
        {
            throw new DiskException(DiskError.Corrupt, "the file ends within its header");
        }

        var version = Field(bytes, 0x44);
        if (version != Version)
        {
            throw new DiskException(DiskError.Unsupported, $"header version {version >> 16}.{version & 0xFFFF} is not 1.1");
        }

        var header = new VdiHeader
        {
            ImageType = (VdiImageType)Field(bytes, 0x4C),
            BlockMapOffset = Field(bytes, 0x154),
            DataOffset = Field(bytes, 0x158),
            DiskSize = BinaryPrimitives.ReadUInt64LittleEndian(bytes[0x170..]),
            BlockSize = Field(bytes, 0x178),
            BlocksInImage = Field(bytes, 0x180),
            BlocksAllocated = Field(bytes, 0x184),
            Uuid = new Guid(bytes.Slice(0x188, 16)),
            ModificationUuid = new Guid(bytes.Slice(0x198, 16)),
            Bytes = bytes[..Size].ToArray(),
        };
        header.Validate(Field(bytes, 0x168), Field(bytes, 0x17C));
        return header;
    }

    public byte[] Encode()
    {
        var bytes = new byte[Size];
        Bytes.CopyTo(bytes, 0);
        if (Bytes.Length == 0)
        {
            Encoding.ASCII.GetBytes("<<< Lodge VM Virtual Disk Image >>>\n", bytes);
            Put(bytes, SignatureOffset, Signature);
            Put(bytes, 0x44, Version);
            Put(bytes, 0x48, LengthFromItself);
            Put(bytes, 0x168, 512);
        }

        Put(bytes, 0x4C, (uint)ImageType);
        Put(bytes, 0x154, BlockMapOffset);
        Put(bytes, 0x158, DataOffset);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(0x170), DiskSize);
        Put(bytes, 0x178, BlockSize);
        Put(bytes, 0x180, BlocksInImage);
        Put(bytes, 0x184, BlocksAllocated);
        Uuid.TryWriteBytes(bytes.AsSpan(0x188));
        ModificationUuid.TryWriteBytes(bytes.AsSpan(0x198));
        return bytes;
    }

    private static uint Field(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[offset..]);

    private static void Put(byte[] bytes, int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(offset), value);

    private void Validate(uint sectorSize, uint extraBytes)
    {
        if (ImageType is not (VdiImageType.Dynamic or VdiImageType.Static))
        {
            throw new DiskException(DiskError.Unsupported, $"image type {(uint)ImageType} ({ImageType}) is neither dynamic nor static");
        }

        if (sectorSize != 512 || extraBytes != 0)
        {
            throw new DiskException(DiskError.Unsupported, $"sectors of {sectorSize} bytes and {extraBytes} extra bytes in a block; only 512 and 0 are known");
        }

        if (!System.Numerics.BitOperations.IsPow2(BlockSize) || BlockSize is < 4096 or > 256 << 20)
        {
            throw new DiskException(DiskError.Corrupt, $"a block cannot have {BlockSize} bytes");
        }

        if (DiskSize > (ulong)BlocksInImage * BlockSize)
        {
            throw new DiskException(DiskError.Corrupt, $"{BlocksInImage} blocks of {BlockSize} bytes are too few for {DiskSize} bytes");
        }

        if (BlockMapOffset < Size || BlockMapOffset % 512 != 0 || DataOffset % 512 != 0 || DataOffset < BlockMapOffset + (BlocksInImage * 4L))
        {
            throw new DiskException(DiskError.Corrupt, $"the block map at {BlockMapOffset} and the data at {DataOffset} lie where they cannot");
        }
    }
}
