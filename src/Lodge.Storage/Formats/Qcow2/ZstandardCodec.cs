using Lodge.Storage.Compression;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>Zstandard by the host's libzstd. Decompression goes straight into the cluster, so that no frame can ask for a large window.</summary>
internal sealed class ZstandardCodec : ClusterCodec
{
    private const int Level = 3;

    [ThreadStatic]
    private static ZstandardCompressor? s_compressor;

    [ThreadStatic]
    private static ZstandardDecompressor? s_decompressor;

    /// <inheritdoc/>
    public override int TryCompress(ReadOnlySpan<byte> cluster, Span<byte> packed) =>
        (s_compressor ??= Make(static () => new ZstandardCompressor(Level, checksum: false))).TryCompress(cluster, packed);

    /// <inheritdoc/>
    public override bool TryDecompress(ReadOnlySpan<byte> packed, Span<byte> cluster) =>
        (s_decompressor ??= Make(static () => new ZstandardDecompressor())).TryDecompressFirst(packed, cluster);

    private static T Make<T>(Func<T> make)
    {
        try
        {
            return make();
        }
        catch (OutOfMemoryException failure)
        {
            throw new DiskException(DiskError.InputOutput, failure.Message, failure);
        }
        catch (NotSupportedException failure)
        {
            throw new DiskException(DiskError.Unsupported, $"the image is compressed with zstd and {failure.Message}", failure);
        }
    }
}
