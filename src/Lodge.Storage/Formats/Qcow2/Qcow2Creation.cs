using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Lodge.Storage.Encryption;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>Makes a new image: header, refcount table and blocks, L1 table, encryption header, in this order from the file's beginning.</summary>
internal sealed class Qcow2Creation
{
    private readonly FormatOptions _options;
    private readonly ImageContext? _context;
    private readonly string _preallocation;

    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>, <see cref="DiskError.Unsupported"/>.</exception>
    public Qcow2Creation(FormatOptions options, long length, ImageContext? context)
    {
        _options = options;
        _context = context;
        length = WholeSectors(length);
        var header = new Qcow2Header { Size = length, Version = options.Text("compat") is "0.10" or "v2" ? 2 : 3 };
        var cluster = options.Size("cluster_size", 1 << 16);
        if (cluster < 512 || cluster > 1 << Qcow2Header.MaximumClusterBits || (cluster & (cluster - 1)) != 0)
        {
            throw Invalid("cluster_size", "a power of two from 512 to 2M");
        }

        header.ClusterBits = (int)long.Log2(cluster);
        var bits = options.Number("refcount_bits", 16);
        if (bits is < 1 or > 64 || (bits & (bits - 1)) != 0)
        {
            throw Invalid("refcount_bits", "1, 2, 4, 8, 16, 32 or 64");
        }

        header.RefcountOrder = (int)long.Log2(bits);
        header.Compatible = options.Switch("lazy_refcounts", false) ? Qcow2Header.LazyRefcountsBit : 0;
        if (options.Switch("extended_l2", false))
        {
            header.Incompatible |= IncompatibleFeatures.ExtendedL2;
            if (cluster < 1 << 14)
            {
                throw new DiskException(DiskError.InvalidOption, "option 'extended_l2' needs clusters of at least 16k; give cluster_size=16k or more");
            }
        }

        if (options.Text("compression_type") == "zstd")
        {
            header.CompressionType = 1;
            header.Incompatible |= IncompatibleFeatures.CompressionType;
        }

        header.BackingName = options.Text("backing_file");
        header.BackingFormat = options.Text("backing_fmt") is { Length: > 0 } format ? format : null;
        _preallocation = options.Text("preallocation") ?? "off";
        if (options.Text("data_file") is { } dataFile)
        {
            header.Incompatible |= IncompatibleFeatures.DataFile;
            header.DataFileName = dataFile;
            if (options.Switch("data_file_raw", false))
            {
                header.Autoclear |= (ulong)AutoclearFeatures.RawDataFile;
                _preallocation = _preallocation == "off" ? "metadata" : _preallocation;
            }
        }
        else if (options.Switch("data_file_raw", false))
        {
            throw new DiskException(DiskError.InvalidOption, "option 'data_file_raw' needs data_file");
        }

        if (header.BackingName is not null && (header.RawDataFile || _preallocation != "off"))
        {
            throw new DiskException(DiskError.InvalidOption, "option 'backing_file' and preallocation or data_file_raw exclude each other");
        }

        if (header.BackingName is null && header.BackingFormat is not null)
        {
            throw new DiskException(DiskError.InvalidOption, "option 'backing_fmt' needs backing_file");
        }

        if (header.Version == 2 && (header.Incompatible != 0 || header.Compatible != 0 || header.Autoclear != 0 || header.RefcountOrder != 4))
        {
            throw new DiskException(DiskError.InvalidOption, "lazy_refcounts, refcount_bits, extended_l2, compression_type=zstd and data_file need compat=1.1");
        }

        if (options.Text("encrypt.format") is not null)
        {
            header.Crypt = CryptMethod.Luks;
            if (_preallocation != "off" && header.Version == 2)
            {
                throw new DiskException(DiskError.InvalidOption, "preallocation of an encrypted image needs compat=1.1");
            }
        }
        else if (options.Names.FirstOrDefault(name => name.StartsWith("encrypt.", StringComparison.Ordinal)) is { } stray)
        {
            throw new DiskException(DiskError.InvalidOption, $"option '{stray}' needs encrypt.format=luks");
        }

        var entries = Entries(length, header);
        if (length < 0 || entries > Qcow2Header.MaximumL1Bytes / 8)
        {
            throw new DiskException(DiskError.Unsupported, $"{length} bytes are too many for clusters of {cluster} bytes; give a larger cluster_size");
        }

        header.L1Size = (int)entries;
        if (header.Version >= 3)
        {
            header.AddFeatureNames();
        }

        Header = header;
    }

    public Qcow2Header Header { get; }

    /// <summary>Clusters of the encryption header.</summary>
    public long LuksClusters => Header.Crypt == CryptMethod.Luks ? Clusters(LuksVolume.HeaderLength(LuksOptions.From(_options, "encrypt."))) : 0;

    private long PerBlock => 8L << Header.ClusterBits >> Header.RefcountOrder;

    /// <summary>A size rounded up to whole sectors of 512 bytes: QEMU would cut off a part of one.</summary>
    public static long WholeSectors(long length) => length > long.MaxValue - 511 ? length & ~511L : (length + 511) & ~511L;

    /// <summary>L1 entries for a disk.</summary>
    public static long Entries(long length, Qcow2Header header)
    {
        var span = header.ClusterBits + header.ClusterBits - (header.Extended ? 4 : 3);
        return length <= 0 ? 0 : ((length - 1) >> span) + 1;
    }

    /// <summary>Clusters of metadata when <paramref name="data"/> clusters of data are allocated.</summary>
    public long FullMetadataClusters(long data)
    {
        var perTable = 1L << (Header.ClusterBits - (Header.Extended ? 4 : 3));
        var tables = (data + perTable - 1) / perTable;
        var others = 1 + tables + Clusters(tables * 8);
        return others + RefcountClusters(Header.HasDataFile ? others : others + data).Total;
    }

    public async ValueTask WriteAsync(IStorageFile file, CancellationToken cancellation)
    {
        var header = Header;
        var luks = await MakeLuksAsync(file, cancellation).ConfigureAwait(false);
        var l1Clusters = Clusters(header.L1Size * 8L);
        var luksClusters = Clusters(luks.Length);
        var (tableClusters, blocks, _) = RefcountClusters(1 + l1Clusters + luksClusters);
        var used = 1 + tableClusters + blocks + l1Clusters + luksClusters;
        header.RefcountTableOffset = header.ClusterSize;
        header.RefcountTableClusters = (int)tableClusters;
        header.L1Offset = (1 + tableClusters + blocks) << header.ClusterBits;
        if (luks.Length > 0)
        {
            var pointer = new byte[16];
            BinaryPrimitives.WriteInt64BigEndian(pointer, (used - luksClusters) << header.ClusterBits);
            BinaryPrimitives.WriteInt64BigEndian(pointer.AsSpan(8), luks.Length);
            header.SetExtension(Qcow2Header.CryptType, pointer);
        }

        var bytes = new byte[(1 + tableClusters + blocks) << header.ClusterBits];
        for (long block = 0; block < blocks; block++)
        {
            BinaryPrimitives.WriteInt64BigEndian(bytes.AsSpan((int)(header.RefcountTableOffset + (block * 8))), (1 + tableClusters + block) << header.ClusterBits);
        }

        var counts = bytes.AsMemory((int)((1 + tableClusters) << header.ClusterBits));
        for (long cluster = 0; cluster < used; cluster++)
        {
            RefcountStore.WriteCount(counts.Span[(int)(cluster / PerBlock << header.ClusterBits)..], header.RefcountOrder, (int)(cluster % PerBlock), 1);
        }

        header.Write().CopyTo(bytes, 0);
        await file.WriteAsync(0, bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
        await file.ResizeAsync(used << header.ClusterBits, cancellation).ConfigureAwait(false);
        if (luks.Length > 0)
        {
            await file.WriteAsync((used - luksClusters) << header.ClusterBits, luks, WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        await MakeDataFileAsync(cancellation).ConfigureAwait(false);
        if (_preallocation != "off")
        {
            await PreallocateAsync(file, cancellation).ConfigureAwait(false);
        }

        await file.FlushAsync(cancellation).ConfigureAwait(false);
    }

    private async ValueTask<byte[]> MakeLuksAsync(IStorageFile file, CancellationToken cancellation)
    {
        if (Header.Crypt != CryptMethod.Luks)
        {
            return [];
        }

        var secret = _context?.Secret ?? throw new DiskException(DiskError.Secret, $"{file.Name}: an encrypted image needs a passphrase");
        var (volume, luks) = await LuksVolume.CreateAsync(secret, LuksOptions.From(_options, "encrypt."), cancellation).ConfigureAwait(false);
        volume.Dispose();
        return luks;
    }

    private async ValueTask MakeDataFileAsync(CancellationToken cancellation)
    {
        if (Header.DataFileName is not { } name)
        {
            return;
        }

        IStorageFile data;
        try
        {
            data = await _context!.Files.CreatePartAsync(name, cancellation).ConfigureAwait(false);
        }
        catch (DiskException failure) when (failure.Error == DiskError.Exists)
        {
            data = await _context!.Files.OpenPartAsync(name, true, cancellation).ConfigureAwait(false);
        }

        await using (data.ConfigureAwait(false))
        {
            await data.ResizeAsync(0, cancellation).ConfigureAwait(false);
            await data.ResizeAsync(Header.Size, cancellation).ConfigureAwait(false);
            await data.FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    private async ValueTask PreallocateAsync(IStorageFile file, CancellationToken cancellation)
    {
        var context = _context! with { ReadOnly = false, OpenBacking = true, Snapshot = null };
        var image = (Qcow2Image)await Qcow2Opener.OpenAsync(new BorrowedFile(file), context, cancellation).ConfigureAwait(false);
        await using (image.ConfigureAwait(false))
        {
            await image.PreallocateAsync(0, Header.Size, _preallocation, cancellation).ConfigureAwait(false);
        }
    }

    private long Clusters(long bytes) => (bytes + Header.ClusterSize - 1) >> Header.ClusterBits;

    /// <summary>Refcount table and blocks that cover <paramref name="others"/> clusters and themselves.</summary>
    private (long Table, long Blocks, long Total) RefcountClusters(long others)
    {
        long table = 1;
        long blocks = 1;
        while (true)
        {
            var neededBlocks = (others + table + blocks + PerBlock - 1) / PerBlock;
            var neededTable = Math.Max(1, Clusters(neededBlocks * 8));
            if (neededBlocks <= blocks && neededTable <= table)
            {
                return (table, blocks, table + blocks);
            }

            blocks = Math.Max(blocks, neededBlocks);
            table = Math.Max(table, neededTable);
        }
    }

    private DiskException Invalid(string name, string wanted) =>
        new(DiskError.InvalidOption, $"option '{name}' has the value '{_options.Text(name)}'; give {wanted}");
}
