using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vhdx;

/// <summary>An entry of the region table ([MS-VHDX] section 2.2.3.2).</summary>
internal readonly record struct VhdxRegion(Guid Id, long Offset, uint Length, bool Required)
{
    public long End => Offset + Length;
}

/// <summary>The region table ([MS-VHDX] section 2.2.3), of which the file has two copies.</summary>
internal sealed class VhdxRegions
{
    public const int Size = 64 << 10;
    public const int FirstOffset = 192 << 10;
    public const int SecondOffset = 256 << 10;

    public static readonly Guid BatId = new("2DC27766-F623-4200-9D64-115E9BFD4A08");
    public static readonly Guid MetadataId = new("8B7CA206-4790-4B9A-B8FE-575F050F886E");

    private const int EntrySize = 32;
    private const int HeaderSize = 16;
    private const int MostEntries = 2047;

    public VhdxRegions(IReadOnlyList<VhdxRegion> entries)
    {
        Entries = entries;
    }

    public IReadOnlyList<VhdxRegion> Entries { get; }

    public VhdxRegion Bat => Entries.First(region => region.Id == BatId);

    public VhdxRegion Metadata => Entries.First(region => region.Id == MetadataId);

    public static async ValueTask<VhdxRegions> ReadAsync(IStorageFile file, CancellationToken cancellation)
    {
        var bytes = await file.ReadBytesAsync(FirstOffset, Size, cancellation).ConfigureAwait(false);
        if (!IsRight(bytes))
        {
            bytes = await file.ReadBytesAsync(SecondOffset, Size, cancellation).ConfigureAwait(false);
        }

        if (!IsRight(bytes))
        {
            throw new DiskException(DiskError.Corrupt, "neither of the two region tables is right");
        }

        var count = BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(8));
        if (count > MostEntries)
        {
            throw new DiskException(DiskError.Corrupt, $"a region table cannot have {count} entries");
        }

        var entries = new List<VhdxRegion>();
        for (var index = 0; index < count; index++)
        {
            entries.Add(Parse(bytes.AsSpan(HeaderSize + (index * EntrySize), EntrySize), file.Length));
        }

        if (entries.FirstOrDefault(region => region.Required && region.Id != BatId && region.Id != MetadataId) is { Length: > 0 } unknown)
        {
            throw new DiskException(DiskError.Unsupported, $"the image needs the unknown region {unknown.Id}");
        }

        return entries.Count(region => region.Id == BatId) == 1 && entries.Count(region => region.Id == MetadataId) == 1
            ? new VhdxRegions(entries)
            : throw new DiskException(DiskError.Corrupt, "the region table does not have one block allocation table and one metadata region");
    }

    /// <summary>The same with the block allocation table elsewhere.</summary>
    public VhdxRegions WithBat(long offset, uint length) => new([.. Entries.Select(region => region.Id == BatId ? region with { Offset = offset, Length = length } : region)]);

    public byte[] Encode()
    {
        var bytes = new byte[Size];
        "regi"u8.CopyTo(bytes);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(8), (uint)Entries.Count);
        for (var index = 0; index < Entries.Count; index++)
        {
            var entry = bytes.AsSpan(HeaderSize + (index * EntrySize), EntrySize);
            Entries[index].Id.TryWriteBytes(entry);
            BinaryPrimitives.WriteInt64LittleEndian(entry[16..], Entries[index].Offset);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[24..], Entries[index].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[28..], Entries[index].Required ? 1u : 0);
        }

        VhdxChecksum.Put(bytes, 4);
        return bytes;
    }

    private static bool IsRight(byte[] bytes) => bytes.Length == Size && bytes.AsSpan().StartsWith("regi"u8) && VhdxChecksum.IsRight(bytes, 4);

    private static VhdxRegion Parse(ReadOnlySpan<byte> entry, long fileLength)
    {
        var region = new VhdxRegion(
            new Guid(entry[..16]),
            BinaryPrimitives.ReadInt64LittleEndian(entry[16..]),
            BinaryPrimitives.ReadUInt32LittleEndian(entry[24..]),
            (BinaryPrimitives.ReadUInt32LittleEndian(entry[28..]) & 1) != 0);
        return region.Offset >= VhdxHeader.SectionLength && region.Offset % VhdxHeader.SectionLength == 0 && region.Length % VhdxHeader.SectionLength == 0
            && region.Offset <= fileLength - region.Length
            ? region
            : throw new DiskException(DiskError.Corrupt, $"the region {region.Id} of {region.Length} bytes at {region.Offset} lies where it cannot");
    }
}
