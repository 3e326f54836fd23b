using System.Buffers;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Vmdk;

internal sealed partial class StreamExtent
{
    private readonly SemaphoreSlim _turn = new(1, 1);
    private long _position = appendSector * VmdkHeader.SectorLength;
    private long _last = -1;
    private bool _begun;
    private bool _finished;

    /// <summary>Whether the directory stands at the end, as in a stream; else tables have fixed places (as QEMU makes them).</summary>
    private bool HasFooter => header.DirectorySector < 0;

    public override async ValueTask WriteAsync(long offset, IoVector source, CancellationToken cancellation)
    {
        if (offset % _grain != 0 || (source.Length % _grain != 0 && offset + source.Length != Length))
        {
            throw new DiskException(DiskError.Unsupported, $"{Name}: a streamOptimized VMDK takes only whole grains of {_grain} bytes; convert it to write it");
        }

        var unit = new byte[_grain];
        for (long done = 0; done < source.Length; done += _grain)
        {
            var part = source.Slice(done, Math.Min(_grain, source.Length - done));
            if (!part.IsZero() || backing is not null)
            {
                part.CopyTo(unit);
                await StoreAsync(offset + done, unit.AsMemory(0, (int)part.Length), default, cancellation).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Appends a grain.</summary>
    /// <param name="offset">Of the grain.</param>
    /// <param name="unit">Its bytes; fewer at the disk's end.</param>
    /// <param name="packed">The bytes compressed, or empty.</param>
    /// <param name="cancellation">Ends the wait.</param>
    public async ValueTask StoreAsync(long offset, ReadOnlyMemory<byte> unit, ReadOnlyMemory<byte> packed, CancellationToken cancellation)
    {
        if (!Writable || _finished)
        {
            throw new DiskException(DiskError.ReadOnly, $"{Name} is read-only");
        }

        if (offset % _grain != 0 || unit.Length != Math.Min(_grain, Length - offset))
        {
            throw new DiskException(DiskError.Unsupported, $"{Name}: a streamOptimized VMDK takes only whole grains of {_grain} bytes");
        }

        var grain = offset / _grain;
        var buffer = ArrayPool<byte>.Shared.Rent(GrainCodec.Capacity(_grain) + VmdkMarker.GrainLength + VmdkHeader.SectorLength);
        await _turn.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            await BeginAsync(cancellation).ConfigureAwait(false);
            if (grain <= _last)
            {
                throw new DiskException(DiskError.Unsupported, $"{Name}: grain {grain} comes after grain {_last}; a streamOptimized VMDK is written once and in order");
            }

            var (run, _) = await FindAsync(offset, 1, cancellation).ConfigureAwait(false);
            if (run.State == GrainState.Data)
            {
                throw new DiskException(DiskError.Unsupported, $"{Name}: a streamOptimized VMDK cannot change what was written; convert it first");
            }

            if (HasFooter && _last >= 0 && _last / tables.Geometry.TableEntries != grain / tables.Geometry.TableEntries)
            {
                await PlaceTablesAsync(cancellation).ConfigureAwait(false);
            }

            // Without markers nothing precedes the data.
            var start = tables.Geometry.Markers ? VmdkMarker.GrainLength : 0;
            var length = packed.Length != 0 ? packed.Length : Pack(unit.Span, buffer.AsSpan(start));
            if (packed.Length != 0)
            {
                packed.CopyTo(buffer.AsMemory(start));
            }

            if (start != 0)
            {
                VmdkMarker.WriteGrain(buffer, grain * tables.Geometry.GrainSectors, length);
            }

            var total = (int)VmdkHeader.RoundUp(start + length, VmdkHeader.SectorLength);
            buffer.AsSpan(start + length, total - start - length).Clear();
            CheckPlace(total);
            await File.WriteAsync(_position, buffer.AsMemory(0, total), WriteOptions.None, cancellation).ConfigureAwait(false);
            tables.SetEnd(_position + total);
            tables.SetCompressed(grain, _position / VmdkHeader.SectorLength);
            _position += total;
            _last = grain;
        }
        finally
        {
            _turn.Release();
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    /// <summary>What was written is durable; a stream's grains are found again by their markers even if the image is never closed.</summary>
    public override ValueTask FlushAsync(CancellationToken cancellation) => HasFooter ? File.FlushAsync(cancellation) : tables.FlushAsync(cancellation);

    public override async ValueTask DisposeAsync()
    {
        try
        {
            if (_begun && !_finished)
            {
                await FinishAsync(CancellationToken.None).ConfigureAwait(false);
            }
        }
        finally
        {
            await base.DisposeAsync().ConfigureAwait(false);
        }
    }

    /// <summary>Compresses a grain, also the disk's last one of fewer bytes.</summary>
    public int Pack(ReadOnlySpan<byte> unit, Span<byte> destination)
    {
        if (unit.Length == _grain)
        {
            return GrainCodec.Compress(unit, destination);
        }

        // The last grain is a whole one all the same.
        var whole = new byte[_grain];
        unit.CopyTo(whole);
        return GrainCodec.Compress(whole, destination);
    }

    private void CheckPlace(int total)
    {
        if ((_position + total) / VmdkHeader.SectorLength > uint.MaxValue)
        {
            throw new DiskException(DiskError.NoSpace, $"{Name}: a sparse VMDK extent cannot grow beyond 2 TiB");
        }
    }

    /// <summary>Before the first grain: takes the end off an image that was finished, so that a crash leaves a stream without end and not a wrong one.</summary>
    private async ValueTask BeginAsync(CancellationToken cancellation)
    {
        if (_begun)
        {
            return;
        }

        if (HasFooter && !unfinished && File.Length > _position)
        {
            var footer = File.Length - (3 * VmdkHeader.SectorLength);
            await File.WriteAsync(footer, new byte[3 * VmdkHeader.SectorLength], WriteOptions.None, cancellation).ConfigureAwait(false);
            await File.FlushAsync(cancellation).ConfigureAwait(false);
        }

        if (HasFooter && File.Length > _position)
        {
            await File.ResizeAsync(_position, cancellation).ConfigureAwait(false);
            await File.FlushAsync(cancellation).ConfigureAwait(false);
        }

        _begun = true;
    }

    private async ValueTask PlaceTablesAsync(CancellationToken cancellation)
    {
        foreach (var index in tables.ChangedTables())
        {
            var sectors = tables.Geometry.TableSectors;
            CheckPlace((int)(sectors + 1) * VmdkHeader.SectorLength);
            if (tables.Place(index, (_position / VmdkHeader.SectorLength) + 1) is { } bytes)
            {
                await AppendAsync(VmdkMarkerType.GrainTable, bytes, cancellation).ConfigureAwait(false);
            }
        }
    }

    /// <summary>Writes tables, directory, footer and the end of the stream.</summary>
    private async ValueTask FinishAsync(CancellationToken cancellation)
    {
        if (!HasFooter)
        {
            await tables.CommitAsync(cancellation).ConfigureAwait(false);
            return;
        }

        await BeginAsync(cancellation).ConfigureAwait(false);
        await PlaceTablesAsync(cancellation).ConfigureAwait(false);
        var directory = (_position / VmdkHeader.SectorLength) + 1;
        await AppendAsync(VmdkMarkerType.GrainDirectory, tables.DirectoryBytes(), cancellation).ConfigureAwait(false);

        // A footer is believed: all that it leads to is durable before.
        await File.FlushAsync(cancellation).ConfigureAwait(false);
        await AppendAsync(VmdkMarkerType.Footer, (header with { DirectorySector = directory }).ToBytes(), cancellation).ConfigureAwait(false);
        await File.WriteAsync(_position, VmdkMarker.Metadata(VmdkMarkerType.EndOfStream, 0), WriteOptions.None, cancellation).ConfigureAwait(false);
        _position += VmdkHeader.SectorLength;
        _finished = true;
    }

    private async ValueTask AppendAsync(VmdkMarkerType type, byte[] bytes, CancellationToken cancellation)
    {
        Memory<byte>[] segments = [VmdkMarker.Metadata(type, bytes.Length / VmdkHeader.SectorLength), bytes];
        await File.WriteAsync(_position, new IoVector(segments), WriteOptions.None, cancellation).ConfigureAwait(false);
        _position += VmdkHeader.SectorLength + bytes.Length;
        tables.SetEnd(_position);
    }
}
