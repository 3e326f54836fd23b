using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>VMware's format VMDK (VMware, Virtual Disk Format 5.0).</summary>
public sealed class VmdkFormat : IDiskFormat
{
    /// <inheritdoc/>
    public string Name => "vmdk";

    /// <inheritdoc/>
    public IReadOnlyList<string> OtherNames => [];

    /// <inheritdoc/>
    public IReadOnlyList<FormatOption> Options { get; } =
    [
        new("subformat", FormatOptionKind.Choice, "How the files are made up", "monolithicSparse")
        {
            Choices = ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "streamOptimized"],
        },
        new("adapter_type", FormatOptionKind.Choice, "Adapter that the disk is meant for", "ide") { Choices = ["ide", "lsilogic", "buslogic", "legacyESX"] },
        new("backing_file", FormatOptionKind.Text, "Image that shows where this one holds nothing"),
        new("backing_fmt", FormatOptionKind.Text, "Format of backing_file: vmdk"),
        new("compat6", FormatOptionKind.Switch, "Virtual hardware version 6", "off"),
        new("hwversion", FormatOptionKind.Text, "Virtual hardware version", "4"),
        new("toolsversion", FormatOptionKind.Text, "Version of the guest's VMware tools", "2147483647"),
        new("zeroed_grain", FormatOptionKind.Switch, "Keep zeroes over a parent without room for them", "off"),
    ];

    /// <inheritdoc/>
    public int Probe(ReadOnlySpan<byte> head, ReadOnlySpan<byte> tail, long length) =>
        VmdkHeader.HasMagic(head) || CowHeader.HasMagic(head) || VmdkDescriptor.Begins(head) ? 100 : 0;

    /// <inheritdoc/>
    public ValueTask<IImage> OpenAsync(IStorageFile file, ImageContext context, CancellationToken cancellation = default) => VmdkOpener.OpenAsync(file, context, cancellation);

    /// <inheritdoc/>
    public ValueTask CreateAsync(IStorageFile file, long length, FormatOptions options, ImageContext context, CancellationToken cancellation = default) =>
        new VmdkCreation(length, options).WriteAsync(file, context, cancellation);

    /// <inheritdoc/>
    public async ValueTask<ImageMeasure> MeasureAsync(long length, IDisk? source, FormatOptions options, CancellationToken cancellation = default)
    {
        const long Grain = VmdkCreation.GrainSectors * VmdkHeader.SectorLength;
        var creation = new VmdkCreation(length, options);
        long used = 0;
        for (long offset = 0; source is not null && offset < Math.Min(source.Length, length);)
        {
            // Counted by grain: one that holds any data takes its whole.
            var extent = await source.StatusAsync(offset, Math.Min(source.Length, length) - offset, cancellation).ConfigureAwait(false);
            var end = offset + extent.Length;
            if ((extent.State & BlockState.Data) != 0)
            {
                used += VmdkHeader.DivideUp(end, Grain) - (offset / Grain);
                end = Math.Min(Math.Min(source.Length, length), VmdkHeader.RoundUp(end, Grain));
            }

            offset = end;
        }

        return new ImageMeasure(creation.Measure(used), creation.Measure(VmdkHeader.DivideUp(length, Grain)));
    }
}
