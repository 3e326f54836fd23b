using System.Buffers.Binary;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vhdx;

/// <summary>An entry of the metadata table ([MS-VHDX] section 2.6.1.2).</summary>
internal readonly record struct VhdxMetadataItem(Guid Id, uint Offset, uint Length, uint Flags);

/// <summary>The metadata region ([MS-VHDX] section 2.6): block size, disk size, sector sizes, identity, and the parent locator.</summary>
internal sealed record VhdxMetadata
{
    /// <summary>Bytes of the metadata table; the items lie behind it.</summary>
    public const int TableSize = 64 << 10;

    public const uint HasParentFlag = 2;

    private const uint LeaveBlocksAllocatedFlag = 1;
    private const uint UserFlag = 1;
    private const uint VirtualDiskFlag = 2;
    private const uint RequiredFlag = 4;
    private const int EntrySize = 32;
    private const int MostEntries = 1023;
    private const int LongestItem = 1 << 20;

    private static readonly Guid FileParametersId = new("CAA16737-FA36-4D43-B3B6-33F0AA44E76B");
    private static readonly Guid DiskSizeId = new("2FA54224-CD1B-4876-B211-5DBED83BF4B8");
    private static readonly Guid Page83Id = new("BECA12AB-B2E6-4523-93EF-C309E000C746");
    private static readonly Guid LogicalSectorId = new("8141BF1D-A96F-4709-BA47-F233A8FAAB5F");
    private static readonly Guid PhysicalSectorId = new("CDA348C7-445D-4471-9CC9-E9885251C556");
    private static readonly Guid ParentLocatorId = new("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C");

    public uint BlockSize { get; init; }

    public bool LeaveBlocksAllocated { get; init; }

    public bool HasParent { get; init; }

    public ulong DiskSize { get; init; }

    public Guid Page83 { get; init; }

    public uint LogicalSectorSize { get; init; } = 512;

    public uint PhysicalSectorSize { get; init; } = 4096;

    public VhdxParentLocator? Parent { get; init; }

    public IReadOnlyList<VhdxMetadataItem> Items { get; init; } = [];

    /// <summary>Blocks of a disk to which one block of sector bitmaps belongs.</summary>
    public int ChunkRatio => (int)((long)LogicalSectorSize * (1 << 23) / BlockSize);

    public static async ValueTask<VhdxMetadata> ReadAsync(IStorageFile file, VhdxRegion region, CancellationToken cancellation)
    {
        if (region.Length < TableSize)
        {
            throw new DiskException(DiskError.Corrupt, "the metadata region is empty");
        }

        var items = ParseTable(await file.ReadBytesAsync(region.Offset, TableSize, cancellation).ConfigureAwait(false), region.Length);
        var parameters = await ItemAsync(FileParametersId, 8).ConfigureAwait(false);
        var flags = BinaryPrimitives.ReadUInt32LittleEndian(parameters.AsSpan(4));
        var metadata = new VhdxMetadata
        {
            Items = items,
            BlockSize = BinaryPrimitives.ReadUInt32LittleEndian(parameters),
            LeaveBlocksAllocated = (flags & LeaveBlocksAllocatedFlag) != 0,
            HasParent = (flags & HasParentFlag) != 0,
            DiskSize = BinaryPrimitives.ReadUInt64LittleEndian(await ItemAsync(DiskSizeId, 8).ConfigureAwait(false)),
            Page83 = new Guid(await ItemAsync(Page83Id, 16).ConfigureAwait(false)),
            LogicalSectorSize = BinaryPrimitives.ReadUInt32LittleEndian(await ItemAsync(LogicalSectorId, 4).ConfigureAwait(false)),
            PhysicalSectorSize = BinaryPrimitives.ReadUInt32LittleEndian(await ItemAsync(PhysicalSectorId, 4).ConfigureAwait(false)),
        };
        metadata.Validate();
        return metadata.HasParent ? metadata with { Parent = VhdxParentLocator.Parse(await ItemAsync(ParentLocatorId, -1).ConfigureAwait(false)) } : metadata;

        async ValueTask<byte[]> ItemAsync(Guid id, int length)
        {
            var item = items.FirstOrDefault(item => item.Id == id && (item.Flags & UserFlag) == 0);
            return item.Id == id && (length < 0 ? item.Length is > 0 and <= LongestItem : item.Length >= length)
                ? await file.ReadBytesAsync(region.Offset + item.Offset, length < 0 ? (int)item.Length : length, cancellation).ConfigureAwait(false)
                : throw new DiskException(DiskError.Corrupt, $"the metadata item {id} is missing or too short");
        }
    }

    /// <summary>Where in the region the disk's size is.</summary>
    public long DiskSizeOffset => Items.First(item => item.Id == DiskSizeId).Offset;

    /// <summary>Where in the region the file parameters are.</summary>
    public long FileParametersOffset => Items.First(item => item.Id == FileParametersId).Offset;

    /// <summary>The region of a new image.</summary>
    public byte[] Create()
    {
        var parent = Parent?.Encode() ?? [];
        var bytes = new byte[TableSize + 4096 + (parent.Length == 0 ? 0 : VhdxParentLocator.Space)];
        uint at = TableSize;
        var items = new List<VhdxMetadataItem>
        {
            new(FileParametersId, at, 8, RequiredFlag),
            new(DiskSizeId, at + 8, 8, RequiredFlag | VirtualDiskFlag),
            new(Page83Id, at + 16, 16, RequiredFlag | VirtualDiskFlag),
            new(LogicalSectorId, at + 32, 4, RequiredFlag | VirtualDiskFlag),
            new(PhysicalSectorId, at + 36, 4, RequiredFlag | VirtualDiskFlag),
        };
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan((int)at), BlockSize);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan((int)at + 4), Flags);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan((int)at + 8), DiskSize);
        Page83.TryWriteBytes(bytes.AsSpan((int)at + 16));
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan((int)at + 32), LogicalSectorSize);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan((int)at + 36), PhysicalSectorSize);
        if (parent.Length > 0)
        {
            items.Add(new VhdxMetadataItem(ParentLocatorId, at + 4096, (uint)parent.Length, RequiredFlag));
            parent.CopyTo(bytes, (int)at + 4096);
        }

        EncodeTable(items).CopyTo(bytes, 0);
        return bytes;
    }

    /// <summary>The same with another parent locator, or none; the new one is put behind all items.</summary>
    public VhdxMetadata WithParent(VhdxParentLocator? parent)
    {
        var items = Items.Where(item => item.Id != ParentLocatorId).ToList();
        if (parent is not null)
        {
            // Not over the old one, which holds until the table is written; nor always behind all, which would come to an end.
            var old = Items.FirstOrDefault(item => item.Id == ParentLocatorId);
            var first = Math.Max(items.Max(item => item.Offset + item.Length), TableSize);
            first = (first + 4095) / 4096 * 4096;
            var place = old.Length > 0 && old.Offset < first + VhdxParentLocator.Space && old.Offset + old.Length > first ? (old.Offset + old.Length + 4095) / 4096 * 4096 : first;
            items.Add(new VhdxMetadataItem(ParentLocatorId, place, (uint)parent.Encode().Length, RequiredFlag));
        }

        return this with { Items = items, Parent = parent, HasParent = parent is not null };
    }

    /// <summary>Where in the region the parent locator is.</summary>
    public long ParentOffset => Items.First(item => item.Id == ParentLocatorId).Offset;

    /// <summary>The second word of the file parameters.</summary>
    public uint Flags => (LeaveBlocksAllocated ? LeaveBlocksAllocatedFlag : 0) | (HasParent ? HasParentFlag : 0);

    /// <summary>The table's first bytes, as many as it needs, in whole sectors of 4096 bytes.</summary>
    public static byte[] EncodeTable(IReadOnlyList<VhdxMetadataItem> items)
    {
        var bytes = new byte[(((items.Count + 1) * EntrySize) + 4095) / 4096 * 4096];
        "metadata"u8.CopyTo(bytes);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(10), (ushort)items.Count);
        for (var index = 0; index < items.Count; index++)
        {
            var entry = bytes.AsSpan((index + 1) * EntrySize, EntrySize);
            items[index].Id.TryWriteBytes(entry);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[16..], items[index].Offset);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[20..], items[index].Length);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[24..], items[index].Flags);
        }

        return bytes;
    }

    private static List<VhdxMetadataItem> ParseTable(ReadOnlySpan<byte> bytes, uint regionLength)
    {
        var count = bytes.StartsWith("metadata"u8) ? BinaryPrimitives.ReadUInt16LittleEndian(bytes[10..]) : 0;
        if (count is 0 or > MostEntries)
        {
            throw new DiskException(DiskError.Corrupt, "the metadata table is missing or has too many entries");
        }

        var items = new List<VhdxMetadataItem>();
        for (var index = 1; index <= count; index++)
        {
            var entry = bytes.Slice(index * EntrySize, EntrySize);
            var item = new VhdxMetadataItem(
                new Guid(entry[..16]),
                BinaryPrimitives.ReadUInt32LittleEndian(entry[16..]),
                BinaryPrimitives.ReadUInt32LittleEndian(entry[20..]),
                BinaryPrimitives.ReadUInt32LittleEndian(entry[24..]));
            if (item.Length > 0 && (item.Offset < TableSize || item.Offset > regionLength || item.Length > regionLength - item.Offset))
            {
                throw new DiskException(DiskError.Corrupt, $"the metadata item {item.Id} lies outside of its region");
            }

            if ((item.Flags & RequiredFlag) != 0 && !IsKnown(item.Id))
            {
                throw new DiskException(DiskError.Unsupported, $"the image needs the unknown metadata item {item.Id}");
            }

            items.Add(item);
        }

        return items;
    }

    private static bool IsKnown(Guid id) =>
        id == FileParametersId || id == DiskSizeId || id == Page83Id || id == LogicalSectorId || id == PhysicalSectorId || id == ParentLocatorId;

    private void Validate()
    {
        if (!System.Numerics.BitOperations.IsPow2(BlockSize) || BlockSize is < 1 << 20 or > 256 << 20)
        {
            throw new DiskException(DiskError.Corrupt, $"a block cannot have {BlockSize} bytes");
        }

        if (LogicalSectorSize is not (512 or 4096))
        {
            throw new DiskException(DiskError.Corrupt, $"a sector cannot have {LogicalSectorSize} bytes");
        }

        if (DiskSize > VhdxFormat.MaximumLength || DiskSize % LogicalSectorSize != 0)
        {
            throw new DiskException(DiskError.Corrupt, $"a disk cannot have {DiskSize} bytes");
        }
    }
}

/// <summary>The parent locator ([MS-VHDX] section 2.6.2.6): names of the parent and its identity.</summary>
internal sealed class VhdxParentLocator(IReadOnlyDictionary<string, string> values)
{
    /// <summary>Room for a locator in the region, in bytes.</summary>
    public const int Space = 12 << 10;

    private const int HeaderSize = 20;
    private const int EntrySize = 12;
    private const int MostEntries = 64;

    private static readonly Guid VhdxType = new("B04AEFB7-D19E-4A81-B789-25B8E9445913");

    /// <summary>Whether a parent with this "DataWriteGuid" is the one.</summary>
    public bool IsIdentity(Guid dataWriteGuid) =>
        (values.TryGetValue("parent_linkage", out var first) && Guid.TryParse(first, out var id) && id == dataWriteGuid)
        || (values.TryGetValue("parent_linkage2", out var second) && Guid.TryParse(second, out id) && id != Guid.Empty && id == dataWriteGuid);

    /// <summary>The parent's names as paths of this host, the relative one first.</summary>
    public IReadOnlyList<string> Names => [.. new[] { "relative_path", "volume_path", "absolute_win32_path" }.Select(Path).OfType<string>().Distinct()];

    public static VhdxParentLocator Create(string name, Guid dataWriteGuid)
    {
        var absolute = name.StartsWith('/');
        var locator = new VhdxParentLocator(new Dictionary<string, string>
        {
            ["parent_linkage"] = dataWriteGuid.ToString("B"),
            [absolute ? "absolute_win32_path" : "relative_path"] = absolute ? name : ".\\" + name.Replace('/', '\\'),
        });
        return name.Length <= 4096 ? locator : throw new DiskException(DiskError.InvalidOption, $"option 'backing_file' has {name.Length} characters; 4096 are the most");
    }

    public static VhdxParentLocator Parse(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length < HeaderSize || new Guid(bytes[..16]) != VhdxType)
        {
            throw new DiskException(DiskError.Unsupported, "the parent locator is of an unknown type");
        }

        var count = BinaryPrimitives.ReadUInt16LittleEndian(bytes[18..]);
        if (count > MostEntries || HeaderSize + (count * EntrySize) > bytes.Length)
        {
            throw new DiskException(DiskError.Corrupt, $"a parent locator cannot have {count} entries");
        }

        var values = new Dictionary<string, string>();
        for (var index = 0; index < count; index++)
        {
            var entry = bytes.Slice(HeaderSize + (index * EntrySize), EntrySize);
            var key = Text(bytes, BinaryPrimitives.ReadUInt32LittleEndian(entry), BinaryPrimitives.ReadUInt16LittleEndian(entry[8..]));
            values[key] = Text(bytes, BinaryPrimitives.ReadUInt32LittleEndian(entry[4..]), BinaryPrimitives.ReadUInt16LittleEndian(entry[10..]));
        }

        return new VhdxParentLocator(values);
    }

    public byte[] Encode()
    {
        var bytes = new byte[HeaderSize + (values.Count * EntrySize) + values.Sum(pair => (pair.Key.Length + pair.Value.Length) * 2)];
        VhdxType.TryWriteBytes(bytes);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(18), (ushort)values.Count);
        var at = HeaderSize + (values.Count * EntrySize);
        var index = 0;
        foreach (var (key, value) in values)
        {
            var entry = bytes.AsSpan(HeaderSize + (index++ * EntrySize), EntrySize);
            BinaryPrimitives.WriteInt32LittleEndian(entry, at);
            BinaryPrimitives.WriteUInt16LittleEndian(entry[8..], (ushort)(key.Length * 2));
            at += Encoding.Unicode.GetBytes(key, bytes.AsSpan(at));
            BinaryPrimitives.WriteInt32LittleEndian(entry[4..], at);
            BinaryPrimitives.WriteUInt16LittleEndian(entry[10..], (ushort)(value.Length * 2));
            at += Encoding.Unicode.GetBytes(value, bytes.AsSpan(at));
        }

        return bytes;
    }

    private static string Text(ReadOnlySpan<byte> bytes, uint offset, ushort length) => offset <= bytes.Length && length <= bytes.Length - offset
        ? Encoding.Unicode.GetString(bytes.Slice((int)offset, length))
        : throw new DiskException(DiskError.Corrupt, "an entry of the parent locator lies outside of it");

    // A drive's letter or a volume means nothing here: such a parent is looked for beside the image.
    private string? Path(string key)
    {
        if (!values.TryGetValue(key, out var name) || name.Length == 0)
        {
            return null;
        }

        name = name.Replace('\\', '/');
        while (name.StartsWith("./", StringComparison.Ordinal))
        {
            name = name[2..];
        }

        return (name.Length > 1 && name[1] == ':') || name.StartsWith("//", StringComparison.Ordinal) ? name[(name.LastIndexOfAny(['/', ':']) + 1)..] : name;
    }
}
