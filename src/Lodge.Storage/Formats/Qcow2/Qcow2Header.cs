using System.Buffers.Binary;
using System.Text;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>Bits of <c>incompatible_features</c> (qcow2 specification, "Header").</summary>
[Flags]
internal enum IncompatibleFeatures : ulong
{
    None = 0,
    Dirty = 1,
    Corrupt = 2,
    DataFile = 4,
    CompressionType = 8,
    ExtendedL2 = 16,
    Known = 31,
}

/// <summary>Bits of <c>autoclear_features</c>.</summary>
[Flags]
internal enum AutoclearFeatures : ulong
{
    None = 0,
    Bitmaps = 1,
    RawDataFile = 2,
    Known = 3,
}

/// <summary>How the content is encrypted (<c>crypt_method</c>).</summary>
internal enum CryptMethod : uint
{
    None = 0,
    Aes = 1,
    Luks = 2,
}

/// <summary>A header extension, kept as it is in the file.</summary>
internal sealed record HeaderExtension(uint Type, byte[] Data);

/// <summary>
/// The header of a qcow2 image with its extensions and the backing file's name (qcow2 specification, "Header" and "Header extensions"). All that a later
/// version of the format may have added is kept when the header is written again.
/// </summary>
internal sealed class Qcow2Header
{
    public const uint Magic = 0x514649fb;
    public const ulong LazyRefcountsBit = 1;
    public const uint BackingFormatType = 0xe2792aca;
    public const uint FeatureNamesType = 0x6803f857;
    public const uint BitmapsType = 0x23852875;
    public const uint CryptType = 0x0537be77;
    public const uint DataFileType = 0x44415441;
    public const int MinimumClusterBits = 9;
    public const int MaximumClusterBits = 21;

    /// <summary>Largest L1 table, in bytes.</summary>
    public const long MaximumL1Bytes = 32 << 20;

    /// <summary>Largest refcount table, in bytes.</summary>
    public const long MaximumRefcountTableBytes = 8 << 20;

    /// <summary>Most snapshots.</summary>
    public const int MaximumSnapshots = 65536;

    private const int Version2Length = 72;
    private const int Version3Length = 104;
    private const int CreatedLength = 112;

    public int Version { get; set; } = 3;

    public int ClusterBits { get; set; } = 16;

    public long Size { get; set; }

    public CryptMethod Crypt { get; set; }

    public int L1Size { get; set; }

    public long L1Offset { get; set; }

    public long RefcountTableOffset { get; set; }

    public int RefcountTableClusters { get; set; }

    public int SnapshotCount { get; set; }

    public long SnapshotsOffset { get; set; }

    public IncompatibleFeatures Incompatible { get; set; }

    public ulong Compatible { get; set; }

    public ulong Autoclear { get; set; }

    public int RefcountOrder { get; set; } = 4;

    /// <summary>0 zlib, 1 zstd.</summary>
    public int CompressionType { get; set; }

    public string? BackingName { get; set; }

    public List<HeaderExtension> Extensions { get; } = [];

    /// <summary>Header bytes after <c>compression_type</c> that this version does not know.</summary>
    public byte[] FurtherFields { get; private set; } = [];

    /// <summary>Length of the fields; kept as it is in the file, so that the extensions after them do not move.</summary>
    public int HeaderLength { get; set; } = CreatedLength;

    public int ClusterSize => 1 << ClusterBits;

    public bool LazyRefcounts => (Compatible & LazyRefcountsBit) != 0;

    public bool Extended => (Incompatible & IncompatibleFeatures.ExtendedL2) != 0;

    public bool HasDataFile => (Incompatible & IncompatibleFeatures.DataFile) != 0;

    public bool RawDataFile => (Autoclear & (ulong)AutoclearFeatures.RawDataFile) != 0;

    public string? BackingFormat
    {
        get => Text(BackingFormatType);
        set => SetExtension(BackingFormatType, value is null ? null : Encoding.UTF8.GetBytes(value));
    }

    public string? DataFileName
    {
        get => Text(DataFileType);
        set => SetExtension(DataFileType, value is null ? null : Encoding.UTF8.GetBytes(value));
    }

    /// <summary>Reads a header from the first bytes of a file.</summary>
    /// <param name="head">The file's beginning: at least a cluster, or the whole file.</param>
    /// <param name="name">How messages name the file.</param>
    /// <exception cref="DiskException"><see cref="DiskError.WrongFormat"/>, <see cref="DiskError.Corrupt"/>, <see cref="DiskError.Unsupported"/>.</exception>
    public static Qcow2Header Parse(ReadOnlySpan<byte> head, string name)
    {
        if (head.Length < Version2Length || BinaryPrimitives.ReadUInt32BigEndian(head) != Magic)
        {
            throw new DiskException(DiskError.WrongFormat, $"{name} is not a qcow2 image");
        }

        var version = BinaryPrimitives.ReadUInt32BigEndian(head[4..]);
        if (version is not (2 or 3))
        {
            throw new DiskException(DiskError.Unsupported, $"{name}: version {version} of the qcow2 format is not known (2 and 3 are)");
        }

        var header = new Qcow2Header
        {
            Version = (int)version,
            ClusterBits = Small(head[20..], MinimumClusterBits, MaximumClusterBits, name, "cluster_bits"),
            Size = Offset(head[24..], name, "size"),
            Crypt = (CryptMethod)Small(head[32..], 0, 2, name, "crypt_method"),
            L1Size = Small(head[36..], 0, (int)(MaximumL1Bytes / 8), name, "l1_size"),
            L1Offset = Offset(head[40..], name, "l1_table_offset"),
            RefcountTableOffset = Offset(head[48..], name, "refcount_table_offset"),
            SnapshotCount = Small(head[60..], 0, MaximumSnapshots, name, "nb_snapshots"),
            SnapshotsOffset = Offset(head[64..], name, "snapshots_offset"),
        };
        header.RefcountTableClusters = Small(head[56..], 0, (int)(MaximumRefcountTableBytes >> header.ClusterBits), name, "refcount_table_clusters");
        var length = Version2Length;
        if (version >= 3)
        {
            if (head.Length < Version3Length)
            {
                throw Corrupt(name, "the header is cut off");
            }

            header.Incompatible = (IncompatibleFeatures)BinaryPrimitives.ReadUInt64BigEndian(head[72..]);
            header.Compatible = BinaryPrimitives.ReadUInt64BigEndian(head[80..]);
            header.Autoclear = BinaryPrimitives.ReadUInt64BigEndian(head[88..]);
            header.RefcountOrder = Small(head[96..], 0, 6, name, "refcount_order");
            length = Small(head[100..], Version3Length, 1 << header.ClusterBits, name, "header_length");
            if (length % 8 != 0 || length > head.Length)
            {
                throw Corrupt(name, $"header_length is {length}");
            }

            header.HeaderLength = length;
            header.CompressionType = length > 104 ? head[104] : 0;
            header.FurtherFields = length > 105 ? head[105..length].ToArray() : [];
        }

        header.ParseExtensions(head, length, name);
        header.ParseBackingName(head, name);
        header.Validate(name);
        return header;
    }

    /// <summary>The header with extensions and backing name as they stand at the start of the file.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>: it does not fit into one cluster.</exception>
    public byte[] Write()
    {
        var fixedPart = WriteFields();
        using var bytes = new MemoryStream();
        bytes.Write(fixedPart);
        var start = bytes.Length;
        Span<byte> pair = stackalloc byte[8];
        var name = BackingName is null ? [] : Encoding.UTF8.GetBytes(BackingName);
        var needed = start + Extensions.Sum(extension => 8 + ((extension.Data.Length + 7L) & ~7)) + 8 + name.Length;
        foreach (var extension in Extensions)
        {
            if (extension.Type == FeatureNamesType && needed > ClusterSize)
            {
                // Names are a courtesy; in a small cluster there may be no room.
                continue;
            }

            BinaryPrimitives.WriteUInt32BigEndian(pair, extension.Type);
            BinaryPrimitives.WriteUInt32BigEndian(pair[4..], (uint)extension.Data.Length);
            bytes.Write(pair);
            bytes.Write(extension.Data);
            bytes.Write(new byte[-extension.Data.Length & 7]);
        }

        bytes.Write(new byte[8]);
        var backingOffset = bytes.Length;
        bytes.Write(name);
        if (bytes.Length > ClusterSize || name.Length > 1023)
        {
            throw new DiskException(DiskError.InvalidOption, $"the names in the header take {bytes.Length} bytes; a header has {ClusterSize}: give a larger cluster_size or a shorter name");
        }

        var all = bytes.ToArray();
        if (BackingName is not null)
        {
            BinaryPrimitives.WriteInt64BigEndian(all.AsSpan(8), backingOffset);
            BinaryPrimitives.WriteInt32BigEndian(all.AsSpan(16), name.Length);
        }

        return all;
    }

    /// <summary>A copy that changes apart.</summary>
    public Qcow2Header Clone()
    {
        var copy = new Qcow2Header();
        copy.CopyFrom(this);
        return copy;
    }

    /// <summary>Takes over all of another header.</summary>
    public void CopyFrom(Qcow2Header other)
    {
        (Version, ClusterBits, Size, Crypt, L1Size, L1Offset) = (other.Version, other.ClusterBits, other.Size, other.Crypt, other.L1Size, other.L1Offset);
        (RefcountTableOffset, RefcountTableClusters, SnapshotCount, SnapshotsOffset) =
            (other.RefcountTableOffset, other.RefcountTableClusters, other.SnapshotCount, other.SnapshotsOffset);
        (Incompatible, Compatible, Autoclear, RefcountOrder) = (other.Incompatible, other.Compatible, other.Autoclear, other.RefcountOrder);
        (CompressionType, BackingName, FurtherFields, HeaderLength) = (other.CompressionType, other.BackingName, other.FurtherFields, other.HeaderLength);
        var extensions = other.Extensions.ToArray();
        Extensions.Clear();
        Extensions.AddRange(extensions);
    }

    public void SetExtension(uint type, byte[]? data)
    {
        var at = Extensions.FindIndex(extension => extension.Type == type);
        if (at >= 0)
        {
            Extensions.RemoveAt(at);
        }

        if (data is not null)
        {
            Extensions.Insert(at >= 0 ? at : 0, new HeaderExtension(type, data));
        }
    }

    public HeaderExtension? Extension(uint type) => Extensions.Find(extension => extension.Type == type);

    /// <summary>Adds the table of feature names that version 3 images carry for programs that do not know a feature.</summary>
    public void AddFeatureNames()
    {
        (byte Kind, byte Bit, string Name)[] names =
        [
            (0, 0, "dirty bit"), (0, 1, "corrupt bit"), (0, 2, "external data file"), (0, 3, "compression type"), (0, 4, "extended L2 entries"),
            (1, 0, "lazy refcounts"), (2, 0, "bitmaps"), (2, 1, "raw external data"),
        ];
        var data = new byte[names.Length * 48];
        for (var index = 0; index < names.Length; index++)
        {
            data[index * 48] = names[index].Kind;
            data[(index * 48) + 1] = names[index].Bit;
            Encoding.ASCII.GetBytes(names[index].Name, data.AsSpan((index * 48) + 2));
        }

        SetExtension(FeatureNamesType, null);
        Extensions.Add(new HeaderExtension(FeatureNamesType, data));
    }

    private static DiskException Corrupt(string name, string what) => new(DiskError.Corrupt, $"{name}: the qcow2 header is corrupt: {what}");

    private static int Small(ReadOnlySpan<byte> field, int minimum, int maximum, string name, string what)
    {
        var value = BinaryPrimitives.ReadUInt32BigEndian(field);
        return value >= minimum && value <= maximum ? (int)value : throw Corrupt(name, $"{what} is {value}, which is not in {minimum} to {maximum}");
    }

    private static long Offset(ReadOnlySpan<byte> field, string name, string what)
    {
        var value = BinaryPrimitives.ReadUInt64BigEndian(field);
        return value <= long.MaxValue ? (long)value : throw Corrupt(name, $"{what} is {value}");
    }

    private string? Text(uint type) => Extension(type) is { } extension ? Encoding.UTF8.GetString(extension.Data).TrimEnd('\0') : null;

    private byte[] WriteFields()
    {
        var length = Version == 2 ? Version2Length : Math.Max(HeaderLength, CompressionType != 0 ? CreatedLength : Version3Length);
        var bytes = new byte[length];
        var at = bytes.AsSpan();
        BinaryPrimitives.WriteUInt32BigEndian(at, Magic);
        BinaryPrimitives.WriteInt32BigEndian(at[4..], Version);
        BinaryPrimitives.WriteInt32BigEndian(at[20..], ClusterBits);
        BinaryPrimitives.WriteInt64BigEndian(at[24..], Size);
        BinaryPrimitives.WriteUInt32BigEndian(at[32..], (uint)Crypt);
        BinaryPrimitives.WriteInt32BigEndian(at[36..], L1Size);
        BinaryPrimitives.WriteInt64BigEndian(at[40..], L1Offset);
        BinaryPrimitives.WriteInt64BigEndian(at[48..], RefcountTableOffset);
        BinaryPrimitives.WriteInt32BigEndian(at[56..], RefcountTableClusters);
        BinaryPrimitives.WriteInt32BigEndian(at[60..], SnapshotCount);
        BinaryPrimitives.WriteInt64BigEndian(at[64..], SnapshotsOffset);
        if (Version >= 3)
        {
            BinaryPrimitives.WriteUInt64BigEndian(at[72..], (ulong)Incompatible);
            BinaryPrimitives.WriteUInt64BigEndian(at[80..], Compatible);
            BinaryPrimitives.WriteUInt64BigEndian(at[88..], Autoclear);
            BinaryPrimitives.WriteInt32BigEndian(at[96..], RefcountOrder);
            BinaryPrimitives.WriteInt32BigEndian(at[100..], length);
            if (length > 104)
            {
                bytes[104] = (byte)CompressionType;
                FurtherFields.CopyTo(at[105..]);
            }
        }

        return bytes;
    }

    private void ParseExtensions(ReadOnlySpan<byte> head, int start, string name)
    {
        var backing = BinaryPrimitives.ReadUInt64BigEndian(head[8..]);
        var end = (int)Math.Min((ulong)Math.Min(head.Length, ClusterSize), backing == 0 ? ulong.MaxValue : backing);
        var at = start;
        var seen = new HashSet<uint>();
        while (at + 8 <= end)
        {
            var type = BinaryPrimitives.ReadUInt32BigEndian(head[at..]);
            var length = BinaryPrimitives.ReadUInt32BigEndian(head[(at + 4)..]);
            at += 8;
            if (length > end - at)
            {
                throw Corrupt(name, $"the header extension {type:x8} of {length} bytes reaches beyond the header");
            }

            if (type == 0)
            {
                return;
            }

            if (!seen.Add(type))
            {
                throw Corrupt(name, $"the header extension {type:x8} appears twice");
            }

            Extensions.Add(new HeaderExtension(type, head.Slice(at, (int)length).ToArray()));
            at += (int)((length + 7) & ~7u);
        }
    }

    private void ParseBackingName(ReadOnlySpan<byte> head, string name)
    {
        var offset = BinaryPrimitives.ReadUInt64BigEndian(head[8..]);
        var length = BinaryPrimitives.ReadUInt32BigEndian(head[16..]);
        if (offset == 0 || (length == 0 && offset <= (ulong)ClusterSize))
        {
            return;
        }

        if (length > 1023 || offset > (ulong)Math.Min(head.Length, ClusterSize) - length)
        {
            throw Corrupt(name, $"the backing file's name of {length} bytes at {offset} does not lie in the first cluster");
        }

        BackingName = Encoding.UTF8.GetString(head.Slice((int)offset, (int)length));
    }

    private void Validate(string name)
    {
        var unknown = (ulong)(Incompatible & ~IncompatibleFeatures.Known);
        if (unknown != 0)
        {
            throw new DiskException(DiskError.Unsupported, $"{name} uses features of qcow2 that are not known here: {FeatureNames(unknown)}");
        }

        var mask = ClusterSize - 1;
        if ((L1Offset & mask) != 0 || (RefcountTableOffset & mask) != 0 || (SnapshotsOffset & mask) != 0)
        {
            throw Corrupt(name, "a table does not start at a cluster");
        }

        if (CompressionType > 1)
        {
            throw new DiskException(DiskError.Unsupported, $"{name}: compression type {CompressionType} is not known (0, zlib, and 1, zstd, are)");
        }

        if (CompressionType != 0 != ((Incompatible & IncompatibleFeatures.CompressionType) != 0))
        {
            throw Corrupt(name, "compression_type and its feature bit contradict each other");
        }

        if (Extended && ClusterBits < 14)
        {
            throw Corrupt(name, $"extended L2 entries need clusters of at least 16 KiB; these have {ClusterSize} bytes");
        }

        var perTable = ClusterBits + ClusterBits - (Extended ? 4 : 3);
        if (Size > 0 && (Size - 1) >> perTable >= L1Size)
        {
            throw Corrupt(name, $"the L1 table of {L1Size} entries is too small for {Size} bytes");
        }

        if (RefcountTableClusters == 0 || RefcountTableOffset == 0)
        {
            throw Corrupt(name, "there is no refcount table");
        }

        if (SnapshotCount > 0 && (SnapshotsOffset == 0 || HasDataFile))
        {
            throw Corrupt(name, "snapshots without a place, or with an external data file");
        }
    }

    private string FeatureNames(ulong bits)
    {
        var table = Extension(FeatureNamesType)?.Data ?? [];
        var names = new List<string>();
        for (var bit = 0; bit < 64; bit++)
        {
            if ((bits & (1UL << bit)) == 0)
            {
                continue;
            }

            var name = $"bit {bit}";
            for (var at = 0; at + 48 <= table.Length; at += 48)
            {
                if (table[at] == 0 && table[at + 1] == bit)
                {
                    // The text is the file's: only printable characters of it reach a message.
                    name = string.Concat(Encoding.ASCII.GetString(table, at + 2, 46).TrimEnd('\0').Where(letter => letter is >= ' ' and < '\x7f'));
                }
            }

            names.Add(name);
        }

        return string.Join(", ", names);
    }
}
