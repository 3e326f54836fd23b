using System.Buffers;

namespace Lodge.Storage.Disks;

/// <summary>What every disk can do, by its own capability where it has one and by reading and writing where not.</summary>
public static class DiskOperations
{
    private const int ZeroChunk = 1 << 20;
    private static readonly byte[] Zeroes = GC.AllocateArray<byte>(ZeroChunk, pinned: true);

    /// <summary>Makes a range read as zeroes.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Unsupported"/> with <see cref="ZeroOptions.Fast"/> on a disk that has no fast way.</exception>
    public static async ValueTask ZeroAsync(this IDisk disk, long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        if (disk is IWriteZeroes capable)
        {
            await capable.WriteZeroesAsync(offset, length, options, cancellation).ConfigureAwait(false);
            return;
        }

        if ((options & ZeroOptions.Fast) != 0)
        {
            throw new DiskException(DiskError.Unsupported, "the disk cannot make a range zero without writing it");
        }

        var write = (options & ZeroOptions.ForceUnitAccess) != 0 ? WriteOptions.ForceUnitAccess : WriteOptions.None;
        while (length > 0)
        {
            var part = (int)Math.Min(length, ZeroChunk);
            await disk.WriteAsync(offset, Zeroes.AsMemory(0, part), write, cancellation).ConfigureAwait(false);
            offset += part;
            length -= part;
        }
    }

    /// <summary>Forgets a range where the disk can; else does nothing.</summary>
    public static ValueTask TryDiscardAsync(this IDisk disk, long offset, long length, CancellationToken cancellation = default) =>
        disk is IDiscard capable ? capable.DiscardAsync(offset, length, cancellation) : ValueTask.CompletedTask;

    /// <summary>The extent at <paramref name="offset"/>; a disk that does not know says that all is data.</summary>
    public static ValueTask<BlockExtent> StatusAsync(this IDisk disk, long offset, long length, CancellationToken cancellation = default) =>
        disk is IBlockStatus capable
            ? capable.GetStatusAsync(offset, length, cancellation)
            : ValueTask.FromResult(new BlockExtent(length, BlockState.Data | BlockState.Allocated));

    /// <summary>Changes the size.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Unsupported"/> where the disk has a fixed size.</exception>
    public static ValueTask SetLengthAsync(this IDisk disk, long length, CancellationToken cancellation = default) => disk is IResize capable
        ? capable.ResizeAsync(length, cancellation)
        : throw new DiskException(DiskError.Unsupported, "the disk has a fixed size");

    /// <summary>Reads up to <paramref name="count"/> bytes into a new array; fewer where the disk ends.</summary>
    public static async ValueTask<byte[]> ReadBytesAsync(this IDisk disk, long offset, int count, CancellationToken cancellation = default)
    {
        var bytes = new byte[Math.Clamp(disk.Length - offset, 0, count)];
        await disk.ReadAsync(offset, bytes, cancellation).ConfigureAwait(false);
        return bytes;
    }

    /// <summary>Copies a range from one disk to another through a buffer.</summary>
    public static async ValueTask CopyRangeAsync(this IDisk source, long sourceOffset, IDisk destination, long destinationOffset, long length, CancellationToken cancellation = default)
    {
        var buffer = ArrayPool<byte>.Shared.Rent((int)Math.Min(length, ZeroChunk));
        try
        {
            while (length > 0)
            {
                var part = (int)Math.Min(length, buffer.Length);
                await source.ReadAsync(sourceOffset, buffer.AsMemory(0, part), cancellation).ConfigureAwait(false);
                await destination.WriteAsync(destinationOffset, buffer.AsMemory(0, part), WriteOptions.None, cancellation).ConfigureAwait(false);
                sourceOffset += part;
                destinationOffset += part;
                length -= part;
            }
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    /// <summary>Throws <see cref="DiskError.OutOfRange"/> unless the range lies inside the disk.</summary>
    public static void CheckRange(this IDisk disk, long offset, long length)
    {
        if (offset < 0 || length < 0 || offset > disk.Length - length)
        {
            throw new DiskException(DiskError.OutOfRange, $"{length} bytes at {offset} reach beyond the disk of {disk.Length} bytes");
        }
    }

    /// <summary>Throws <see cref="DiskError.ReadOnly"/> on a read-only disk and <see cref="DiskError.OutOfRange"/> unless the range lies inside.</summary>
    public static void CheckWrite(this IDisk disk, long offset, long length)
    {
        if (disk.IsReadOnly)
        {
            throw new DiskException(DiskError.ReadOnly, "the disk is read-only");
        }

        disk.CheckRange(offset, length);
    }
}
