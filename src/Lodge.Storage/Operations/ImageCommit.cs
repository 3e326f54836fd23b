using Lodge.Storage.Disks;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Operations;

/// <summary>
/// Writes what the layers of a chain hold into the image below them. The layers are opened each without its parent; the first is the top.
/// The base grows to the top's size. A cancel or failure leaves the layers as they are: the content seen through the top is unchanged.
/// </summary>
public sealed class ImageCommit(IReadOnlyList<IBackedImage> layers, IDisk target)
{
    private const int PieceLength = 1 << 20;
    private readonly SemaphoreSlim _cursor = new(1, 1);
    private long _offset;
    private Fraction? _fraction;

    private enum Content
    {
        None,
        Data,
        Zero,
    }

    /// <summary>Copies down and flushes the base.</summary>
    /// <param name="progress">Told the fraction that is done.</param>
    /// <param name="bytesPerSecond">Most bytes a second, or 0.</param>
    /// <param name="parallel">Pieces in flight.</param>
    /// <param name="cancellation">Ends it.</param>
    public async Task RunAsync(IProgress<double>? progress = null, long bytesPerSecond = 0, int parallel = 4, CancellationToken cancellation = default)
    {
        var top = layers[0];
        if (target.Length < top.Length)
        {
            await target.SetLengthAsync(top.Length, cancellation).ConfigureAwait(false);
        }

        _fraction = new Fraction(progress, top.Length);
        var rate = bytesPerSecond > 0 ? new RateLimit(bytesPerSecond) : null;
        await Workers.RunAsync(Math.Clamp(parallel, 1, 64), stop => WorkAsync(rate, stop), cancellation).ConfigureAwait(false);
        await target.FlushAsync(cancellation).ConfigureAwait(false);
    }

    private async Task WorkAsync(RateLimit? rate, CancellationToken cancellation)
    {
        var buffer = AlignedMemory.Allocate(PieceLength);
        while (true)
        {
            var (offset, length, layer, content) = await ClaimAsync(cancellation).ConfigureAwait(false);
            if (length == 0)
            {
                return;
            }

            if (content == Content.Zero)
            {
                await target.ZeroAsync(offset, length, ZeroOptions.MayUnmap, cancellation).ConfigureAwait(false);
            }
            else if (content == Content.Data)
            {
                if (rate is not null)
                {
                    await rate.WaitAsync(length, cancellation).ConfigureAwait(false);
                }

                var memory = buffer[..(int)length];
                await layers[layer].ReadAsync(offset, memory, cancellation).ConfigureAwait(false);
                await target.WriteAsync(offset, memory, WriteOptions.None, cancellation).ConfigureAwait(false);
            }

            _fraction!.Add(length);
        }
    }

    /// <summary>The next range that one layer decides; a shorter layer decides zero behind its end.</summary>
    private async ValueTask<(long Offset, long Length, int Layer, Content Content)> ClaimAsync(CancellationToken cancellation)
    {
        await _cursor.WaitAsync(cancellation).ConfigureAwait(false);
        try
        {
            cancellation.ThrowIfCancellationRequested();
            var offset = _offset;
            var length = layers[0].Length - offset;
            if (length == 0)
            {
                return default;
            }

            for (var index = 0; index < layers.Count; index++)
            {
                var layer = layers[index];
                if (offset >= layer.Length)
                {
                    _offset += length;
                    return (offset, length, index, Content.Zero);
                }

                var (own, run) = await layer.IsOwnAsync(offset, Math.Min(length, layer.Length - offset), cancellation).ConfigureAwait(false);
                length = run;
                if (!own)
                {
                    continue;
                }

                var extent = await layer.GetStatusAsync(offset, length, cancellation).ConfigureAwait(false);
                var zero = (extent.State & BlockState.Zero) != 0 || (extent.State & BlockState.Data) == 0;
                length = zero ? extent.Length : Math.Min(extent.Length, PieceLength - (offset % PieceLength));
                _offset += length;
                return (offset, length, index, zero ? Content.Zero : Content.Data);
            }

            _offset += length;
            return (offset, length, 0, Content.None);
        }
        finally
        {
            _cursor.Release();
        }
    }
}
