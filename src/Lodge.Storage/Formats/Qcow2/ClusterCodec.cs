namespace Lodge.Storage.Formats.Qcow2;

/// <summary>Compresses and decompresses one cluster on the calling thread; any number of threads at once.</summary>
internal abstract class ClusterCodec
{
    private static readonly ClusterCodec Deflate = new DeflateCodec();
    private static readonly ClusterCodec Zstandard = new ZstandardCodec();

    /// <summary>The codec of a header's <c>compression_type</c>.</summary>
    public static ClusterCodec Of(int compressionType) => compressionType == 1 ? Zstandard : Deflate;

    /// <summary>Compresses; gives the length, or 0 if the result does not fit.</summary>
    public abstract int TryCompress(ReadOnlySpan<byte> cluster, Span<byte> packed);

    /// <summary>Decompresses exactly a cluster from data that other bytes may follow; false if the data is damaged.</summary>
    public abstract bool TryDecompress(ReadOnlySpan<byte> packed, Span<byte> cluster);
}
