using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Storage.Operations;

/// <summary>Makes an image with the content of a disk, or fills an existing one.</summary>
public static class ImageConvert
{
    /// <summary>Makes a new image; after a failure or cancel no file of it is left.</summary>
    /// <param name="source">The content.</param>
    /// <param name="target">What is made; its length is at least the source's.</param>
    /// <param name="copy">How the content is copied; a new image without a parent reads as zeroes in most formats, which then need not be written.</param>
    /// <param name="cancellation">Ends it.</param>
    public static async Task RunAsync(IDisk source, NewImageOptions target, DiskCopyOptions copy, CancellationToken cancellation = default)
    {
        var parent = target.Options.Text("backing_file") is not null;
        var made = await NewImage.CreateAsync(target, cancellation).ConfigureAwait(false);
        await using (made.ConfigureAwait(false))
        {
            var image = await made.OpenAsync(parent, cancellation).ConfigureAwait(false);
            await RunAsync(source, image, copy with { TargetIsZero = !parent && DiskFormats.Named(target.Format).NewImageReadsZero }, cancellation).ConfigureAwait(false);
            await made.CompleteAsync().ConfigureAwait(false);
        }
    }

    /// <summary>Fills an existing disk and flushes it. Where it is longer than the source it is left as it is, but for the rest of the source's last unit.</summary>
    public static async Task RunAsync(IDisk source, IDisk target, DiskCopyOptions copy, CancellationToken cancellation = default)
    {
        var unit = target is ICompressedWrite compressed ? compressed.CompressionUnit : 512;
        var padding = Math.Min((unit - (source.Length % unit)) % unit, target.Length - source.Length);
        await new DiskCopy(padding > 0 && source.Length > 0 ? new JoinedDisk([source, new ZeroDisk(padding)]) : source, target, copy).RunAsync(cancellation).ConfigureAwait(false);
        await target.FlushAsync(cancellation).ConfigureAwait(false);
    }
}
