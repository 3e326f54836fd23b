using Lodge.Storage.Disks;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Operations;

/// <summary>Changes the size of an image.</summary>
public static class ImageResize
{
    private const int PieceLength = 1 << 20;

    /// <summary>Makes the image <paramref name="length"/> bytes long.</summary>
    /// <param name="image">The image, writable.</param>
    /// <param name="length">New size in bytes.</param>
    /// <param name="shrink">Whether a smaller size is meant: data behind it is lost.</param>
    /// <param name="preallocation"><c>off</c>, <c>falloc</c> (raw) or <c>full</c> for what is added.</param>
    /// <param name="progress">Told the fraction that is done.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>: smaller without <paramref name="shrink"/>, or a preallocation that the format has not.</exception>
    public static async Task RunAsync(IImage image, long length, bool shrink = false, string preallocation = "off", IProgress<double>? progress = null, CancellationToken cancellation = default)
    {
        var old = image.Length;
        if (length < old && !shrink)
        {
            throw new DiskException(DiskError.InvalidOption, $"{image.File.Name} would shrink from {old} to {length} bytes and lose what lies behind; give --shrink if that is meant");
        }

        if (length < old && preallocation != "off")
        {
            throw new DiskException(DiskError.InvalidOption, "--preallocation is for images that grow");
        }

        if (preallocation == "falloc" && image.FormatName != "raw")
        {
            throw new DiskException(DiskError.InvalidOption, $"--preallocation=falloc is for raw images; for {image.FormatName} give full");
        }

        await image.SetLengthAsync(length, cancellation).ConfigureAwait(false);
        try
        {
            if (preallocation == "falloc")
            {
                await image.File.AllocateAsync(old, length - old, cancellation).ConfigureAwait(false);
            }
            else if (preallocation == "full")
            {
                var fraction = new Fraction(progress, length - old);
                var zeroes = AlignedMemory.Allocate(PieceLength);
                for (var offset = old; offset < length;)
                {
                    var part = (int)Math.Min(length - offset, PieceLength - (offset % PieceLength));
                    await image.WriteAsync(offset, zeroes[..part], WriteOptions.None, cancellation).ConfigureAwait(false);
                    offset += part;
                    fraction.Add(part);
                }
            }
        }
        catch when (length > old)
        {
            await image.SetLengthAsync(old, CancellationToken.None).ConfigureAwait(false);
            throw;
        }

        await image.FlushAsync(cancellation).ConfigureAwait(false);
    }
}
