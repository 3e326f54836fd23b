using System.IO.Compression;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>Compresses and expands grains: deflate in zlib's wrapping (RFC 1950), as VMware's products write it.</summary>
internal static class GrainCodec
{
    [ThreadStatic]
    private static MemoryStream? _packed;

    /// <summary>Most bytes that a grain takes, also one that does not shrink.</summary>
    public static int Capacity(int grain) => grain + (grain >> 8) + 128;

    /// <summary>Compresses.</summary>
    /// <returns>Bytes put into <paramref name="destination"/>, of <see cref="Capacity"/> bytes.</returns>
    public static int Compress(ReadOnlySpan<byte> grain, Span<byte> destination)
    {
        var length = Compress(grain, destination, CompressionLevel.Optimal);
        return length > 0 ? length : Compress(grain, destination, CompressionLevel.NoCompression);
    }

    /// <summary>Expands as much as there is, up to the whole grain; what is missing is zero.</summary>
    /// <returns>Whether the data is sound.</returns>
    public static bool TryExpand(byte[] packed, int start, int length, Span<byte> grain)
    {
        try
        {
            using var source = new MemoryStream(packed, start, length, writable: false);
            using var stream = new ZLibStream(source, CompressionMode.Decompress);
            var done = stream.ReadAtLeast(grain, grain.Length, throwOnEndOfStream: false);
            grain[done..].Clear();

            // Reading on makes the stream check its sum, which a short last grain has behind it already.
            Span<byte> more = stackalloc byte[1];
            return done > 0 && stream.Read(more) == 0;
        }
        catch (InvalidDataException)
        {
            return false;
        }
    }

    private static int Compress(ReadOnlySpan<byte> grain, Span<byte> destination, CompressionLevel level)
    {
        var packed = _packed ??= new MemoryStream();
        packed.SetLength(0);
        using (var stream = new ZLibStream(packed, level, leaveOpen: true))
        {
            stream.Write(grain);
        }

        var length = (int)packed.Length;
        if (length > destination.Length)
        {
            return 0;
        }

        packed.GetBuffer().AsSpan(0, length).CopyTo(destination);
        return length;
    }
}
