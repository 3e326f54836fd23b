using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Blocks;

internal abstract partial class BlockImage
{
    private const int MostBlocksPerStatus = 65536;

    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        var within = offset & (BlockSize - 1);
        if (destination.Length != 0 && within + destination.Length <= BlockSize && Find(offset >> _blockShift) is { Kind: BlockKind.Data } entry)
        {
            return File.ReadAsync(entry.Offset + within, destination, cancellation);
        }

        return ReadBlocksAsync(offset, destination, cancellation);
    }

    public async ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        if (length == 0)
        {
            return default;
        }

        var (entry, run) = await RunAsync(offset, length, cancellation).ConfigureAwait(false);
        switch (entry.Kind)
        {
            case BlockKind.Data:
                // The file may have holes where the disk was never written.
                var part = Math.Min(run, Math.Max(File.Length - entry.Offset, 1));
                var below = await File.GetStatusAsync(entry.Offset, part, cancellation).ConfigureAwait(false);
                return (below.State & BlockState.Zero) != 0
                    ? new BlockExtent(below.Length, BlockState.Zero | BlockState.Allocated, 0, entry.Offset)
                    : new BlockExtent(below.Length, BlockState.Data | BlockState.Allocated, 0, entry.Offset);
            case BlockKind.Zero:
                return new BlockExtent(run, BlockState.Zero | BlockState.Allocated);
            default:
                if (Backing is null || offset >= Backing.Length)
                {
                    return new BlockExtent(run, BlockState.Zero);
                }

                var parent = await Backing.StatusAsync(offset, Math.Min(run, Backing.Length - offset), cancellation).ConfigureAwait(false);
                return parent with { State = parent.State & ~BlockState.Allocated, Depth = parent.Depth + 1, HostOffset = -1 };
        }
    }

    /// <summary>Whether the range is held by this image itself.</summary>
    public async ValueTask<(bool Own, long Length)> IsOwnAsync(long offset, long length, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, length);
        if (length == 0)
        {
            return (false, 0);
        }

        var (entry, run) = await RunAsync(offset, length, cancellation).ConfigureAwait(false);
        return (entry.Kind is BlockKind.Data or BlockKind.Zero, run);
    }

    /// <summary>Takes hold of a block's bitmap; give it back to <see cref="Bitmaps"/>.</summary>
    protected async ValueTask<SectorBitmap> PinBitmapAsync(long block, BlockEntry entry, CancellationToken cancellation)
    {
        if (Bitmaps.Pin(block) is { } bitmap)
        {
            return bitmap;
        }

        var offset = BitmapOffset(block, entry);
        var bits = new byte[Math.Max(BlockSize / SectorSize / 8, 1)];
        await File.ReadAsync(offset, bits, cancellation).ConfigureAwait(false);
        return Bitmaps.Add(new SectorBitmap(block, offset, bits, HighBitFirst));
    }

    /// <summary>What is at an offset, and how long it is the same: data (its place in the file), zeroes, or absent.</summary>
    private async ValueTask<(BlockEntry Entry, long Length)> RunAsync(long offset, long length, CancellationToken cancellation)
    {
        var block = offset >> _blockShift;
        var within = (int)(offset & (BlockSize - 1));
        var first = Find(block);
        var run = Math.Min(BlockSize - within, length);
        if (first.Kind == BlockKind.Partial)
        {
            var bitmap = await PinBitmapAsync(block, first, cancellation).ConfigureAwait(false);
            try
            {
                var sector = within / SectorSize;
                var (present, count) = bitmap.Run(sector, (BlockSize / SectorSize) - sector);
                run = Math.Min(((long)(sector + count) * SectorSize) - within, length);
                return (new BlockEntry(present ? BlockKind.Data : BlockKind.Absent, first.Offset + within), run);
            }
            finally
            {
                Bitmaps.Release(bitmap);
            }
        }

        for (var count = 1; run < length && count < MostBlocksPerStatus; count++)
        {
            var next = Find(++block);
            if (next.Kind != first.Kind || (first.Kind == BlockKind.Data && next.Offset != first.Offset + ((long)count << _blockShift)))
            {
                break;
            }

            run = Math.Min(run + BlockSize, length);
        }

        return (first with { Offset = first.Offset + within }, run);
    }

    private async ValueTask ReadBlocksAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        for (long done = 0; done < destination.Length;)
        {
            var (entry, run) = await RunAsync(offset + done, destination.Length - done, cancellation).ConfigureAwait(false);
            var part = destination.Slice(done, run);
            if (entry.Kind == BlockKind.Data)
            {
                await File.ReadAsync(entry.Offset, part, cancellation).ConfigureAwait(false);
            }
            else if (entry.Kind == BlockKind.Zero)
            {
                part.Clear();
            }
            else
            {
                await ReadBackingAsync(offset + done, part, cancellation).ConfigureAwait(false);
            }

            done += run;
        }
    }

    private async ValueTask ReadBackingAsync(long offset, IoVector destination, CancellationToken cancellation)
    {
        var inside = Backing is null ? 0 : Math.Clamp(Backing.Length - offset, 0, destination.Length);
        if (inside > 0)
        {
            await Backing!.ReadAsync(offset, destination.Slice(0, inside), cancellation).ConfigureAwait(false);
        }

        destination.Slice(inside, destination.Length - inside).Clear();
    }
}
