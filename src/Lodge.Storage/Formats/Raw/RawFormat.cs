using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Raw;

/// <summary>The raw format: the file is the disk.</summary>
public sealed class RawFormat : IDiskFormat
{
    private static readonly FormatOption Preallocation = new("preallocation", FormatOptionKind.Choice, "Allocate the file's room when it is made", "off")
    {
        Choices = ["off", "falloc", "full"],
    };

    /// <inheritdoc/>
    public string Name => "raw";

    /// <inheritdoc/>
    public IReadOnlyList<string> OtherNames => ["img"];

    /// <inheritdoc/>
    public IReadOnlyList<FormatOption> Options { get; } = [Preallocation];

    /// <inheritdoc/>
    public int Probe(ReadOnlySpan<byte> head, ReadOnlySpan<byte> tail, long length) => 1;

    /// <inheritdoc/>
    public ValueTask<IImage> OpenAsync(IStorageFile file, ImageContext context, CancellationToken cancellation = default) => ValueTask.FromResult<IImage>(new RawImage(file, context.DiscardToFile));

    /// <inheritdoc/>
    public async ValueTask CreateAsync(IStorageFile file, long length, FormatOptions options, ImageContext context, CancellationToken cancellation = default)
    {
        await file.ResizeAsync(length, cancellation).ConfigureAwait(false);
        switch (options.Text("preallocation"))
        {
            case "falloc":
                await file.AllocateAsync(0, length, cancellation).ConfigureAwait(false);
                break;
            case "full":
                await WriteZeroBytesAsync(file, length, cancellation).ConfigureAwait(false);
                break;
        }

        await file.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <inheritdoc/>
    /// <remarks>Holes count: they may fill up, or the file's next place keep none. qemu-img says so, too.</remarks>
    public ValueTask<ImageMeasure> MeasureAsync(long length, IDisk? source, FormatOptions options, CancellationToken cancellation = default) =>
        ValueTask.FromResult(new ImageMeasure(length, length));

    // Written, so that no later write has to convert an extent that is only reserved.
    private static async ValueTask WriteZeroBytesAsync(IStorageFile file, long length, CancellationToken cancellation)
    {
        var zeroes = new byte[(int)Math.Min(length, 1 << 20)];
        for (long offset = 0; offset < length; offset += zeroes.Length)
        {
            await file.WriteAsync(offset, zeroes.AsMemory(0, (int)Math.Min(zeroes.Length, length - offset)), WriteOptions.None, cancellation).ConfigureAwait(false);
        }
    }
}
