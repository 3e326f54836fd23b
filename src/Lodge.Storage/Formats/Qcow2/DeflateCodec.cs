using System.Runtime.InteropServices;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>
/// Raw deflate with a window of 4 KiB (window bits -12), which readers of qcow2 expect. .NET's streams always use 32 KiB, so this calls the zlib that comes with
/// the .NET runtime, whose entry points take the window bits (dotnet/runtime, src/native/libs/System.IO.Compression.Native/pal_zlib.h).
/// </summary>
internal sealed unsafe partial class DeflateCodec : ClusterCodec
{
    private const string Library = "libSystem.IO.Compression.Native";
    private const int Level = 6;
    private const int Deflated = 8;
    private const int WindowBits = -12;
    private const int WidestWindowBits = -15;
    private const int MemoryLevel = 8;
    private const int Finish = 4;
    private const int Ok = 0;
    private const int StreamEnd = 1;

    /// <inheritdoc/>
    public override int TryCompress(ReadOnlySpan<byte> cluster, Span<byte> packed)
    {
        var stream = default(ZStream);
        Begin(DeflateInit2(&stream, Level, Deflated, WindowBits, MemoryLevel, 0));
        try
        {
            fixed (byte* input = cluster, output = packed)
            {
                stream.NextIn = input;
                stream.AvailableIn = (uint)cluster.Length;
                stream.NextOut = output;
                stream.AvailableOut = (uint)packed.Length;
                return Deflate(&stream, Finish) == StreamEnd ? packed.Length - (int)stream.AvailableOut : 0;
            }
        }
        finally
        {
            _ = DeflateEnd(&stream);
        }
    }

    /// <inheritdoc/>
    public override bool TryDecompress(ReadOnlySpan<byte> packed, Span<byte> cluster)
    {
        var stream = default(ZStream);
        fixed (byte* input = packed, output = cluster)
        {
            stream.NextIn = input;
            stream.AvailableIn = (uint)packed.Length;
            Begin(InflateInit2(&stream, WidestWindowBits));
            try
            {
                stream.NextOut = output;
                stream.AvailableOut = (uint)cluster.Length;

                // The output is full, whether or not the stream's end was seen: bytes of other clusters may follow.
                _ = Inflate(&stream, Finish);
                return stream.AvailableOut == 0;
            }
            finally
            {
                _ = InflateEnd(&stream);
            }
        }
    }

    private static void Begin(int status)
    {
        if (status != Ok)
        {
            throw new DiskException(DiskError.Unsupported, $"the .NET runtime's zlib refuses a window of 4 KiB (status {status}), which qcow2 needs");
        }
    }

    [LibraryImport(Library, EntryPoint = "CompressionNative_DeflateInit2_")]
    private static partial int DeflateInit2(ZStream* stream, int level, int method, int windowBits, int memoryLevel, int strategy);

    [LibraryImport(Library, EntryPoint = "CompressionNative_Deflate")]
    private static partial int Deflate(ZStream* stream, int flush);

    [LibraryImport(Library, EntryPoint = "CompressionNative_DeflateEnd")]
    private static partial int DeflateEnd(ZStream* stream);

    [LibraryImport(Library, EntryPoint = "CompressionNative_InflateInit2_")]
    private static partial int InflateInit2(ZStream* stream, int windowBits);

    [LibraryImport(Library, EntryPoint = "CompressionNative_Inflate")]
    private static partial int Inflate(ZStream* stream, int flush);

    [LibraryImport(Library, EntryPoint = "CompressionNative_InflateEnd")]
    private static partial int InflateEnd(ZStream* stream);

    /// <summary><c>PAL_ZStream</c>.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct ZStream
    {
        public byte* NextIn;
        public byte* NextOut;
        public byte* Message;
        public void* State;
        public uint AvailableIn;
        public uint AvailableOut;
    }
}
