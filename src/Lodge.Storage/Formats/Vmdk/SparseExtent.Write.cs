using System.Buffers;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Vmdk;

internal sealed partial class SparseExtent
{
    private const int ZeroChunk = 1 << 20;
    private static readonly byte[] Zeroes = GC.AllocateArray<byte>(ZeroChunk, pinned: true);

    public override ValueTask WriteAsync(long offset, IoVector source, CancellationToken cancellation)
    {
        var run = Find(offset, source.Length, out var length);
        return run.State == GrainState.Data && length == source.Length
            ? File.WriteAsync(Host(run, offset), source, WriteOptions.None, cancellation)
            : WriteRunsAsync(offset, source, cancellation);
    }

    public override async ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options, CancellationToken cancellation)
    {
        for (var end = offset + length; offset < end;)
        {
            var run = Find(offset, end - offset, out var part);
            switch (run.State)
            {
                case GrainState.NotLoaded:
                    await tables.LoadAsync(offset / _grain, cancellation).ConfigureAwait(false);
                    continue;
                case GrainState.Zero:
                    break;
                case GrainState.Data:
                    if (Host(run, offset) is var host && host < File.Length)
                    {
                        await File.WriteZeroesAsync(host, Math.Min(part, File.Length - host), options & ~ZeroOptions.ForceUnitAccess, cancellation).ConfigureAwait(false);
                    }

                    break;
                default:
                    part = await ZeroUnallocatedAsync(offset, part, options, cancellation).ConfigureAwait(false);
                    break;
            }

            offset += part;
        }
    }

    public override async ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation)
    {
        for (var end = offset + length; offset < end;)
        {
            var run = Find(offset, end - offset, out var part);
            if (run.State == GrainState.NotLoaded)
            {
                await tables.LoadAsync(offset / _grain, cancellation).ConfigureAwait(false);
                continue;
            }

            if (run.State == GrainState.Data && Host(run, offset) is var host && host < File.Length)
            {
                await File.WriteZeroesAsync(host, Math.Min(part, File.Length - host), ZeroOptions.MayUnmap, cancellation).ConfigureAwait(false);
            }

            offset += part;
        }
    }

    private async ValueTask WriteRunsAsync(long offset, IoVector source, CancellationToken cancellation)
    {
        for (long done = 0; done < source.Length;)
        {
            var at = offset + done;
            var first = at / _grain;
            var write = tables.BeginWrite(first, ((offset + source.Length - 1) / _grain) - first + 1);
            if (write.Wait is { } other)
            {
                await other.WaitAsync(cancellation).ConfigureAwait(false);
                continue;
            }

            if (write.Run.State == GrainState.NotLoaded)
            {
                await tables.LoadAsync(first, cancellation).ConfigureAwait(false);
                continue;
            }

            var part = Math.Min(source.Length - done, ((first + write.Run.Count) * _grain) - at);
            if (write.Reservation is { } reservation)
            {
                await FillAsync(reservation, at, source.Slice(done, part), cancellation).ConfigureAwait(false);
            }
            else
            {
                await File.WriteAsync(Host(write.Run, at), source.Slice(done, part), WriteOptions.None, cancellation).ConfigureAwait(false);
            }

            done += part;
        }
    }

    /// <summary>Writes new grains, with what the parent has around the data.</summary>
    private async ValueTask FillAsync(GrainReservation reservation, long offset, IoVector source, CancellationToken cancellation)
    {
        var written = false;
        byte[]? head = null, tail = null;
        try
        {
            var start = reservation.First * _grain;
            var end = Math.Min(start + (reservation.Count * _grain), Length);
            var host = reservation.Sector * VmdkHeader.SectorLength;
            var (before, after) = ((int)(offset - start), (int)(end - offset - source.Length));
            if (backing is null || reservation.WasZero || (before == 0 && after == 0))
            {
                // New room reads as zeroes.
                await File.WriteAsync(host + before, source, WriteOptions.None, cancellation).ConfigureAwait(false);
            }
            else
            {
                head = ArrayPool<byte>.Shared.Rent(Math.Max(before, 1));
                tail = ArrayPool<byte>.Shared.Rent(Math.Max(after, 1));
                await ReadBackingAsync(start, head.AsMemory(0, before), cancellation).ConfigureAwait(false);
                await ReadBackingAsync(offset + source.Length, tail.AsMemory(0, after), cancellation).ConfigureAwait(false);
                List<Memory<byte>> segments = [head.AsMemory(0, before)];
                foreach (var segment in source)
                {
                    segments.Add(segment);
                }

                segments.Add(tail.AsMemory(0, after));
                await File.WriteAsync(host, new IoVector([.. segments]), WriteOptions.None, cancellation).ConfigureAwait(false);
            }

            written = true;
        }
        finally
        {
            tables.EndWrite(reservation, written);
            if (head is not null)
            {
                ArrayPool<byte>.Shared.Return(head);
                ArrayPool<byte>.Shared.Return(tail!);
            }
        }
    }

    /// <summary>Makes zero what the extent does not hold.</summary>
    /// <returns>Bytes that are done, or 0 to look again.</returns>
    private async ValueTask<long> ZeroUnallocatedAsync(long offset, long length, ZeroOptions options, CancellationToken cancellation)
    {
        var first = offset / _grain;
        if (tables.BusyWith(first, VmdkHeader.DivideUp(offset + length, _grain) - first) is { } busy)
        {
            await busy.WaitAsync(cancellation).ConfigureAwait(false);
            return 0;
        }

        if (backing is null || Start + offset >= backing.Length)
        {
            return length;
        }

        // Whole grains by their entries; at the disk's end a part is the whole.
        var whole = offset + length == Length ? VmdkHeader.DivideUp(offset + length, _grain) : (offset + length) / _grain;
        if (tables.Geometry.ZeroedGrains && offset % _grain == 0 && whole > first)
        {
            var made = tables.SetZero(first, whole - first);
            return made.Wait is null && made.Run.State is GrainState.Unallocated or GrainState.Zero ? Math.Min(length, made.Run.Count * _grain) : 0;
        }

        length = Math.Min(length, Math.Min(backing.Length - Start - offset, ZeroChunk));
        if (tables.Geometry.ZeroedGrains)
        {
            length = Math.Min(length, ((first + 1) * _grain) - offset);
        }

        var below = await backing.StatusAsync(Start + offset, length, cancellation).ConfigureAwait(false);
        length = below.Length;
        if ((below.State & BlockState.Zero) == 0 && (below.State & BlockState.Data) != 0)
        {
            if ((options & ZeroOptions.Fast) != 0)
            {
                throw new DiskException(DiskError.Unsupported, $"{Name} can hide its parent's data only by writing zeroes");
            }

            await WriteRunsAsync(offset, Zeroes.AsMemory(0, (int)length), cancellation).ConfigureAwait(false);
        }

        return length;
    }
}
