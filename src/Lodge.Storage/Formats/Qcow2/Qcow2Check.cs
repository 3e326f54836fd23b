using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>An entry of a table that names something impossible, and what a repair makes of it.</summary>
internal readonly record struct BadEntry(long Offset, int Length, ulong Mended = 0);

/// <summary>Walks all tables of an image's file, counts what they name, and compares that with the refcounts. Changes nothing.</summary>
internal sealed class Qcow2Check(IStorageFile file, Qcow2Header header, List<SnapshotEntry> snapshots, List<BitmapEntry> bitmaps)
{
    /// <summary>Most leaked clusters that are remembered one by one.</summary>
    public const int MostLeaked = 1 << 20;

    private const int MostMessages = 100;
    private readonly Qcow2Geometry _geometry = new(header);
    private readonly List<string> _messages = [];
    private readonly long _fileClusters = (file.Length + (1L << header.ClusterBits) - 1) >> header.ClusterBits;
    private ulong[] _refcountTable = [];

    /// <summary>Uses of each cluster, without those by the refcount structure.</summary>
    public ClusterCounts Counts { get; } = new();

    /// <summary>Uses by the refcount structure.</summary>
    public ClusterCounts RefcountStructure { get; } = new();

    /// <summary>Entries that a repair changes.</summary>
    public List<BadEntry> BadEntries { get; } = [];

    /// <summary>Clusters with a higher count than uses, and by how much; at most <see cref="MostLeaked"/> of them.</summary>
    public List<(long Cluster, long Excess)> Leaked { get; } = [];

    /// <summary>How many clusters have a higher count than uses.</summary>
    public long Leaks { get; private set; }

    public long Corruptions { get; private set; }

    /// <summary>Entries whose bit 63 does not agree with the count.</summary>
    public long WrongBits { get; private set; }

    public long CheckErrors { get; private set; }

    public long Allocated { get; private set; }

    public long Compressed { get; private set; }

    public long Fragmented { get; private set; }

    public IReadOnlyList<string> Messages => _messages;

    private int Bits => _geometry.ClusterBits;

    private long Mask => _geometry.ClusterSize - 1;

    /// <summary>Walks everything.</summary>
    public async ValueTask RunAsync(IProgress<double>? progress, CancellationToken cancellation)
    {
        Count(Counts, 0, 1, 1, "the header");
        var tables = new Dictionary<long, long>();
        var active = new HashSet<long>();
        await CountL1Async(header.L1Offset, header.L1Size, tables, active, cancellation).ConfigureAwait(false);
        foreach (var snapshot in snapshots)
        {
            await CountL1Async(snapshot.L1Offset, snapshot.L1Size, tables, null, cancellation).ConfigureAwait(false);
        }

        var done = 0;
        foreach (var (offset, uses) in tables)
        {
            cancellation.ThrowIfCancellationRequested();
            await CountTableAsync(offset, uses, active.Contains(offset), cancellation).ConfigureAwait(false);
            progress?.Report(0.9 * ++done / tables.Count);
        }

        await CountOthersAsync(cancellation).ConfigureAwait(false);
        await CompareAsync(cancellation).ConfigureAwait(false);
        await CheckBitsAsync(cancellation).ConfigureAwait(false);
        progress?.Report(1);
    }

    public void Report(string message)
    {
        if (_messages.Count < MostMessages)
        {
            _messages.Add(message);
        }
    }

    /// <summary>Uses of a cluster in all.</summary>
    public uint Uses(long cluster) => (uint)Math.Min(uint.MaxValue, (ulong)Counts[cluster] + RefcountStructure[cluster]);

    private bool Count(ClusterCounts counts, long offset, long bytes, long times, string what)
    {
        if (bytes <= 0)
        {
            return true;
        }

        if (offset < 0 || (offset + bytes - 1) >> Bits >= _fileClusters || offset > long.MaxValue - bytes)
        {
            Corruptions++;
            Report($"ERROR {what} at {offset} lies beyond the end of the file");
            return false;
        }

        for (var cluster = offset >> Bits; cluster <= (offset + bytes - 1) >> Bits; cluster++)
        {
            counts.Add(cluster, times);
        }

        return true;
    }

    private async ValueTask<ulong[]?> ReadAsync(long offset, long count, string what, CancellationToken cancellation)
    {
        if (count == 0)
        {
            return [];
        }

        if (offset <= 0 || offset > file.Length - (count * 8))
        {
            Corruptions++;
            Report($"ERROR {what} at {offset} does not lie in the file");
            return null;
        }

        try
        {
            var bytes = await file.ReadBytesAsync(offset, (int)(count * 8), cancellation).ConfigureAwait(false);
            var words = new ulong[count];
            for (var index = 0; index < words.Length; index++)
            {
                words[index] = BinaryPrimitives.ReadUInt64BigEndian(bytes.AsSpan(index * 8));
            }

            return words;
        }
        catch (DiskException failure) when (failure.Error == DiskError.InputOutput)
        {
            CheckErrors++;
            Report($"ERROR {what} at {offset} cannot be read: {failure.Message}");
            return null;
        }
    }

    private async ValueTask CountL1Async(long offset, int size, Dictionary<long, long> tables, HashSet<long>? active, CancellationToken cancellation)
    {
        if (await ReadAsync(offset, size, "an L1 table", cancellation).ConfigureAwait(false) is not { } entries)
        {
            return;
        }

        Count(Counts, offset, size * 8L, 1, "an L1 table");
        for (var index = 0; index < entries.Length; index++)
        {
            var table = (long)(entries[index] & Qcow2Geometry.OffsetMask);
            if (table == 0)
            {
                continue;
            }

            if ((table & Mask) != 0 || table > file.Length - _geometry.ClusterSize)
            {
                Corruptions++;
                BadEntries.Add(new BadEntry(offset + (index * 8L), 8));
                Report($"ERROR L1 entry {index} names an L2 table at {table}, which is not a cluster of the file");
                continue;
            }

            if ((entries[index] & ~(Qcow2Geometry.OffsetMask | Qcow2Geometry.Copied)) != 0)
            {
                Corruptions++;
                BadEntries.Add(new BadEntry(offset + (index * 8L), 8, entries[index] & (Qcow2Geometry.OffsetMask | Qcow2Geometry.Copied)));
                Report($"ERROR L1 entry {index} has reserved bits set: {entries[index]:x16}");
            }

            tables[table] = tables.GetValueOrDefault(table) + 1;
            active?.Add(table);
        }
    }

    private async ValueTask CountTableAsync(long offset, long uses, bool active, CancellationToken cancellation)
    {
        Count(Counts, offset, 1, uses, "an L2 table");
        if (await ReadAsync(offset, _geometry.ClusterSize / 8, "an L2 table", cancellation).ConfigureAwait(false) is not { } entries)
        {
            return;
        }

        long expected = -1;
        var step = _geometry.Extended ? 2 : 1;
        for (var index = 0; index < entries.Length; index += step)
        {
            var descriptor = entries[index];
            var place = new BadEntry(offset + (index * 8L), step * 8);
            if ((descriptor & Qcow2Geometry.CompressedBit) != 0)
            {
                var (start, length) = _geometry.CompressedRange(descriptor);
                if (_geometry.External || (descriptor & Qcow2Geometry.Copied) != 0 || !Count(Counts, start, length, uses, "compressed data"))
                {
                    Bad(place, $"the compressed cluster of L2 entry {index} of the table at {offset}", !_geometry.External && (descriptor & Qcow2Geometry.Copied) == 0);
                    continue;
                }

                Allocated += active ? 1 : 0;
                Compressed += active ? 1 : 0;
                continue;
            }

            var allowed = Qcow2Geometry.OffsetMask | Qcow2Geometry.Copied | (_geometry.HasZeroes && !_geometry.Extended ? Qcow2Geometry.ZeroBit : 0);
            if ((descriptor & ~allowed) != 0)
            {
                Corruptions++;
                BadEntries.Add(new BadEntry(place.Offset, 8, descriptor & allowed));
                Report($"ERROR L2 entry {index} of the table at {offset} has reserved bits set: {descriptor:x16}");
            }

            var host = (long)(descriptor & Qcow2Geometry.OffsetMask);
            if ((host & Mask) != 0 || (_geometry.Extended && HasBadBits(descriptor, entries[index + 1])))
            {
                Bad(place, $"L2 entry {index} of the table at {offset} ({descriptor:x16})", false);
                continue;
            }

            if (host == 0)
            {
                Allocated += active && _geometry.External && (descriptor & Qcow2Geometry.Copied) != 0 ? 1 : 0;
                continue;
            }

            if (!_geometry.External && !Count(Counts, host, 1, uses, "guest data"))
            {
                Bad(place, "", true);
                continue;
            }

            if (active)
            {
                Allocated++;
                Fragmented += expected >= 0 && host != expected ? 1 : 0;
                expected = host + _geometry.ClusterSize;
            }
        }
    }

    private static bool HasBadBits(ulong descriptor, ulong bitmap) =>
        ((bitmap >> 32) & (uint)bitmap) != 0 || ((uint)bitmap != 0 && (descriptor & (Qcow2Geometry.OffsetMask | Qcow2Geometry.Copied)) == 0);

    private void Bad(BadEntry place, string what, bool counted)
    {
        BadEntries.Add(place);
        if (!counted)
        {
            Corruptions++;
            Report($"ERROR {what} is invalid");
        }
    }

    private async ValueTask CountOthersAsync(CancellationToken cancellation)
    {
        if (snapshots.Count > 0)
        {
            Count(Counts, header.SnapshotsOffset, SnapshotTableLength, 1, "the snapshot table");
        }

        if (header.Extension(Qcow2Header.CryptType) is { Data.Length: >= 16 } crypt)
        {
            Count(Counts, BinaryPrimitives.ReadInt64BigEndian(crypt.Data), BinaryPrimitives.ReadInt64BigEndian(crypt.Data.AsSpan(8)), 1, "the encryption header");
        }

        if (header.Extension(Qcow2Header.BitmapsType) is { } extension && (header.Autoclear & (ulong)AutoclearFeatures.Bitmaps) != 0)
        {
            var (_, offset, size) = BitmapDirectory.ParseExtension(extension.Data, file);
            Count(Counts, offset, size, 1, "the bitmap directory");
            foreach (var bitmap in bitmaps)
            {
                Count(Counts, bitmap.TableOffset, bitmap.TableSize * 8L, 1, "a bitmap table");
                foreach (var entry in await ReadAsync(bitmap.TableOffset, bitmap.TableSize, "a bitmap table", cancellation).ConfigureAwait(false) ?? [])
                {
                    if ((entry & Qcow2Geometry.OffsetMask) is var data and not 0)
                    {
                        Count(Counts, (long)data, 1, 1, "bitmap data");
                    }
                }
            }
        }

        Count(RefcountStructure, header.RefcountTableOffset, (long)header.RefcountTableClusters << Bits, 1, "the refcount table");
        _refcountTable = await ReadAsync(header.RefcountTableOffset, (long)header.RefcountTableClusters << Bits >> 3, "the refcount table", cancellation).ConfigureAwait(false) ?? [];
        foreach (var entry in _refcountTable)
        {
            if (entry != 0 && IsBlock(entry))
            {
                RefcountStructure.Add((long)entry >> Bits, 1);
            }
        }
    }

    /// <summary>Length of the snapshot table in bytes.</summary>
    public int SnapshotTableLength { get; init; }

    private bool IsBlock(ulong entry) => (entry & (ulong)Mask) == 0 && entry <= long.MaxValue && (long)entry <= file.Length - _geometry.ClusterSize;

    private async ValueTask CompareAsync(CancellationToken cancellation)
    {
        var perBlock = 8L << Bits >> header.RefcountOrder;
        var highest = Math.Max(Counts.Highest, RefcountStructure.Highest);
        var seen = new HashSet<ulong>();
        for (var region = 0L; region < Math.Max(_refcountTable.Length, (highest / perBlock) + 1); region++)
        {
            cancellation.ThrowIfCancellationRequested();
            var entry = region < _refcountTable.Length ? _refcountTable[region] : 0;
            byte[]? block = null;
            if (entry != 0)
            {
                if (!IsBlock(entry))
                {
                    Corruptions++;
                    Report($"ERROR refcount block {region} at {entry} is not a cluster of the file");
                }
                else if (!seen.Add(entry))
                {
                    Corruptions++;
                    Report($"ERROR refcount block {region} at {entry} is the block of another region, too");
                }
                else
                {
                    block = await file.ReadBytesAsync((long)entry, _geometry.ClusterSize, cancellation).ConfigureAwait(false);
                }
            }

            var last = Math.Min(perBlock, Math.Max(_fileClusters, highest + 1) - (region * perBlock));
            for (var index = 0; index < (block is null ? last : perBlock); index++)
            {
                var cluster = (region * perBlock) + index;
                var count = block is null ? 0 : RefcountStore.ReadCount(block, header.RefcountOrder, index);
                Compare(cluster, count, Uses(cluster));
            }
        }
    }

    private void Compare(long cluster, ulong count, uint uses)
    {
        if (count == uses)
        {
            return;
        }

        if (count < uses)
        {
            Corruptions++;
            Report($"ERROR cluster {cluster} refcount={count} reference={uses}");
        }
        else
        {
            Leaks++;
            if (Leaked.Count < MostLeaked)
            {
                Leaked.Add((cluster, (long)Math.Min(count - uses, long.MaxValue)));
            }

            Report($"Leaked cluster {cluster} refcount={count} reference={uses}");
        }
    }

    private async ValueTask CheckBitsAsync(CancellationToken cancellation)
    {
        await foreach (var (offset, entry) in WrongBitEntriesAsync(Uses, cancellation).ConfigureAwait(false))
        {
            WrongBits++;
            Corruptions++;
            Report($"ERROR OFLAG_COPIED of the entry at {offset}: {entry:x16} does not agree with the use of its cluster");
        }
    }

    /// <summary>Entries of the active tables whose bit 63 is not what <paramref name="uses"/> demands.</summary>
    public async IAsyncEnumerable<(long Offset, ulong Entry)> WrongBitEntriesAsync(
        Func<long, uint> uses, [System.Runtime.CompilerServices.EnumeratorCancellation] CancellationToken cancellation)
    {
        var entries = await ReadAsync(header.L1Offset, header.L1Size, "the L1 table", cancellation).ConfigureAwait(false) ?? [];
        for (var index = 0; index < entries.Length; index++)
        {
            var offset = (long)(entries[index] & Qcow2Geometry.OffsetMask);
            if (offset == 0 || (offset & Mask) != 0 || offset > file.Length - _geometry.ClusterSize)
            {
                continue;
            }

            if (uses(offset >> Bits) == 1 != ((entries[index] & Qcow2Geometry.Copied) != 0))
            {
                yield return (header.L1Offset + (index * 8L), entries[index]);
            }

            var table = await ReadAsync(offset, _geometry.ClusterSize / 8, "an L2 table", cancellation).ConfigureAwait(false) ?? [];
            for (var at = 0; at < table.Length; at += _geometry.Extended ? 2 : 1)
            {
                var host = (long)(table[at] & Qcow2Geometry.OffsetMask);
                var isData = (table[at] & Qcow2Geometry.CompressedBit) == 0 && (_geometry.External ? (table[at] & Qcow2Geometry.OffsetMask) != 0 : host != 0);
                if (isData && (host & Mask) == 0 && (_geometry.External || uses(host >> Bits) == 1) != ((table[at] & Qcow2Geometry.Copied) != 0))
                {
                    yield return (offset + (at * 8L), table[at]);
                }
            }
        }
    }
}
