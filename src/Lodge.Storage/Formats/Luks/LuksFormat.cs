using Lodge.Storage.Disks;
using Lodge.Storage.Encryption;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Luks;

/// <summary>The format luks: a LUKS version 1 header, then the encrypted disk.</summary>
public sealed class LuksFormat : IDiskFormat
{
    private static readonly FormatOption Preallocation = new("preallocation", FormatOptionKind.Choice, "Allocate the file's room when it is made", "off")
    {
        Choices = ["off", "falloc", "full"],
    };

    /// <inheritdoc/>
    public string Name => "luks";

    /// <inheritdoc/>
    public IReadOnlyList<string> OtherNames => [];

    /// <inheritdoc/>
    public bool NewImageReadsZero => false;

    /// <inheritdoc/>
    public IReadOnlyList<FormatOption> Options { get; } = [.. LuksOptions.Describe(), Preallocation];

    /// <inheritdoc/>
    public int Probe(ReadOnlySpan<byte> head, ReadOnlySpan<byte> tail, long length) => head.StartsWith(LuksHeader.Magic) ? 100 : 0;

    /// <inheritdoc/>
    /// <remarks>Without a passphrase only its facts can be had, and only where neither parents nor writing are asked for (<c>info</c>).</remarks>
    public async ValueTask<IImage> OpenAsync(IStorageFile file, ImageContext context, CancellationToken cancellation = default)
    {
        try
        {
            var header = LuksHeader.Parse(await file.ReadBytesAsync(0, LuksHeader.Size, cancellation).ConfigureAwait(false), file.Length);
            if (header.PayloadOffset < LuksHeader.Size || header.PayloadOffset > file.Length)
            {
                throw new DiskException(DiskError.Corrupt, $"the payload at {header.PayloadOffset} lies outside of the file");
            }

            if (header.KeySlots.Any(slot => slot.Active && slot.MaterialOffset + slot.MaterialLength(header.KeyBytes) > header.PayloadOffset))
            {
                throw new DiskException(DiskError.Corrupt, "key material reaches into the payload");
            }

            if (context.Secret is not { } secret)
            {
                return context is { ReadOnly: true, OpenBacking: false }
                    ? new LuksImage(file, header, null)
                    : throw new DiskException(DiskError.Secret, "the image is encrypted; give its passphrase");
            }

            return new LuksImage(file, header, await LuksVolume.OpenAsync(file, secret, cancellation).ConfigureAwait(false));
        }
        catch (DiskException failure) when (!failure.Message.StartsWith(file.Name, StringComparison.Ordinal))
        {
            throw new DiskException(failure.Error, $"{file.Name}: {failure.Message}", failure);
        }
    }

    /// <inheritdoc/>
    public async ValueTask CreateAsync(IStorageFile file, long length, FormatOptions options, ImageContext context, CancellationToken cancellation = default)
    {
        if (context.Secret is not { } secret)
        {
            throw new DiskException(DiskError.Secret, $"{file.Name}: an image of the format luks needs a passphrase");
        }

        var (volume, header) = await LuksVolume.CreateAsync(secret, LuksOptions.From(options), cancellation).ConfigureAwait(false);
        using (volume)
        {
            length = RoundUp(length);
            await file.WriteAsync(0, header, WriteOptions.None, cancellation).ConfigureAwait(false);
            await file.ResizeAsync(header.Length + length, cancellation).ConfigureAwait(false);
            switch (options.Text("preallocation"))
            {
                case "falloc":
                    await file.AllocateAsync(0, header.Length + length, cancellation).ConfigureAwait(false);
                    break;
                case "full":
                    await LuksImage.WriteZeroesAsync(file, volume, 0, length, cancellation).ConfigureAwait(false);
                    break;
            }
        }

        await file.FlushAsync(cancellation).ConfigureAwait(false);
    }

    /// <inheritdoc/>
    public ValueTask<ImageMeasure> MeasureAsync(long length, IDisk? source, FormatOptions options, CancellationToken cancellation = default)
    {
        var all = checked(LuksVolume.HeaderLength(LuksOptions.From(options)) + RoundUp(length));

        // Zeroes take room, too, when they are encrypted.
        return ValueTask.FromResult(new ImageMeasure(all, all));
    }

    private static long RoundUp(long length) => length <= long.MaxValue / 2
        ? (length + SectorCipher.SectorLength - 1) / SectorCipher.SectorLength * SectorCipher.SectorLength
        : throw new DiskException(DiskError.Unsupported, $"{length} bytes are too many for an image of the format luks");
}
