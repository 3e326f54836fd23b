using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

internal sealed partial class Qcow2Image
{
    public async ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        if (length > 0)
        {
            await ZeroAnywhereAsync(offset, length, options, cancellation).ConfigureAwait(false);
        }

        if ((options & ZeroOptions.ForceUnitAccess) != 0)
        {
            await FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Zeroes a range, which may lie behind the disk's end where the L1 table has room for it.</summary>
    private async ValueTask ZeroAnywhereAsync(long offset, long length, ZeroOptions options, CancellationToken cancellation)
    {
        var epoch = await _metadata.Requests.EnterAsync(cancellation).ConfigureAwait(false);
        await LeaveAfterAsync(ChangeAsync(() => ZeroAsync(offset, length, options, cancellation), cancellation), epoch).ConfigureAwait(false);
    }

    public async ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        var (start, end) = WholeUnits(offset, length, Geometry.ClusterSize);
        if (start >= end)
        {
            return;
        }

        var epoch = await _metadata.Requests.EnterAsync(cancellation).ConfigureAwait(false);
        await LeaveAfterAsync(ChangeAsync(() => ZeroUnitsAsync(start, end, ZeroOptions.MayUnmap, true, cancellation), cancellation), epoch).ConfigureAwait(false);
    }

    /// <summary>The whole units inside a range; the last one of the disk may be short.</summary>
    private (long Start, long End) WholeUnits(long offset, long length, int unit)
    {
        var end = offset + length;
        return ((offset + unit - 1) & ~(unit - 1L), end == Length ? (end + unit - 1) & ~(unit - 1L) : end & ~(unit - 1L));
    }

    private async ValueTask ZeroAsync(long offset, long length, ZeroOptions options, CancellationToken cancellation)
    {
        var (start, end) = WholeUnits(offset, length, Geometry.UnitSize);
        if (start >= end)
        {
            await ZeroPartAsync(offset, length, options, cancellation).ConfigureAwait(false);
            return;
        }

        if (offset < start)
        {
            await ZeroPartAsync(offset, start - offset, options, cancellation).ConfigureAwait(false);
        }

        await ZeroUnitsAsync(start, end, options, false, cancellation).ConfigureAwait(false);
        if (end < offset + length)
        {
            await ZeroPartAsync(end, offset + length - end, options, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Zeroes less than a unit: by writing, unless it is zero.</summary>
    private async ValueTask ZeroPartAsync(long offset, long length, ZeroOptions options, CancellationToken cancellation)
    {
        while (length > 0)
        {
            var table = await _metadata.FindTableAsync(TableIndex(offset), cancellation).ConfigureAwait(false);
            var run = _metadata.Resolve(table, offset, Math.Min(length, Geometry.ClusterSize - (offset & (Geometry.ClusterSize - 1))));
            if (!ReadsZero(run.Kind, offset))
            {
                if ((options & ZeroOptions.Fast) != 0)
                {
                    throw new DiskException(DiskError.Unsupported, $"{File.Name}: {run.Length} bytes at {offset} are not a whole cluster and cannot be made zero without writing them");
                }

                var zeroes = ZeroCluster.AsMemory(0, (int)run.Length);
                await (_cipher is null ? WriteMappedAsync(offset, zeroes, false, cancellation) : WriteEncryptedAsync(offset, zeroes, cancellation)).ConfigureAwait(false);
            }

            offset += run.Length;
            length -= run.Length;
        }
    }

    /// <summary>Zeroes or forgets whole units.</summary>
    private async ValueTask ZeroUnitsAsync(long start, long end, ZeroOptions options, bool discard, CancellationToken cancellation)
    {
        var bits = Geometry.ClusterBits;
        if (Geometry.External && Header.RawDataFile)
        {
            // The data file alone must show the same content.
            var last = Math.Min(end, Length);
            await _metadata.Data.WriteZeroesAsync(start, last - start, options & ~ZeroOptions.ForceUnitAccess, cancellation).ConfigureAwait(false);
            return;
        }

        var span = 1L << Geometry.TableSpanBits;
        while (start < end)
        {
            var stop = Math.Min(end, (start & ~(span - 1)) + span);
            using (await _ranges.EnterAsync(start >> bits, (stop - 1) >> bits, cancellation).ConfigureAwait(false))
            {
                var index = TableIndex(start);
                if (await _metadata.FindTableAsync(index, cancellation).ConfigureAwait(false) is not null || (!discard && BackingCovers(start)))
                {
                    await ZeroInTableAsync(index, start, stop, options, discard, cancellation).ConfigureAwait(false);
                }
            }

            start = stop;
            if (_metadata.NeedsCommit)
            {
                await _metadata.CommitAsync(cancellation).ConfigureAwait(false);
            }
        }
    }

    private async ValueTask ZeroInTableAsync(int tableIndex, long start, long stop, ZeroOptions options, bool discard, CancellationToken cancellation)
    {
        var geometry = Geometry;
        var table = await _metadata.PinTableAsync(tableIndex, cancellation).ConfigureAwait(false);
        try
        {
            for (var at = start; at < stop;)
            {
                var cluster = at & ~(geometry.ClusterSize - 1L);
                var next = Math.Min(stop, cluster + geometry.ClusterSize);
                bool done;
                lock (_metadata.Gate)
                {
                    done = TryZeroCluster(table, at, next, options, discard);
                }

                if (!done)
                {
                    if ((options & ZeroOptions.Fast) != 0)
                    {
                        throw new DiskException(DiskError.Unsupported, $"{File.Name} is of version 2 of the format, which has no zero clusters");
                    }

                    await WriteMappedAsync(at, ZeroCluster.AsMemory(0, (int)(next - at)), true, cancellation).ConfigureAwait(false);
                }

                at = next;
            }
        }
        finally
        {
            _metadata.Unpin(table);
        }
    }

    /// <summary>Zeroes units of one cluster in its L2 entry. Under the lock; false where only writing zeroes does it.</summary>
    private bool TryZeroCluster(MetadataBlock table, long from, long to, ZeroOptions options, bool discard)
    {
        var geometry = Geometry;
        var index = (int)(from >> geometry.ClusterBits) & (geometry.TableEntries - 1);
        var (descriptor, bitmap) = _metadata.ReadEntry(table, index);
        var covered = BackingCovers(from);
        if (to - from < geometry.ClusterSize)
        {
            return TryZeroUnits(table, index, descriptor, bitmap, from, to);
        }

        var empty = descriptor == 0 && bitmap == 0;
        if (empty && (discard || !covered))
        {
            return true;
        }

        if (!geometry.HasZeroes)
        {
            if (covered)
            {
                // Version 2 cannot hide the backing image without data; a discard then leaves the cluster as it is.
                return discard;
            }

            _metadata.WriteEntry(table, index, 0, 0);
            _metadata.Release(descriptor);
            return true;
        }

        var keep = (options & ZeroOptions.MayUnmap) == 0 && geometry.IsOwnCluster(descriptor);
        var allZero = geometry.Extended ? 0xffffffff00000000 : 0;
        var flag = geometry.Extended ? 0 : Qcow2Geometry.ZeroBit;
        var zero = keep ? (descriptor & (Qcow2Geometry.OffsetMask | Qcow2Geometry.Copied)) | flag : flag;
        if (discard && !covered)
        {
            (zero, allZero) = (0, 0);
        }

        if (zero != descriptor || allZero != bitmap)
        {
            _metadata.WriteEntry(table, index, zero, allZero);
            if (!keep)
            {
                _metadata.Release(descriptor);
            }
        }

        return true;
    }

    private bool TryZeroUnits(MetadataBlock table, int index, ulong descriptor, ulong bitmap, long from, long to)
    {
        var geometry = Geometry;
        if (!geometry.Extended || (descriptor & Qcow2Geometry.CompressedBit) != 0)
        {
            return false;
        }

        var first = (int)(from & (geometry.ClusterSize - 1)) >> geometry.UnitBits;
        var units = (int)((to - from) >> geometry.UnitBits);
        var mask = ((1UL << units) - 1) << first;
        _metadata.WriteEntry(table, index, descriptor, (bitmap & ~mask) | (mask << 32));
        return true;
    }
}
