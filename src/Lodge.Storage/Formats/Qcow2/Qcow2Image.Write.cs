using System.Buffers;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

internal sealed partial class Qcow2Image
{
    /// <summary>Most bytes that one allocation takes, so that a huge request does not hold a huge range.</summary>
    private const long LargestAllocation = 16 << 20;

    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, source.Length);
        if (source.Length == 0 && options == WriteOptions.None)
        {
            return ValueTask.CompletedTask;
        }

        // The usual case: allocated data in one piece, under a table that is in memory.
        if (_prepared && _broken is null && _cipher is null && options == WriteOptions.None && _metadata.Requests.TryEnter(out var epoch))
        {
            if (!_metadata.TryFindTable(TableIndex(offset), out var table) ||
                _metadata.Resolve(table, offset, source.Length) is not { InPlace: true } run || run.Length != source.Length || !IsPlaceForData(run.Host, run.Length))
            {
                return LeaveAfterAsync(WriteGuardedAsync(offset, source, options, cancellation), epoch);
            }

            ValueTask write;
            try
            {
                write = _metadata.Data.WriteAsync(run.Host, source, WriteOptions.None, cancellation);
            }
            catch
            {
                epoch.Leave();
                throw;
            }

            if (!write.IsCompletedSuccessfully)
            {
                return LeaveAfterAsync(write, epoch);
            }

            write.GetAwaiter().GetResult();
            epoch.Leave();
            return ValueTask.CompletedTask;
        }

        return WriteWhenOpenAsync(offset, source, options, cancellation);
    }

    private async ValueTask WriteWhenOpenAsync(long offset, IoVector source, WriteOptions options, CancellationToken cancellation)
    {
        var epoch = await _metadata.Requests.EnterAsync(cancellation).ConfigureAwait(false);
        await LeaveAfterAsync(WriteGuardedAsync(offset, source, options, cancellation), epoch).ConfigureAwait(false);
        if ((options & WriteOptions.ForceUnitAccess) != 0)
        {
            await FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    private ValueTask WriteGuardedAsync(long offset, IoVector source, WriteOptions options, CancellationToken cancellation) =>
        ChangeAsync(() => _cipher is null ? WriteMappedAsync(offset, source, false, cancellation) : WriteEncryptedAsync(offset, source, cancellation), cancellation);

    /// <summary>Does a change: prepares the file for it, marks the image as corrupt where it finds it so, and commits when much has gathered.</summary>
    private async ValueTask ChangeAsync(Func<ValueTask> change, CancellationToken cancellation)
    {
        try
        {
            await PrepareAsync(cancellation).ConfigureAwait(false);
            await change().ConfigureAwait(false);
            if (_metadata.NeedsCommit)
            {
                await _metadata.CommitAsync(cancellation).ConfigureAwait(false);
            }
        }
        catch (DiskException failure) when (failure.Error == DiskError.Corrupt)
        {
            await MarkCorruptAsync(failure).ConfigureAwait(false);
            throw;
        }
    }

    /// <param name="offset">In guest bytes.</param>
    /// <param name="source">What to write.</param>
    /// <param name="held">Whether the caller holds the range of clusters.</param>
    /// <param name="cancellation">Ends the request between its parts.</param>
    private async ValueTask WriteMappedAsync(long offset, IoVector source, bool held, CancellationToken cancellation)
    {
        while (source.Length > 0)
        {
            var table = await _metadata.FindTableAsync(TableIndex(offset), cancellation).ConfigureAwait(false);
            var run = _metadata.Resolve(table, offset, source.Length);
            var done = run.Length;
            if (run.InPlace)
            {
                if (!IsPlaceForData(run.Host, run.Length))
                {
                    throw Corrupt($"the guest's offset {offset} maps to {run.Host}, which holds metadata or lies beyond the file");
                }

                await WriteHostAsync(run.Host, source.Slice(0, done), cancellation).ConfigureAwait(false);
            }
            else if (run.Kind == ClusterKind.Invalid)
            {
                throw Corrupt($"the L2 entry for the guest's offset {offset} is invalid");
            }
            else
            {
                var span = 1L << Geometry.TableSpanBits;
                var most = Math.Min(Math.Min(source.Length, LargestAllocation), span - (offset & (span - 1)));
                done = await WriteAllocatingAsync(offset, source.Slice(0, most), held, cancellation).ConfigureAwait(false);
            }

            offset += done;
            source = source.Slice(done, source.Length - done);
        }
    }

    private bool IsPlaceForData(long host, long length) =>
        Geometry.External || (host >> Geometry.ClusterBits < _metadata.EndOfFile && !_metadata.Map.Contains(host >> Geometry.ClusterBits, (host + length - 1) >> Geometry.ClusterBits));

    /// <summary>Writes where a cluster must be allocated or copied first. The range lies under one L2 table.</summary>
    /// <returns>How many bytes were written; 0 if meanwhile the first may be written in place.</returns>
    private async ValueTask<long> WriteAllocatingAsync(long offset, IoVector source, bool held, CancellationToken cancellation)
    {
        var bits = Geometry.ClusterBits;
        var range = held ? null : await _ranges.EnterAsync(offset >> bits, (offset + source.Length - 1) >> bits, cancellation).ConfigureAwait(false);
        MetadataBlock? table = null;
        try
        {
            table = await _metadata.PinTableAsync(TableIndex(offset), cancellation).ConfigureAwait(false);
            var plan = Plan(table, offset, source.Length);
            if (plan.Clusters == 0)
            {
                return 0;
            }

            if (plan.Reuse || Geometry.External)
            {
                var host = Geometry.External ? offset >> bits << bits : (long)(plan.Descriptor & Qcow2Geometry.OffsetMask);
                if (!IsPlaceForData(host, Geometry.ClusterSize))
                {
                    throw Corrupt($"the guest's offset {offset} maps to {host}, which holds metadata or lies beyond the file");
                }

                return await FillAsync(table, offset, source, plan, host, plan.Clusters, false, cancellation).ConfigureAwait(false);
            }

            var (run, fresh) = await _metadata.AllocateAsync(plan.Clusters, false, cancellation).ConfigureAwait(false);
            try
            {
                return await FillAsync(table, offset, source, plan, run.First << bits, run.Count, fresh, cancellation).ConfigureAwait(false);
            }
            catch
            {
                _metadata.GiveBack(run);
                throw;
            }
        }
        finally
        {
            if (table is not null)
            {
                _metadata.Unpin(table);
            }

            range?.Dispose();
        }
    }

    /// <summary>How the first clusters of a range are to be written.</summary>
    private WritePlan Plan(MetadataBlock table, long offset, long length)
    {
        var geometry = Geometry;
        var mask = geometry.TableEntries - 1;
        var first = offset >> geometry.ClusterBits;
        var (descriptor, bitmap) = _metadata.ReadEntry(table, (int)first & mask);
        var unit = (int)(offset & (geometry.ClusterSize - 1)) >> geometry.UnitBits;
        var kind = geometry.Kind(descriptor, bitmap, unit);
        if (kind == ClusterKind.Invalid)
        {
            throw Corrupt($"the L2 entry for the guest's offset {offset} is invalid");
        }

        if (geometry.IsOwnCluster(descriptor))
        {
            if (kind == ClusterKind.Normal)
            {
                return default;
            }

            // The cluster is there; only the units up to the next one that holds data are filled.
            var end = (first << geometry.ClusterBits) + ((long)unit << geometry.UnitBits);
            while (end < (first + 1) << geometry.ClusterBits && geometry.Kind(descriptor, bitmap, (int)(end & (geometry.ClusterSize - 1)) >> geometry.UnitBits) != ClusterKind.Normal)
            {
                end += geometry.UnitSize;
            }

            return new WritePlan(1, true, descriptor, bitmap, Math.Min(end, offset + length));
        }

        var last = (offset + length - 1) >> geometry.ClusterBits;
        var clusters = 1L;
        while (first + clusters <= last && !geometry.IsOwnCluster(_metadata.ReadEntry(table, (int)(first + clusters) & mask).Descriptor))
        {
            clusters++;
        }

        return new WritePlan(clusters, false, descriptor, bitmap, Math.Min((first + clusters) << geometry.ClusterBits, offset + length));
    }

    /// <summary>Writes data into host clusters together with what must be copied around it, then points the L2 entries there.</summary>
    private async ValueTask<long> FillAsync(
        MetadataBlock table, long offset, IoVector source, WritePlan plan, long host, long clusters, bool fresh, CancellationToken cancellation)
    {
        var geometry = Geometry;
        var start = offset & ~(geometry.ClusterSize - 1L);
        var end = Math.Min(plan.End, start + (clusters << geometry.ClusterBits));
        var wholeClusters = !geometry.Extended || (!plan.Reuse && HoldsData(table, start, end));
        var unit = wholeClusters ? geometry.ClusterSize : geometry.UnitSize;
        var from = offset & ~(unit - 1L);
        var to = (end + unit - 1) & ~(unit - 1L);
        var pieces = new List<Memory<byte>>();
        byte[]? head = null;
        byte[]? tail = null;
        try
        {
            var writeFrom = from;
            if (from < offset)
            {
                head = await OldContentAsync(table, from, (int)(offset - from), pieces, fresh, cancellation).ConfigureAwait(false);
                writeFrom = pieces.Count == 0 ? offset : from;
            }

            foreach (var piece in source.Slice(0, end - offset))
            {
                pieces.Add(piece);
            }

            if (end < to)
            {
                tail = await OldContentAsync(table, end, (int)(to - end), pieces, fresh, cancellation).ConfigureAwait(false);
            }

            await WriteHostAsync(host + writeFrom - start, new IoVector([.. pieces]), cancellation).ConfigureAwait(false);
        }
        finally
        {
            Return(head);
            Return(tail);
        }

        lock (_metadata.Gate)
        {
            Link(table, start, from, to, host, plan.Reuse);
        }

        return end - offset;
    }

    private static void Return(byte[]? rented)
    {
        if (rented is not null)
        {
            ArrayPool<byte>.Shared.Return(rented);
        }
    }

    /// <summary>Points the entries of the clusters from <paramref name="start"/> to host clusters, where the units of [from, to) hold data now. Under the lock.</summary>
    private void Link(MetadataBlock table, long start, long from, long to, long host, bool reuse)
    {
        var geometry = Geometry;
        for (var at = start; at < to; at += geometry.ClusterSize)
        {
            var index = (int)(at >> geometry.ClusterBits) & (geometry.TableEntries - 1);
            var (descriptor, bitmap) = _metadata.ReadEntry(table, index);
            if (geometry.Extended)
            {
                var firstUnit = (int)(Math.Max(from - at, 0) >> geometry.UnitBits);
                var units = (int)(Math.Min(to - at, geometry.ClusterSize) >> geometry.UnitBits) - firstUnit;
                var data = (units == 32 ? uint.MaxValue : (1UL << units) - 1) << firstUnit;
                bitmap = (descriptor & Qcow2Geometry.CompressedBit) != 0 ? data : (bitmap | data) & ~(data << 32);
            }

            _metadata.WriteEntry(table, index, (ulong)(host + at - start) | Qcow2Geometry.Copied, bitmap);
            if (!reuse)
            {
                _metadata.Release(descriptor);
            }
        }
    }

    /// <summary>Whether the old entry of one of the clusters has data that a new host cluster must take over as a whole (extended L2).</summary>
    private bool HoldsData(MetadataBlock table, long start, long end)
    {
        for (var at = start; at < end; at += Geometry.ClusterSize)
        {
            var (descriptor, bitmap) = _metadata.ReadEntry(table, (int)(at >> Geometry.ClusterBits) & (Geometry.TableEntries - 1));
            if ((descriptor & Qcow2Geometry.CompressedBit) != 0 || (uint)bitmap != 0)
            {
                return true;
            }
        }

        return false;
    }

    /// <summary>Adds what guest bytes beside a write hold now to the pieces; nothing if that is zeroes and the host cluster reads as zeroes anyway.</summary>
    /// <returns>A rented array, or null.</returns>
    private async ValueTask<byte[]?> OldContentAsync(MetadataBlock table, long offset, int length, List<Memory<byte>> pieces, bool fresh, CancellationToken cancellation)
    {
        var run = _metadata.Resolve(table, offset, length);
        if (run.Length == length && ReadsZero(run.Kind, offset))
        {
            if (!fresh || _cipher is not null)
            {
                pieces.Add(ZeroCluster.AsMemory(0, length));
            }

            return null;
        }

        var bytes = ArrayPool<byte>.Shared.Rent(length);
        try
        {
            await ReadMappedAsync(offset, bytes.AsMemory(0, length), cancellation).ConfigureAwait(false);
        }
        catch
        {
            ArrayPool<byte>.Shared.Return(bytes);
            throw;
        }

        pieces.Add(bytes.AsMemory(0, length));
        return bytes;
    }

    private bool ReadsZero(ClusterKind kind, long offset) =>
        kind is ClusterKind.Zero or ClusterKind.ZeroHeld || (kind is ClusterKind.Unallocated or ClusterKind.UnallocatedHeld && !BackingCovers(offset));

    private bool BackingCovers(long offset) => Header.BackingName is not null && (Backing is null || offset < Backing.Length);

    private async ValueTask WriteHostAsync(long host, IoVector source, CancellationToken cancellation)
    {
        if (_cipher is null)
        {
            await _metadata.Data.WriteAsync(host, source, WriteOptions.None, cancellation).ConfigureAwait(false);
            return;
        }

        const int Largest = 1 << 20;
        var buffer = ArrayPool<byte>.Shared.Rent((int)Math.Min(source.Length, Largest));
        try
        {
            while (source.Length > 0)
            {
                var part = (int)Math.Min(source.Length, Largest);
                source.Slice(0, part).CopyTo(buffer);
                _cipher.Encrypt(buffer.AsSpan(0, part), (ulong)host >> 9);
                await _metadata.Data.WriteAsync(host, buffer.AsMemory(0, part), WriteOptions.None, cancellation).ConfigureAwait(false);
                host += part;
                source = source.Slice(part, source.Length - part);
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    /// <summary>Writes to an encrypted image: whole sectors, with the clusters held so that no other request completes the same sector.</summary>
    private async ValueTask WriteEncryptedAsync(long offset, IoVector source, CancellationToken cancellation)
    {
        while (source.Length > 0)
        {
            var part = (int)Math.Min(source.Length, (1 << 20) - (offset & 511));
            var start = offset & ~511L;
            var skip = (int)(offset - start);
            var whole = (skip + part + 511) & ~511;
            var buffer = ArrayPool<byte>.Shared.Rent(whole);
            using (await _ranges.EnterAsync(start >> Geometry.ClusterBits, (start + whole - 1) >> Geometry.ClusterBits, cancellation).ConfigureAwait(false))
            {
                if (skip > 0)
                {
                    await ReadMappedAsync(start, buffer.AsMemory(0, 512), cancellation).ConfigureAwait(false);
                }

                if (skip + part < whole && (skip == 0 || whole > 512))
                {
                    await ReadMappedAsync(start + whole - 512, buffer.AsMemory(whole - 512, 512), cancellation).ConfigureAwait(false);
                }

                source.Slice(0, part).CopyTo(buffer.AsSpan(skip));
                await WriteMappedAsync(start, buffer.AsMemory(0, whole), true, cancellation).ConfigureAwait(false);
            }

            ArrayPool<byte>.Shared.Return(buffer);
            offset += part;
            source = source.Slice(part, source.Length - part);
        }
    }

    /// <param name="Clusters">How many clusters; 0 if the first may be written in place.</param>
    /// <param name="Reuse">Whether the entry's own host cluster is filled.</param>
    /// <param name="Descriptor">The first cluster's entry.</param>
    /// <param name="Bitmap">Its bitmap.</param>
    /// <param name="End">Where the guest bytes end that are written.</param>
    private readonly record struct WritePlan(long Clusters, bool Reuse, ulong Descriptor, ulong Bitmap, long End);
}
