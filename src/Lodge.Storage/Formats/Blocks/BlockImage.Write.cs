using System.Buffers;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Blocks;

internal abstract partial class BlockImage
{
    private const int ZeroChunk = 1 << 20;
    private static readonly byte[] Zeroes = new byte[ZeroChunk];

    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, source.Length);
        var within = offset & (BlockSize - 1);
        if (_begun && options == WriteOptions.None && source.Length != 0 && within + source.Length <= BlockSize)
        {
            var block = offset >> _blockShift;
            if (Find(block) is { Kind: BlockKind.Data } entry && IsReady(block))
            {
                return File.WriteAsync(entry.Offset + within, source, WriteOptions.None, cancellation);
            }
        }

        return WriteBlocksAsync(offset, source, options, cancellation);
    }

    public async ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        var end = offset + length;
        for (var at = offset; at < end;)
        {
            var (entry, run) = await RunAsync(at, end - at, cancellation).ConfigureAwait(false);
            if (entry.Kind == BlockKind.Data)
            {
                await EnsureBegunAsync(cancellation).ConfigureAwait(false);
                await ReadyRangeAsync(at, run, cancellation).ConfigureAwait(false);
                await File.WriteZeroesAsync(entry.Offset, run, options & ~ZeroOptions.ForceUnitAccess, cancellation).ConfigureAwait(false);
            }
            else if (entry.Kind == BlockKind.Absent && IsDifferencing)
            {
                run = await ZeroAbsentAsync(at, run, options, cancellation).ConfigureAwait(false);
            }

            at += run;
        }

        if ((options & ZeroOptions.ForceUnitAccess) != 0)
        {
            await FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    /// <inheritdoc/>
    /// <remarks>Gives the room of blocks back to the host; they keep their place in the image and read as zeroes.</remarks>
    public async ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckWrite(offset, length);
        if (!_context.DiscardToFile)
        {
            return;
        }

        var unit = DiscardGranularity;
        var end = (offset + length) / unit * unit;
        for (var at = (offset + unit - 1) / unit * unit; at < end;)
        {
            var (entry, run) = await RunAsync(at, end - at, cancellation).ConfigureAwait(false);
            if (entry.Kind == BlockKind.Data)
            {
                await EnsureBegunAsync(cancellation).ConfigureAwait(false);
                await ReadyRangeAsync(at, run, cancellation).ConfigureAwait(false);
                await File.DiscardAsync(entry.Offset, run, cancellation).ConfigureAwait(false);
            }

            at += run;
        }
    }

    /// <summary>Makes what the file has of the last block behind the disk's end zero.</summary>
    protected async ValueTask ZeroTailAsync(long end, CancellationToken cancellation)
    {
        var within = end & (BlockSize - 1);
        if (within != 0 && Find(end >> _blockShift) is { Kind: BlockKind.Data or BlockKind.Partial } entry)
        {
            await File.WriteZeroesAsync(entry.Offset + within, BlockSize - within, ZeroOptions.MayUnmap, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Gives a block its place if it has none.</summary>
    protected async ValueTask EnsureAllocatedAsync(long block, CancellationToken cancellation)
    {
        if (Find(block).Kind is BlockKind.Absent or BlockKind.Zero)
        {
            await AllocateAsync(block, cancellation).ConfigureAwait(false);
        }
    }

    private async ValueTask ReadyRangeAsync(long offset, long length, CancellationToken cancellation)
    {
        for (var block = offset >> _blockShift; block << _blockShift < offset + length; block++)
        {
            if (!IsReady(block))
            {
                await MakeReadyAsync(block, Find(block), cancellation).ConfigureAwait(false);
            }
        }
    }

    private async ValueTask WriteBlocksAsync(long offset, IoVector source, WriteOptions options, CancellationToken cancellation)
    {
        await EnsureBegunAsync(cancellation).ConfigureAwait(false);

        // Sectors that are written in part take the rest from the parent: two such writes to one sector must not meet.
        var held = IsDifferencing
            ? await _ranges.AcquireAsync(offset / SectorSize * SectorSize, RoundUp(offset + source.Length), exclusive: true, cancellation).ConfigureAwait(false)
            : -1;
        try
        {
            for (long done = 0; done < source.Length;)
            {
                var block = (offset + done) >> _blockShift;
                var within = (int)((offset + done) & (BlockSize - 1));
                var part = source.Slice(done, Math.Min(BlockSize - within, source.Length - done));
                var entry = Find(block);
                if (entry.Kind is BlockKind.Absent or BlockKind.Zero)
                {
                    entry = await AllocateAsync(block, cancellation).ConfigureAwait(false);
                }
                else if (!IsReady(block))
                {
                    await MakeReadyAsync(block, entry, cancellation).ConfigureAwait(false);
                }

                await (entry.Kind == BlockKind.Data
                    ? File.WriteAsync(entry.Offset + within, part, WriteOptions.None, cancellation)
                    : WritePartialAsync(block, entry, within, part, cancellation)).ConfigureAwait(false);
                done += part.Length;
            }
        }
        finally
        {
            if (held >= 0)
            {
                _ranges.Release(held);
            }
        }

        if (Bitmaps.IsFull)
        {
            await CommitAsync(cancellation).ConfigureAwait(false);
        }

        if ((options & WriteOptions.ForceUnitAccess) != 0)
        {
            await FlushAsync(cancellation).ConfigureAwait(false);
        }
    }

    private async ValueTask WritePartialAsync(long block, BlockEntry entry, int within, IoVector source, CancellationToken cancellation)
    {
        var bitmap = await PinBitmapAsync(block, entry, cancellation).ConfigureAwait(false);
        try
        {
            var first = within / SectorSize;
            var end = (int)RoundUp(within + source.Length) / SectorSize;
            var done = 0L;
            if (within % SectorSize != 0 || source.Length < SectorSize)
            {
                done = Math.Min(SectorSize - (within % SectorSize), source.Length);
                await MergeAsync(block, entry, bitmap, within, source.Slice(0, done), cancellation).ConfigureAwait(false);
            }

            var whole = (source.Length - done) / SectorSize * SectorSize;
            if (whole > 0)
            {
                await File.WriteAsync(entry.Offset + within + done, source.Slice(done, whole), WriteOptions.None, cancellation).ConfigureAwait(false);
                done += whole;
            }

            if (done < source.Length)
            {
                await MergeAsync(block, entry, bitmap, within + (int)done, source.Slice(done, source.Length - done), cancellation).ConfigureAwait(false);
            }

            bitmap.Set(first, end - first);
        }
        finally
        {
            Bitmaps.Release(bitmap);
        }
    }

    /// <summary>Writes a part of one sector; one that is not there yet takes the rest from the parent.</summary>
    private async ValueTask MergeAsync(long block, BlockEntry entry, SectorBitmap bitmap, int within, IoVector part, CancellationToken cancellation)
    {
        var sector = within / SectorSize;
        if (bitmap.Run(sector, 1).Present)
        {
            await File.WriteAsync(entry.Offset + within, part, WriteOptions.None, cancellation).ConfigureAwait(false);
            return;
        }

        var buffer = ArrayPool<byte>.Shared.Rent(SectorSize);
        try
        {
            var whole = buffer.AsMemory(0, SectorSize);
            await ReadBackingAsync((block << _blockShift) + ((long)sector * SectorSize), whole, cancellation).ConfigureAwait(false);
            part.CopyTo(whole.Span[(within % SectorSize)..]);
            await File.WriteAsync(entry.Offset + ((long)sector * SectorSize), whole, WriteOptions.None, cancellation).ConfigureAwait(false);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    /// <summary>Makes absent content of a differencing image zero, and says how much was done.</summary>
    private async ValueTask<long> ZeroAbsentAsync(long offset, long run, ZeroOptions options, CancellationToken cancellation)
    {
        var within = offset & (BlockSize - 1);
        var block = offset >> _blockShift;
        var whole = Math.Min(BlockSize, Length - (block << _blockShift));
        if (HasZeroBlocks && within == 0 && run >= whole)
        {
            await EnsureBegunAsync(cancellation).ConfigureAwait(false);
            var held = await _ranges.AcquireAsync(offset, offset + whole, exclusive: true, cancellation).ConfigureAwait(false);
            try
            {
                if (await WithAllocationAsync(() => ValueTask.FromResult(TryAssignZero(block)), cancellation).ConfigureAwait(false))
                {
                    return whole;
                }
            }
            finally
            {
                _ranges.Release(held);
            }
        }

        if ((options & ZeroOptions.Fast) != 0)
        {
            throw new DiskException(DiskError.Unsupported, $"{File.Name}: zeroes over the parent's content have to be written");
        }

        run = Math.Min(Math.Min(run, ZeroChunk), BlockSize - within);
        await WriteBlocksAsync(offset, Zeroes.AsMemory(0, (int)run), WriteOptions.None, cancellation).ConfigureAwait(false);
        return run;
    }

    private bool TryAssignZero(long block)
    {
        if (Find(block).Kind != BlockKind.Absent)
        {
            return false;
        }

        Assign(block, new BlockEntry(BlockKind.Zero));
        return true;
    }

    private long RoundUp(long value) => (value + SectorSize - 1) / SectorSize * SectorSize;
}
