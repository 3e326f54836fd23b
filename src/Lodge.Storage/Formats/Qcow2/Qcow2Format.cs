using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Lodge.Storage.Encryption;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>QEMU's format qcow2, versions 2 and 3 (QEMU, docs/interop/qcow2).</summary>
public sealed class Qcow2Format : IDiskFormat
{
    /// <inheritdoc/>
    public string Name => "qcow2";

    /// <inheritdoc/>
    public IReadOnlyList<string> OtherNames => [];

    /// <inheritdoc/>
    public IReadOnlyList<FormatOption> Options { get; } =
    [
        new("compat", FormatOptionKind.Choice, "Version of the format: 0.10 is 2, 1.1 is 3", "1.1") { Choices = ["0.10", "1.1", "v2", "v3"], Amendable = true },
        new("cluster_size", FormatOptionKind.Size, "Bytes in a cluster, 512 to 2M", "64k"),
        new("preallocation", FormatOptionKind.Choice, "What is allocated when the image is made", "off") { Choices = ["off", "metadata", "falloc", "full"] },
        new("lazy_refcounts", FormatOptionKind.Switch, "Write refcounts late; after a crash they are rebuilt", "off") { Amendable = true },
        new("refcount_bits", FormatOptionKind.Number, "Width of a refcount: 1, 2, 4, 8, 16, 32 or 64", "16") { Amendable = true },
        new("extended_l2", FormatOptionKind.Switch, "Divide each cluster into 32 subclusters", "off"),
        new("compression_type", FormatOptionKind.Choice, "How compressed clusters are compressed", "zlib") { Choices = ["zlib", "zstd"] },
        new("backing_file", FormatOptionKind.Text, "Image that shows where this one holds nothing") { Amendable = true },
        new("backing_fmt", FormatOptionKind.Text, "Format of backing_file") { Amendable = true },
        new("data_file", FormatOptionKind.Text, "File that holds the guest's data"),
        new("data_file_raw", FormatOptionKind.Switch, "Keep data_file readable as a raw image", "off") { Amendable = true },
        new("encrypt.format", FormatOptionKind.Choice, "How the content is encrypted") { Choices = ["luks"] },
        .. LuksOptions.Describe("encrypt."),
        new("size", FormatOptionKind.Size, "Size of the disk") { Amendable = true },
    ];

    /// <inheritdoc/>
    public int Probe(ReadOnlySpan<byte> head, ReadOnlySpan<byte> tail, long length) =>
        head.Length >= 8 && BinaryPrimitives.ReadUInt32BigEndian(head) == Qcow2Header.Magic && BinaryPrimitives.ReadUInt32BigEndian(head[4..]) >= 2 ? 100 : 0;

    /// <inheritdoc/>
    public ValueTask<IImage> OpenAsync(IStorageFile file, ImageContext context, CancellationToken cancellation = default) => Qcow2Opener.OpenAsync(file, context, cancellation);

    /// <inheritdoc/>
    public ValueTask CreateAsync(IStorageFile file, long length, FormatOptions options, ImageContext context, CancellationToken cancellation = default) =>
        new Qcow2Creation(options, options.Size("size", length), context).WriteAsync(file, cancellation);

    /// <inheritdoc/>
    public async ValueTask<ImageMeasure> MeasureAsync(long length, IDisk? source, FormatOptions options, CancellationToken cancellation = default)
    {
        var creation = new Qcow2Creation(options, length, null);
        var clusterBits = creation.Header.ClusterBits;
        var size = creation.Header.ClusterSize;
        var all = (length + size - 1) >> clusterBits;
        var used = all;
        if (source is not null)
        {
            used = 0;
            for (long offset = 0; offset < length;)
            {
                // Counted by cluster: one that holds any data takes its whole.
                var extent = offset < source.Length
                    ? await source.StatusAsync(offset, Math.Min(source.Length, length) - offset, cancellation).ConfigureAwait(false)
                    : new BlockExtent(length - offset, BlockState.None);
                var end = offset + extent.Length;
                if ((extent.State & BlockState.Data) != 0)
                {
                    end = Math.Min(length, (end + size - 1) & ~(size - 1L));
                    used += ((end + size - 1) >> clusterBits) - (offset >> clusterBits);
                }

                offset = end;
            }
        }
        else if (options.Text("preallocation") is not ("falloc" or "full"))
        {
            used = 0;
        }

        if (options.Text("preallocation") is "falloc" or "full")
        {
            used = all;
        }

        var luks = creation.LuksClusters;
        var metadata = creation.FullMetadataClusters(all);
        return new ImageMeasure((metadata + used + luks) << clusterBits, (metadata + all + luks) << clusterBits);
    }
}
