using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>Host clusters in a row.</summary>
internal readonly record struct ClusterRun(long First, long Count);

/// <summary>
/// The reference counts of host clusters and the search for free ones (qcow2 specification, "Host cluster management"). Counts change in memory only, under
/// the metadata's lock; blocks are loaded outside of it, and <see cref="Qcow2Metadata"/> writes what is dirty in an order that survives a crash.
/// </summary>
internal sealed class RefcountStore
{
    private const long CacheBytes = 16 << 20;
    private readonly Lock _gate;
    private readonly IStorageFile _file;
    private readonly MetadataMap _map;
    private readonly Dictionary<long, MetadataBlock> _blocks = [];
    private readonly SemaphoreSlim _loading = new(1, 1);
    private readonly int _clusterBits;
    private long _hint;
    private long _floor;
    private HashSet<long>? _freedAboveFloor;

    public RefcountStore(Lock gate, IStorageFile file, MetadataMap map, int clusterBits, int order, MetadataBlock table)
    {
        _gate = gate;
        _file = file;
        _map = map;
        _clusterBits = clusterBits;
        Order = order;
        Table = table;
    }

    /// <summary>log2 of the bits of a count.</summary>
    public int Order { get; }

    /// <summary>Counts in a block.</summary>
    public long PerBlock => 8L << _clusterBits >> Order;

    public ulong Maximum => Order == 6 ? ulong.MaxValue : (1UL << (1 << Order)) - 1;

    /// <summary>The refcount table; its length in memory is a multiple of the cluster.</summary>
    public MetadataBlock Table { get; private set; }

    public int TableClusters => Table.Bytes.Length >> _clusterBits;

    /// <summary>Whether the table has a new place that the header does not name yet.</summary>
    public bool TableMoved { get; set; }

    /// <summary>Places of former tables, to be freed once the header names the new one.</summary>
    public List<ClusterRun> FormerTables { get; } = [];

    /// <summary>Blocks with changes.</summary>
    public List<MetadataBlock> Dirty { get; } = [];

    private int ClusterSize => 1 << _clusterBits;

    /// <summary>The count of a cluster. Under the lock; false if block <paramref name="need"/> must be loaded first.</summary>
    public bool TryGet(long cluster, out ulong count, out long need)
    {
        var region = cluster / PerBlock;
        need = -1;
        count = 0;
        if (!IsCovered(region))
        {
            return true;
        }

        if (!_blocks.TryGetValue(region, out var block))
        {
            need = region;
            return false;
        }

        block.Used = true;
        count = Read(block, (int)(cluster % PerBlock));
        return true;
    }

    /// <summary>Adds <paramref name="change"/> to a count. Under the lock; false if block <paramref name="need"/> must be loaded first.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Corrupt"/>: below zero; <see cref="DiskError.Unsupported"/>: above what the width holds.</exception>
    public bool TryAdjust(long cluster, long change, out ulong count, out long need)
    {
        if (!TryGet(cluster, out count, out need))
        {
            return false;
        }

        var region = cluster / PerBlock;
        if (!_blocks.TryGetValue(region, out var block) || (change < 0 && count < (ulong)-change))
        {
            throw new DiskException(DiskError.Corrupt, $"{_file.Name}: cluster {cluster} is in use but its refcount is {count}; repair the image with: lodge image check -r all {_file.Name}");
        }

        if (change > 0 && count > Maximum - (ulong)change)
        {
            throw new DiskException(DiskError.Unsupported, $"{_file.Name}: a refcount of {1 << Order} bits cannot hold {count + (ulong)change}; change it with: lodge image amend -o refcount_bits=16 {_file.Name}");
        }

        count += (ulong)change;
        Set(block, (int)(cluster % PerBlock), count);
        if (count == 0)
        {
            if (_freedAboveFloor is { } freed)
            {
                freed.Add(cluster);
            }
            else
            {
                _hint = Math.Min(_hint, cluster);
            }
        }

        return true;
    }

    /// <summary>
    /// Finds free clusters in a row and counts them as used once. Under the lock; false if block <paramref name="need"/> must be loaded first.
    /// </summary>
    /// <param name="want">How many; fewer, but at least one, may be given unless <paramref name="exact"/>.</param>
    /// <param name="exact">Whether all must be in one row.</param>
    /// <param name="limit">Clusters end below this one.</param>
    /// <param name="run">What was found.</param>
    /// <param name="need">A block to load.</param>
    /// <exception cref="DiskException"><see cref="DiskError.NoSpace"/>, <see cref="DiskError.Corrupt"/>.</exception>
    public bool TryAllocate(long want, bool exact, long limit, out ClusterRun run, out long need)
    {
        need = -1;
        run = default;
        var start = Math.Max(_hint, _floor);
        var firstFree = -1L;
        long length = 0;
        while (length < want)
        {
            var cluster = start + length;
            if (cluster >= limit)
            {
                throw new DiskException(DiskError.NoSpace, $"{_file.Name}: no free cluster below the format's limit");
            }

            var region = cluster / PerBlock;
            if (!IsCovered(region))
            {
                if (length > 0 && !exact)
                {
                    break;
                }

                // The new blocks come first, what was wanted after them.
                AddBlocks(cluster, want);
                start = cluster;
                length = 0;
                continue;
            }

            if (!_blocks.TryGetValue(region, out var block))
            {
                if (length > 0 && !exact)
                {
                    break;
                }

                need = region;
                return false;
            }

            if (length == 0)
            {
                block.Used = true;
                var free = FindFree(block, (int)(cluster % PerBlock));
                if (free < 0)
                {
                    start = (region + 1) * PerBlock;
                    continue;
                }

                start = (region * PerBlock) + free;
                if (_freedAboveFloor?.Contains(start) == true)
                {
                    start++;
                    continue;
                }

                firstFree = firstFree < 0 ? start : firstFree;
                length = 1;
                continue;
            }

            if (Read(block, (int)(cluster % PerBlock)) != 0 || _freedAboveFloor?.Contains(cluster) == true)
            {
                if (!exact)
                {
                    break;
                }

                start = cluster + 1;
                length = 0;
                continue;
            }

            length++;
        }

        CheckFree(start, length);
        for (var cluster = start; cluster < start + length; cluster++)
        {
            Set(_blocks[cluster / PerBlock], (int)(cluster % PerBlock), 1);
        }

        if (start == firstFree && _freedAboveFloor is null)
        {
            _hint = start + length;
        }

        run = new ClusterRun(start, length);
        return true;
    }

    /// <summary>Loads a block unless it is there.</summary>
    public async ValueTask LoadAsync(long region, CancellationToken cancellation)
    {
        await _loading.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            long offset;
            lock (_gate)
            {
                if (_blocks.ContainsKey(region))
                {
                    return;
                }

                offset = (long)Table[(int)region];
            }

            if ((offset & (ClusterSize - 1)) != 0 || offset < 0 || offset > _file.Length - ClusterSize)
            {
                throw new DiskException(DiskError.Corrupt, $"{_file.Name}: the refcount block {region} at {offset} is not a cluster of the file; repair the image with: lodge image check -r all {_file.Name}");
            }

            var block = new MetadataBlock(region, offset, new byte[ClusterSize]);
            await _file.ReadAsync(offset, block.Bytes, cancellation).ConfigureAwait(false);
            lock (_gate)
            {
                Drop();
                _blocks.TryAdd(region, block);
            }
        }
        finally
        {
            _loading.Release();
        }
    }

    /// <summary>From here on clusters are taken only at or above <paramref name="floor"/>, and none that was freed since: what the file's present tables use stays as it is.</summary>
    public void BeginRewrite(long floor)
    {
        _floor = floor;
        _freedAboveFloor = [];
    }

    public void EndRewrite()
    {
        _floor = 0;
        _hint = 0;
        _freedAboveFloor = null;
    }

    /// <summary>A changed block that still stands at its old place, or null.</summary>
    public MetadataBlock? NextToMove() => Dirty.Find(block => !block.IsNew);

    /// <summary>Gives a block another place.</summary>
    public void MoveBlock(MetadataBlock block, long cluster)
    {
        _map.Remove(block.Offset >> _clusterBits, 1);
        block.Offset = cluster << _clusterBits;
        block.IsNew = true;
        block.TouchAll();
        Table[(int)block.Index] = (ulong)block.Offset;
        _map.Add(cluster);
    }

    /// <summary>Gives the table another place.</summary>
    public void MoveTable(ClusterRun run)
    {
        FormerTables.Add(new ClusterRun(Table.Offset >> _clusterBits, TableClusters));
        var bytes = new byte[run.Count << _clusterBits];
        Table.Bytes.CopyTo(bytes, 0);
        Table = new MetadataBlock(0, run.First << _clusterBits, bytes);
        TableMoved = true;
        _map.Add(run.First, run.Count);
    }

    /// <summary>No refcount can make free what is known to hold metadata.</summary>
    private void CheckFree(long first, long count)
    {
        if (_map.Contains(first, first + count - 1))
        {
            throw new DiskException(DiskError.Corrupt, $"{_file.Name}: metadata at cluster {first} has the refcount 0; repair the image with: lodge image check -r all {_file.Name}");
        }
    }

    private bool IsCovered(long region) => region < Table.Count && Table[(int)region] != 0;

    /// <summary>
    /// Makes blocks for the region of <paramref name="cluster"/>, which has none, standing at that cluster; and for the regions after it as far as
    /// <paramref name="want"/> further clusters go. Where the table is too small, a larger one follows the blocks.
    /// </summary>
    private void AddBlocks(long cluster, long want)
    {
        var region = cluster / PerBlock;
        for (var next = region + 1; next < Table.Count; next++)
        {
            if (Table[(int)next] != 0)
            {
                // A gap between covered regions: one block for it alone.
                CheckFree(cluster, 1);
                AddBlock(region, cluster);
                Set(_blocks[region], (int)(cluster % PerBlock), 1);
                return;
            }
        }

        long blocks = 0;
        long tableClusters = 0;
        while (true)
        {
            var end = cluster + blocks + tableClusters + want;
            var neededBlocks = ((end + PerBlock - 1) / PerBlock) - region;
            var entries = region + neededBlocks;
            var neededTable = entries <= Table.Count ? 0 : ((entries + (entries / 2)) * 8 >> _clusterBits) + 1;
            if (neededBlocks == blocks && neededTable == tableClusters)
            {
                break;
            }

            blocks = Math.Max(blocks, neededBlocks);
            tableClusters = Math.Max(tableClusters, neededTable);
        }

        if (tableClusters << _clusterBits > Qcow2Header.MaximumRefcountTableBytes)
        {
            tableClusters = Qcow2Header.MaximumRefcountTableBytes >> _clusterBits;
            if (region + blocks > tableClusters << _clusterBits >> 3)
            {
                throw new DiskException(DiskError.NoSpace, $"{_file.Name}: the refcount table cannot grow further; a larger cluster_size holds more");
            }
        }

        CheckFree(cluster, blocks + tableClusters);
        if (tableClusters > 0)
        {
            MoveTable(new ClusterRun(cluster + blocks, tableClusters));
        }

        for (long block = 0; block < blocks; block++)
        {
            AddBlock(region + block, cluster + block);
        }

        for (var used = cluster; used < cluster + blocks + tableClusters; used++)
        {
            Set(_blocks[used / PerBlock], (int)(used % PerBlock), 1);
        }
    }

    private void AddBlock(long region, long cluster)
    {
        var block = new MetadataBlock(region, cluster << _clusterBits, new byte[ClusterSize]) { IsNew = true, Used = true };
        _blocks[region] = block;
        Dirty.Add(block);
        block.TouchAll();
        Table[(int)region] = (ulong)block.Offset;
        _map.Add(cluster);
    }

    private void Drop()
    {
        var most = Math.Max(8, CacheBytes >> _clusterBits);
        if (_blocks.Count < most)
        {
            return;
        }

        for (var round = 0; round < 2; round++)
        {
            foreach (var (region, block) in _blocks)
            {
                if (!block.Used && !block.IsDirty && block.Pins == 0)
                {
                    _blocks.Remove(region);
                    return;
                }

                block.Used = false;
            }
        }
    }

    private int FindFree(MetadataBlock block, int from)
    {
        var at = Order switch
        {
            3 => block.Bytes.AsSpan(from).IndexOf((byte)0),
            4 => MemoryMarshal.Cast<byte, ushort>(block.Bytes)[from..].IndexOf((ushort)0),
            5 => MemoryMarshal.Cast<byte, uint>(block.Bytes)[from..].IndexOf(0u),
            6 => MemoryMarshal.Cast<byte, ulong>(block.Bytes)[from..].IndexOf(0UL),
            _ => -2,
        };
        if (at != -2)
        {
            return at < 0 ? -1 : from + at;
        }

        for (var index = from; index < PerBlock; index++)
        {
            if (Read(block, index) == 0)
            {
                return index;
            }
        }

        return -1;
    }

    private ulong Read(MetadataBlock block, int index) => ReadCount(block.Bytes, Order, index);

    private void Set(MetadataBlock block, int index, ulong value)
    {
        if (!block.IsDirty)
        {
            Dirty.Add(block);
        }

        WriteCount(block.Bytes, Order, index, value);
        block.Touch((int)(((long)index << Order) >> 3));
    }

    /// <summary>A count in a block's bytes; widths below a byte go from the least significant bit.</summary>
    public static ulong ReadCount(ReadOnlySpan<byte> block, int order, int index)
    {
        switch (order)
        {
            case 3:
                return block[index];
            case 4:
                return BinaryPrimitives.ReadUInt16BigEndian(block[(index * 2)..]);
            case 5:
                return BinaryPrimitives.ReadUInt32BigEndian(block[(index * 4)..]);
            case 6:
                return BinaryPrimitives.ReadUInt64BigEndian(block[(index * 8)..]);
            default:
                var perByte = 8 >> order;
                return (ulong)(block[index / perByte] >> (index % perByte << order)) & ((1UL << (1 << order)) - 1);
        }
    }

    /// <summary>Sets a count in a block's bytes.</summary>
    public static void WriteCount(Span<byte> block, int order, int index, ulong value)
    {
        switch (order)
        {
            case 3:
                block[index] = (byte)value;
                break;
            case 4:
                BinaryPrimitives.WriteUInt16BigEndian(block[(index * 2)..], (ushort)value);
                break;
            case 5:
                BinaryPrimitives.WriteUInt32BigEndian(block[(index * 4)..], (uint)value);
                break;
            case 6:
                BinaryPrimitives.WriteUInt64BigEndian(block[(index * 8)..], value);
                break;
            default:
                var perByte = 8 >> order;
                var shift = index % perByte << order;
                var mask = ((1 << (1 << order)) - 1) << shift;
                ref var at = ref block[index / perByte];
                at = (byte)((at & ~mask) | ((int)value << shift));
                break;
        }
    }
}
