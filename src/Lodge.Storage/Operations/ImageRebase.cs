using Lodge.Storage.Disks;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Operations;

/// <summary>
/// Gives an image another parent, or none, without changing its content (the safe mode of qemu-img): what the image does not hold itself and what differs
/// between the two parents is copied into it first. A failure or a cancel before the end leaves the image with its old parent and the same content.
/// </summary>
public sealed class ImageRebase(IBackedImage image, IDisk? newParent)
{
    private const int PieceLength = 1 << 20;
    private readonly SemaphoreSlim _cursor = new(1, 1);
    private long _offset;
    private Fraction? _fraction;

    /// <summary>Copies what is needed, flushes, and names the new parent.</summary>
    public async Task RunAsync(string? name, string? format, IProgress<double>? progress = null, int parallel = 4, CancellationToken cancellation = default)
    {
        _fraction = new Fraction(progress, image.Length);
        await Workers.RunAsync(Math.Clamp(parallel, 1, 64), WorkAsync, cancellation).ConfigureAwait(false);
        await image.FlushAsync(cancellation).ConfigureAwait(false);
        await image.SetBackingAsync(name, format, CancellationToken.None).ConfigureAwait(false);
        await image.FlushAsync(CancellationToken.None).ConfigureAwait(false);
    }

    private static async ValueTask ReadAsync(IDisk? disk, long offset, Memory<byte> destination, CancellationToken cancellation)
    {
        var inside = disk is null ? 0 : (int)Math.Clamp(disk.Length - offset, 0, destination.Length);
        if (inside > 0)
        {
            await disk!.ReadAsync(offset, destination[..inside], cancellation).ConfigureAwait(false);
        }

        destination.Span[inside..].Clear();
    }

    private static async ValueTask<(bool Zero, long Length)> ZeroAsync(IDisk? disk, long offset, long length, CancellationToken cancellation)
    {
        if (disk is null || offset >= disk.Length)
        {
            return (true, length);
        }

        var extent = await disk.StatusAsync(offset, Math.Min(length, disk.Length - offset), cancellation).ConfigureAwait(false);
        return ((extent.State & BlockState.Zero) != 0 || (extent.State & BlockState.Data) == 0, extent.Length);
    }

    private async Task WorkAsync(CancellationToken cancellation)
    {
        var old = AlignedMemory.Allocate(PieceLength);
        var next = AlignedMemory.Allocate(PieceLength);
        var unit = Math.Clamp(image.Describe().ClusterSize ?? 65536, 512, PieceLength);
        while (true)
        {
            var (offset, length, copy) = await ClaimAsync(cancellation).ConfigureAwait(false);
            if (length == 0)
            {
                return;
            }

            if (copy)
            {
                var (before, after) = (old[..(int)length], next[..(int)length]);
                await ReadAsync(image.Backing, offset, before, cancellation).ConfigureAwait(false);
                await ReadAsync(newParent, offset, after, cancellation).ConfigureAwait(false);
                for (var start = 0; start < length; start += unit)
                {
                    var part = (int)Math.Min(unit, length - start);
                    if (!before.Span.Slice(start, part).SequenceEqual(after.Span.Slice(start, part)))
                    {
                        await WriteAsync(offset + start, before.Slice(start, part), cancellation).ConfigureAwait(false);
                    }
                }
            }

            _fraction!.Add(length);
        }
    }

    private ValueTask WriteAsync(long offset, Memory<byte> bytes, CancellationToken cancellation) => bytes.Span.ContainsAnyExcept((byte)0)
        ? image.WriteAsync(offset, bytes, WriteOptions.None, cancellation)
        : image.ZeroAsync(offset, bytes.Length, ZeroOptions.None, cancellation);

    /// <summary>The next range, and whether the parents may differ in it. Pieces lie on multiples of their length, so that no two meet in a unit.</summary>
    private async ValueTask<(long Offset, long Length, bool Copy)> ClaimAsync(CancellationToken cancellation)
    {
        await _cursor.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            cancellation.ThrowIfCancellationRequested();
            var offset = _offset;
            var left = image.Length - offset;
            if (left == 0)
            {
                return default;
            }

            var (own, length) = await image.IsOwnAsync(offset, left, cancellation).ConfigureAwait(false);
            var copy = !own;
            if (copy)
            {
                var (oldZero, oldLength) = await ZeroAsync(image.Backing, offset, length, cancellation).ConfigureAwait(false);
                var (newZero, newLength) = await ZeroAsync(newParent, offset, length, cancellation).ConfigureAwait(false);
                length = Math.Min(length, Math.Min(oldLength, newLength));
                copy = !oldZero || !newZero;
                length = copy ? Math.Min(length, PieceLength - (offset % PieceLength)) : length;
            }

            _offset += length;
            return (offset, length, copy);
        }
        finally
        {
            _cursor.Release();
        }
    }
}
