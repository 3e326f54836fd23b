using System.Buffers;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>A sparse extent with compressed grains: read at random, written in ascending order by <see cref="StreamExtent.StoreAsync"/>.</summary>
internal sealed partial class StreamExtent(GrainTables tables, VmdkHeader header, long appendSector, bool unfinished, IDisk? backing) : VmdkExtent
{
    private const int CachedGrains = 8;
    private const long LargestGuess = 4 << 20;

    private readonly int _grain = tables.Geometry.GrainLength;
    private readonly Lock _cacheGate = new();
    private readonly (long Grain, byte[]? Bytes)[] _cache = new (long, byte[]?)[CachedGrains];

    public override int? GrainLength => _grain;

    public override bool IsCompressed => true;

    public override bool HasMetadata => true;

    private IStorageFile File => tables.File;

    public override async ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        for (long done = 0; done < destination.Length;)
        {
            var at = offset + done;
            var first = at / _grain;
            var run = tables.Find(first, ((offset + destination.Length - 1) / _grain) - first + 1);
            if (run.State == GrainState.NotLoaded)
            {
                await tables.LoadAsync(first, cancellation).ConfigureAwait(false);
                continue;
            }

            var part = Math.Min(destination.Length - done, ((first + run.Count) * _grain) - at);
            var piece = destination.Slice(done, part);
            if (run.State == GrainState.Data)
            {
                await ReadGrainAsync(first, run.Sector, (int)(at % _grain), piece, cancellation).ConfigureAwait(false);
            }
            else if (run.State == GrainState.Unallocated && backing is not null)
            {
                var inside = Math.Clamp(backing.Length - Start - at, 0, part);
                if (inside > 0)
                {
                    await backing.ReadAsync(Start + at, piece.Slice(0, inside), cancellation).ConfigureAwait(false);
                }

                piece.Slice(inside, part - inside).Clear();
            }
            else
            {
                piece.Clear();
            }

            done += part;
        }
    }

    public override async ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation)
    {
        var (run, part) = await FindAsync(offset, length, cancellation).ConfigureAwait(false);
        switch (run.State)
        {
            case GrainState.Zero:
                return new BlockExtent(part, BlockState.Zero | BlockState.Allocated);
            case GrainState.Data:
                return new BlockExtent(part, BlockState.Data | BlockState.Allocated | BlockState.Compressed);
            default:
                if (backing is null || Start + offset >= backing.Length)
                {
                    return new BlockExtent(part, BlockState.None);
                }

                var below = await backing.StatusAsync(Start + offset, Math.Min(part, backing.Length - Start - offset), cancellation).ConfigureAwait(false);
                return below with { State = below.State & ~BlockState.Allocated, Depth = below.Depth + 1 };
        }
    }

    public override async ValueTask<(bool Own, long Length)> IsOwnAsync(long offset, long length, CancellationToken cancellation)
    {
        var (run, part) = await FindAsync(offset, length, cancellation).ConfigureAwait(false);
        return (run.State != GrainState.Unallocated, part);
    }

    /// <summary>Compressed data has no room for changes: discards do nothing.</summary>
    public override ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation) => ValueTask.CompletedTask;

    public override async ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options, CancellationToken cancellation)
    {
        for (var end = offset + length; offset < end;)
        {
            var status = await GetStatusAsync(offset, end - offset, cancellation).ConfigureAwait(false);
            if ((status.State & BlockState.Data) != 0 && (status.State & BlockState.Zero) == 0)
            {
                throw new DiskException(DiskError.Unsupported, $"{Name}: a streamOptimized VMDK cannot change what was written; convert it first");
            }

            offset += status.Length;
        }
    }

    public override async ValueTask CheckAsync(VmdkCheck check, CheckRepair repair, CancellationToken cancellation)
    {
        if (unfinished)
        {
            check.Unfinished(Name, repair);
            if (repair != CheckRepair.None)
            {
                await FinishAsync(cancellation).ConfigureAwait(false);
            }
        }

        await check.RunAsync(tables, CheckRepair.None, cancellation).ConfigureAwait(false);
    }

    private async ValueTask<(GrainRun Run, long Length)> FindAsync(long offset, long length, CancellationToken cancellation)
    {
        var first = offset / _grain;
        while (true)
        {
            var run = tables.Find(first, length == 0 ? 1 : ((offset + length - 1) / _grain) - first + 1);
            if (run.State != GrainState.NotLoaded)
            {
                return (run, Math.Min(length, ((first + run.Count) * _grain) - offset));
            }

            await tables.LoadAsync(first, cancellation).ConfigureAwait(false);
        }
    }

    private async ValueTask ReadGrainAsync(long grain, long sector, int within, IoVector destination, CancellationToken cancellation)
    {
        if (destination.Length == _grain && destination.TryGetSingle(out var whole))
        {
            await ExpandAsync(grain, sector, whole, cancellation).ConfigureAwait(false);
            return;
        }

        byte[]? bytes;
        lock (_cacheGate)
        {
            var slot = _cache[grain % CachedGrains];
            bytes = slot.Grain == grain ? slot.Bytes : null;
        }

        if (bytes is null)
        {
            bytes = new byte[_grain];
            await ExpandAsync(grain, sector, bytes, cancellation).ConfigureAwait(false);
            lock (_cacheGate)
            {
                _cache[grain % CachedGrains] = (grain, bytes);
            }
        }

        destination.CopyFrom(bytes.AsSpan(within));
    }

    private async ValueTask ExpandAsync(long grain, long sector, Memory<byte> destination, CancellationToken cancellation)
    {
        // Mostly one read is enough: a grain rarely takes more room than it has bytes.
        var place = sector * VmdkHeader.SectorLength;
        var guess = (int)Math.Min(Math.Min(_grain + VmdkHeader.SectorLength, LargestGuess), File.Length - place);
        var packed = ArrayPool<byte>.Shared.Rent(Math.Max(guess, VmdkMarker.GrainLength));
        try
        {
            await File.ReadAsync(place, packed.AsMemory(0, guess), cancellation).ConfigureAwait(false);
            var (start, length) = (0, guess);
            if (tables.Geometry.Markers)
            {
                if (guess < 16)
                {
                    throw GrainTables.Corrupt(File, $"grain {grain} at sector {sector} is cut off");
                }

                var marker = VmdkMarker.Parse(packed);
                (start, length) = (VmdkMarker.GrainLength, (int)Math.Min(marker.Size, int.MaxValue / 2));
                if (marker.Value != (ulong)(grain * tables.Geometry.GrainSectors) || length == 0 || length > 2L * GrainCodec.Capacity(_grain) || place + start + length > File.Length)
                {
                    throw GrainTables.Corrupt(File, $"the marker at sector {sector} is not that of grain {grain}");
                }

                if (start + length > guess)
                {
                    ArrayPool<byte>.Shared.Return(packed);
                    packed = ArrayPool<byte>.Shared.Rent(start + length);
                    await File.ReadAsync(place, packed.AsMemory(0, start + length), cancellation).ConfigureAwait(false);
                }
            }

            if (!GrainCodec.TryExpand(packed, start, length, destination.Span))
            {
                throw GrainTables.Corrupt(File, $"the compressed data of grain {grain} at sector {sector} is damaged");
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(packed);
        }
    }
}
