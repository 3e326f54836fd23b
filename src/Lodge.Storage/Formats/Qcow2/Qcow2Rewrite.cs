using System.Buffers.Binary;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>
/// Changes much of an image's metadata at once. All that is new goes to clusters that the file's present tables do not use, refcount blocks that change
/// included; one write of the header's first sector then makes it valid. A crash before that write leaves the image as it was, one after it as it shall be.
/// Runs while no request is inside.
/// </summary>
internal sealed class Qcow2Rewrite
{
    private readonly Qcow2Metadata _metadata;
    private readonly List<(long Offset, byte[] Bytes)> _writes = [];
    private readonly List<long> _freed = [];
    private readonly Qcow2Geometry _geometry;

    public Qcow2Rewrite(Qcow2Metadata metadata)
    {
        _metadata = metadata;
        _geometry = metadata.Geometry;
        metadata.Refcounts.BeginRewrite(metadata.EndOfFile);
    }

    /// <summary>Whether the header may have been written.</summary>
    public bool HeaderTouched { get; private set; }

    private int Bits => _geometry.ClusterBits;

    /// <summary>Takes clusters in a row; gives their offset.</summary>
    public async ValueTask<long> AllocateAsync(long clusters, CancellationToken cancellation)
    {
        var (run, _) = await _metadata.AllocateAsync(clusters, true, cancellation).ConfigureAwait(false);
        return run.First << Bits;
    }

    /// <summary>Puts a structure into new clusters; gives its offset, 0 for nothing.</summary>
    public async ValueTask<long> PlaceAsync(byte[] bytes, CancellationToken cancellation)
    {
        if (bytes.Length == 0)
        {
            return 0;
        }

        var offset = await AllocateAsync((bytes.Length + _geometry.ClusterSize - 1) >> Bits, cancellation).ConfigureAwait(false);
        var padded = new byte[(bytes.Length + _geometry.ClusterSize - 1) >> Bits << Bits];
        bytes.CopyTo(padded, 0);
        _writes.Add((offset, padded));
        return offset;
    }

    /// <summary>Puts an L1 table into new clusters.</summary>
    public ValueTask<long> PlaceL1Async(ulong[] entries, CancellationToken cancellation)
    {
        var bytes = new byte[entries.Length * 8];
        for (var index = 0; index < entries.Length; index++)
        {
            BinaryPrimitives.WriteUInt64BigEndian(bytes.AsSpan(index * 8), entries[index]);
        }

        return PlaceAsync(bytes, cancellation);
    }

    public async ValueTask AdjustAsync(long cluster, long change, CancellationToken cancellation)
    {
        if (await _metadata.AdjustAsync(cluster, change, cancellation).ConfigureAwait(false) == 0)
        {
            _freed.Add(cluster);
        }
    }

    /// <summary>Gives up a structure of so many bytes.</summary>
    public async ValueTask FreeAsync(long offset, long bytes, CancellationToken cancellation)
    {
        for (var cluster = offset >> Bits; cluster << Bits < offset + bytes; cluster++)
        {
            await AdjustAsync(cluster, -1, cancellation).ConfigureAwait(false);
        }
    }

    public async ValueTask<ulong> CountAsync(long cluster, CancellationToken cancellation) => await _metadata.AdjustAsync(cluster, 0, cancellation).ConfigureAwait(false);

    /// <summary>Reads an L2 table from the file.</summary>
    public async ValueTask<MetadataBlock> ReadTableAsync(ulong l1Entry, CancellationToken cancellation)
    {
        var offset = (long)(l1Entry & Qcow2Geometry.OffsetMask);
        if ((offset & (_geometry.ClusterSize - 1)) != 0)
        {
            throw new DiskException(DiskError.Corrupt, $"{_metadata.File.Name}: an L2 table at {offset} does not start at a cluster; repair the image with: lodge image check -r all {_metadata.File.Name}");
        }

        return new MetadataBlock(0, offset, await Qcow2Opener.ReadTableAsync(_metadata.File, offset, _geometry.ClusterSize, "L2 table", cancellation).ConfigureAwait(false));
    }

    /// <summary>Changes the counts of all host clusters that the entries of an L2 table name.</summary>
    public async ValueTask AdjustDataAsync(MetadataBlock table, long change, CancellationToken cancellation)
    {
        for (var index = 0; index < table.Count; index += _geometry.Extended ? 2 : 1)
        {
            var descriptor = table[index];
            if ((descriptor & Qcow2Geometry.CompressedBit) != 0)
            {
                var (first, last) = _geometry.CompressedClusters(descriptor);
                for (var cluster = first; cluster <= last; cluster++)
                {
                    await AdjustAsync(cluster, change, cancellation).ConfigureAwait(false);
                }
            }
            else if (!_geometry.External && (descriptor & Qcow2Geometry.OffsetMask) is var offset and not 0)
            {
                await AdjustAsync((long)offset >> Bits, change, cancellation).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Takes the bit from all entries that says that their cluster is used once; true if one had it.</summary>
    public bool ClearCopied(MetadataBlock table)
    {
        var any = false;
        for (var index = 0; index < table.Count; index += _geometry.Extended ? 2 : 1)
        {
            if ((table[index] & Qcow2Geometry.Copied) != 0)
            {
                table[index] &= ~Qcow2Geometry.Copied;
                any = true;
            }
        }

        return any;
    }

    /// <summary>Writes everything, then the header with <paramref name="change"/>.</summary>
    public async ValueTask FinishAsync(Action<Qcow2Header> change, CancellationToken cancellation)
    {
        var refcounts = _metadata.Refcounts;
        if (refcounts.Dirty.Count > 0 || refcounts.Table.IsDirty || refcounts.TableMoved)
        {
            var (run, _) = await _metadata.AllocateAsync(refcounts.TableClusters, true, cancellation).ConfigureAwait(false);
            refcounts.MoveTable(run);
            while (true)
            {
                // Each move may change counts in blocks that did not change so far.
                if (refcounts.FormerTables.Count > 0)
                {
                    var former = refcounts.FormerTables[^1];
                    refcounts.FormerTables.RemoveAt(refcounts.FormerTables.Count - 1);
                    await FreeAsync(former.First << Bits, former.Count << Bits, cancellation).ConfigureAwait(false);
                }
                else if (refcounts.NextToMove() is { } block)
                {
                    var old = block.Offset >> Bits;
                    var (place, _) = await _metadata.AllocateAsync(1, true, cancellation).ConfigureAwait(false);
                    refcounts.MoveBlock(block, place.First);
                    await AdjustAsync(old, -1, cancellation).ConfigureAwait(false);
                }
                else
                {
                    break;
                }
            }

            _writes.AddRange(refcounts.Dirty.Select(block => (block.Offset, block.Bytes)));
            _writes.Add((refcounts.Table.Offset, refcounts.Table.Bytes));
        }

        foreach (var (offset, bytes) in _writes)
        {
            await _metadata.File.WriteAsync(offset, bytes, WriteOptions.None, cancellation).ConfigureAwait(false);
        }

        await _metadata.FlushFilesAsync(cancellation).ConfigureAwait(false);
        var before = _metadata.Header.Clone();
        try
        {
            _metadata.Header.RefcountTableOffset = refcounts.Table.Offset;
            _metadata.Header.RefcountTableClusters = refcounts.TableClusters;
            change(_metadata.Header);
            _ = _metadata.Header.Write();
            HeaderTouched = true;
            await _metadata.WriteHeaderAsync(CancellationToken.None).ConfigureAwait(false);
            await _metadata.File.FlushAsync(CancellationToken.None).ConfigureAwait(false);
        }
        catch
        {
            _metadata.Header.CopyFrom(before);
            throw;
        }

        foreach (var block in refcounts.Dirty)
        {
            block.IsNew = false;
            block.Forget();
        }

        refcounts.Dirty.Clear();
        refcounts.Table.Forget();
        refcounts.TableMoved = false;
        refcounts.EndRewrite();
        if (_metadata.DiscardToFile)
        {
            await DiscardFreedAsync().ConfigureAwait(false);
        }
    }

    private async ValueTask DiscardFreedAsync()
    {
        // What was freed on the way may have found a user again.
        var freed = new List<long>();
        foreach (var cluster in _freed.Order().Distinct())
        {
            if (await CountAsync(cluster, CancellationToken.None).ConfigureAwait(false) == 0)
            {
                freed.Add(cluster);
            }
        }

        for (var index = 0; index < freed.Count;)
        {
            var first = freed[index];
            var count = 1L;
            while (++index < freed.Count && freed[index] == first + count)
            {
                count++;
            }

            try
            {
                await _metadata.File.DiscardAsync(first << Bits, count << Bits, CancellationToken.None).ConfigureAwait(false);
            }
            catch (DiskException)
            {
                // The room stays taken in the file system.
                return;
            }
        }
    }
}
