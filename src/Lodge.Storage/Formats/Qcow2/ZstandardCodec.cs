using System.Runtime.InteropServices;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>Zstandard by the host's libzstd, found when it is first needed. Decompression goes straight into the cluster, so that no frame can ask for a large window.</summary>
internal sealed unsafe partial class ZstandardCodec : ClusterCodec
{
    private const string Library = "libzstd.so.1";
    private const int Level = 3;

    [ThreadStatic]
    private static Context? s_compressing;

    [ThreadStatic]
    private static Context? s_decompressing;

    /// <inheritdoc/>
    public override int TryCompress(ReadOnlySpan<byte> cluster, Span<byte> packed)
    {
        var context = s_compressing ??= new Context(Make(true), true);
        fixed (byte* input = cluster, output = packed)
        {
            var length = CompressContext(context.Pointer, output, (nuint)packed.Length, input, (nuint)cluster.Length, Level);
            return IsError(length) != 0 ? 0 : (int)length;
        }
    }

    /// <inheritdoc/>
    public override bool TryDecompress(ReadOnlySpan<byte> packed, Span<byte> cluster)
    {
        var context = s_decompressing ??= new Context(Make(false), false);
        fixed (byte* input = packed, output = cluster)
        {
            var frame = FindFrameCompressedSize(input, (nuint)packed.Length);
            if (IsError(frame) != 0)
            {
                return false;
            }

            var length = DecompressContext(context.Pointer, output, (nuint)cluster.Length, input, frame);
            return IsError(length) == 0 && length == (nuint)cluster.Length;
        }
    }

    private static nint Make(bool compressing)
    {
        try
        {
            var context = compressing ? CreateCompression() : CreateDecompression();
            return context != 0 ? context : throw new DiskException(DiskError.InputOutput, "libzstd has no memory");
        }
        catch (Exception failure) when (failure is DllNotFoundException or EntryPointNotFoundException)
        {
            throw new DiskException(DiskError.Unsupported, "the image is compressed with zstd and libzstd.so.1 is missing: install the package libzstd1", failure);
        }
    }

    [LibraryImport(Library, EntryPoint = "ZSTD_createCCtx")]
    private static partial nint CreateCompression();

    [LibraryImport(Library, EntryPoint = "ZSTD_freeCCtx")]
    private static partial nuint FreeCompression(nint context);

    [LibraryImport(Library, EntryPoint = "ZSTD_createDCtx")]
    private static partial nint CreateDecompression();

    [LibraryImport(Library, EntryPoint = "ZSTD_freeDCtx")]
    private static partial nuint FreeDecompression(nint context);

    [LibraryImport(Library, EntryPoint = "ZSTD_compressCCtx")]
    private static partial nuint CompressContext(nint context, byte* output, nuint capacity, byte* input, nuint length, int level);

    [LibraryImport(Library, EntryPoint = "ZSTD_decompressDCtx")]
    private static partial nuint DecompressContext(nint context, byte* output, nuint capacity, byte* input, nuint length);

    [LibraryImport(Library, EntryPoint = "ZSTD_findFrameCompressedSize")]
    private static partial nuint FindFrameCompressedSize(byte* input, nuint length);

    [LibraryImport(Library, EntryPoint = "ZSTD_isError")]
    private static partial uint IsError(nuint code);

    /// <summary>A context of one thread, freed with it.</summary>
    private sealed class Context(nint pointer, bool compressing)
    {
        public nint Pointer => pointer;

        ~Context() => _ = compressing ? FreeCompression(pointer) : FreeDecompression(pointer);
    }
}
