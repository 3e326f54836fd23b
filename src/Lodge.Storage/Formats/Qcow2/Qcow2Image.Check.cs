using System.Buffers.Binary;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

internal sealed partial class Qcow2Image
{
    public async ValueTask<CheckResult> CheckAsync(CheckRepair repair, IProgress<double>? progress = null, CancellationToken cancellation = default)
    {
        if (repair != CheckRepair.None)
        {
            this.CheckWrite(0, 0);
        }

        if (IsReadOnly)
        {
            await _metadata.Requests.ShutAsync(cancellation).ConfigureAwait(false);
        }
        else
        {
            await _metadata.ShutAsync(cancellation).ConfigureAwait(false);
        }

        try
        {
            var check = await WalkAsync(progress, cancellation).ConfigureAwait(false);
            var result = Result(check);
            var marked = (Header.Incompatible & (IncompatibleFeatures.Corrupt | IncompatibleFeatures.Dirty)) != 0;
            if (repair == CheckRepair.None || (result.Corruptions == 0 && result.Leaks == 0 && !marked))
            {
                return result;
            }

            if (repair == CheckRepair.All && (result.Corruptions > 0 || marked || check.Leaks > check.Leaked.Count))
            {
                // Where structures overlap, mending one entry may show another to be wrong.
                for (var round = 0; round == 0 || (round < 4 && (check.Corruptions > 0 || check.Leaks > 0)); round++)
                {
                    await RepairAllAsync(check, cancellation).ConfigureAwait(false);
                    check = await WalkAsync(null, cancellation).ConfigureAwait(false);
                }

                return result with
                {
                    CorruptionsFixed = Math.Max(0, result.Corruptions - check.Corruptions),
                    LeaksFixed = Math.Max(0, result.Leaks - check.Leaks),
                };
            }

            if (result.Corruptions > 0)
            {
                return result;
            }

            foreach (var (cluster, excess) in check.Leaked)
            {
                await _metadata.AdjustAsync(cluster, -excess, cancellation).ConfigureAwait(false);
            }

            await _metadata.CommitShutAsync(cancellation).ConfigureAwait(false);
            return result with { LeaksFixed = check.Leaked.Count };
        }
        finally
        {
            if (IsReadOnly)
            {
                _metadata.Requests.Open();
            }
            else
            {
                _metadata.Open();
            }
        }
    }

    /// <summary>Rebuilds the refcounts of an image that lazy refcounts left behind at a crash.</summary>
    internal async ValueTask RepairDirtyAsync(CancellationToken cancellation)
    {
        await _metadata.ShutAsync(cancellation).ConfigureAwait(false);
        try
        {
            await RepairAllAsync(await WalkAsync(null, cancellation).ConfigureAwait(false), cancellation).ConfigureAwait(false);
        }
        finally
        {
            _metadata.Open();
        }
    }

    private async ValueTask<Qcow2Check> WalkAsync(IProgress<double>? progress, CancellationToken cancellation)
    {
        var check = new Qcow2Check(File, Header, _snapshots, _bitmaps) { SnapshotTableLength = _metadata.SnapshotTableLength };
        await check.RunAsync(progress, cancellation).ConfigureAwait(false);
        return check;
    }

    private CheckResult Result(Qcow2Check check) => new()
    {
        Corruptions = check.Corruptions,
        Leaks = check.Leaks,
        CheckErrors = check.CheckErrors,
        TotalClusters = (Length + Geometry.ClusterSize - 1) >> Geometry.ClusterBits,
        AllocatedClusters = check.Allocated,
        CompressedClusters = check.Compressed,
        FragmentedClusters = check.Fragmented,
        ImageEndOffset = (Math.Max(check.Counts.Highest, check.RefcountStructure.Highest) + 1) << Geometry.ClusterBits,
        Messages = check.Messages,
    };

    /// <summary>Empties impossible entries, makes refcounts anew from what is used, and makes the bits of the entries agree.</summary>
    private async ValueTask RepairAllAsync(Qcow2Check check, CancellationToken cancellation)
    {
        if (check.CheckErrors > 0)
        {
            throw new DiskException(DiskError.InputOutput, $"{File.Name}: parts of the image cannot be read, so that it cannot be repaired: {check.Messages[0]}");
        }

        var oldL1 = Header.L1Offset;
        var l1 = await MoveSharedL1Async(check, cancellation).ConfigureAwait(false);
        var order = Header.RefcountOrder;
        var most = check.Counts.All.Max(cluster => cluster.Count);
        while (Header.Version >= 3 && order < 6 && most > (1UL << (1 << order)) - 1)
        {
            // Entries that name the same cluster share it from now on; the refcounts must be able to say so.
            order++;
        }

        await RebuildRefcountsAsync(check, order, header => header.L1Offset = l1, cancellation).ConfigureAwait(false);
        foreach (var entry in check.BadEntries)
        {
            if (l1 != oldL1 && entry.Offset >= oldL1 && entry.Offset < oldL1 + (Header.L1Size * 8L))
            {
                // The copy is mended; here stands what else uses the clusters.
                continue;
            }

            var zero = new byte[entry.Length];
            if (entry.Mended != 0)
            {
                BinaryPrimitives.WriteUInt64BigEndian(zero, entry.Mended);
            }
            else if (entry.Length == 8 && Geometry.HasZeroes && Header.BackingName is not null && !Geometry.Extended)
            {
                // The content is lost; that of the backing image would be a wrong one.
                BinaryPrimitives.WriteUInt64BigEndian(zero, IsL1Entry(entry.Offset) ? 0 : Qcow2Geometry.ZeroBit);
            }

            await File.WriteAsync(entry.Offset, zero, WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        var flip = new byte[8];
        await foreach (var (offset, entry) in check.WrongBitEntriesAsync(cluster => check.Counts[cluster], cancellation).ConfigureAwait(false))
        {
            BinaryPrimitives.WriteUInt64BigEndian(flip, entry ^ Qcow2Geometry.Copied);
            await File.WriteAsync(offset, flip, WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        await File.FlushAsync(cancellation).ConfigureAwait(false);
        Header.Incompatible &= ~(IncompatibleFeatures.Dirty | IncompatibleFeatures.Corrupt);
        await _metadata.WriteHeaderAsync(cancellation).ConfigureAwait(false);
        await File.FlushAsync(cancellation).ConfigureAwait(false);
        _broken = null;
        await ReloadAsync(true).ConfigureAwait(false);
    }

    /// <summary>Copies the active L1 table to a place of its own if something else uses its clusters; gives its place.</summary>
    private async ValueTask<long> MoveSharedL1Async(Qcow2Check check, CancellationToken cancellation)
    {
        var bits = Geometry.ClusterBits;
        var offset = Header.L1Offset;
        var length = Header.L1Size * 8L;
        if (length == 0 || offset == 0 || offset > File.Length - length)
        {
            return offset;
        }

        var clusters = (length + Geometry.ClusterSize - 1) >> bits;
        var shared = false;
        for (var cluster = offset >> bits; cluster < (offset >> bits) + clusters; cluster++)
        {
            shared |= check.Counts[cluster] > 1;
        }

        if (!shared)
        {
            return offset;
        }

        var bytes = await Qcow2Opener.ReadTableAsync(File, offset, length, "L1 table", cancellation).ConfigureAwait(false);
        foreach (var entry in check.BadEntries.Where(entry => entry.Offset >= offset && entry.Offset < offset + length))
        {
            BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan((int)(entry.Offset - offset)), entry.Mended);
        }

        var place = Math.Max(_metadata.EndOfFile, check.Counts.Highest + 1);
        await File.WriteAsync(place << bits, bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
        for (long index = 0; index < clusters; index++)
        {
            check.Counts.Remove((offset >> bits) + index);
            check.Counts.Add(place + index, 1);
        }

        return place << bits;
    }

    private bool IsL1Entry(long offset) =>
        (offset >= Header.L1Offset && offset < Header.L1Offset + (Header.L1Size * 8L)) ||
        _snapshots.Exists(snapshot => offset >= snapshot.L1Offset && offset < snapshot.L1Offset + (snapshot.L1Size * 8L));

    /// <summary>Writes a new refcount table and blocks behind the end of the file and points the header there.</summary>
    private async ValueTask RebuildRefcountsAsync(Qcow2Check check, int order, Action<Qcow2Header> change, CancellationToken cancellation)
    {
        var bits = Geometry.ClusterBits;
        var perBlock = 8L << bits >> order;
        var maximum = order == 6 ? ulong.MaxValue : (1UL << (1 << order)) - 1;
        var start = Math.Max(Math.Max(_metadata.EndOfFile, (File.Length + Geometry.ClusterSize - 1) >> bits), check.Counts.Highest + 1);
        var regions = new SortedSet<long>();
        foreach (var (cluster, count) in check.Counts.All)
        {
            regions.Add(cluster / perBlock);
            if (count > maximum)
            {
                throw new DiskException(DiskError.Unsupported, $"{File.Name}: cluster {cluster} is used {count} times, which {1 << order} bits of refcount cannot say");
            }
        }

        long tableClusters;
        while (true)
        {
            tableClusters = Math.Max(1, (((regions.Max + 1) * 8) + Geometry.ClusterSize - 1) >> bits);
            var end = start + tableClusters + regions.Count;
            var known = regions.Count;
            for (var region = start / perBlock; region <= (end - 1) / perBlock; region++)
            {
                regions.Add(region);
            }

            if (regions.Count == known)
            {
                break;
            }
        }

        if (tableClusters << bits > Qcow2Header.MaximumRefcountTableBytes)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name}: the refcount table would take {tableClusters << bits} bytes");
        }

        for (var own = start; own < start + tableClusters + regions.Count; own++)
        {
            check.Counts.Add(own, 1);
        }

        var table = new byte[tableClusters << bits];
        var place = start + tableClusters;
        foreach (var region in regions)
        {
            var block = new byte[Geometry.ClusterSize];
            for (var index = 0; index < perBlock; index++)
            {
                if (check.Counts[(region * perBlock) + index] is var count and not 0)
                {
                    RefcountStore.WriteCount(block, order, index, count);
                }
            }

            BinaryPrimitives.WriteInt64BigEndian(table.AsSpan((int)region * 8), place << bits);
            await File.WriteAsync(place++ << bits, block, WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        await File.WriteAsync(start << bits, table, WriteOptions.None, cancellation).ConfigureAwait(false);
        await File.FlushAsync(cancellation).ConfigureAwait(false);
        Header.RefcountTableOffset = start << bits;
        Header.RefcountTableClusters = (int)tableClusters;
        Header.RefcountOrder = order;
        change(Header);
        await _metadata.WriteHeaderAsync(CancellationToken.None).ConfigureAwait(false);
        await File.FlushAsync(CancellationToken.None).ConfigureAwait(false);
    }
}
