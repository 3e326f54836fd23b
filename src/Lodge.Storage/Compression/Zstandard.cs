using System.Runtime.InteropServices;

namespace Lodge.Storage.Compression;

/// <summary>The host's libzstd (RFC 8878), found when it is first needed.</summary>
public static unsafe partial class Zstandard
{
    private const string Library = "libzstd.so.1";

    /// <summary>Whether the host has it.</summary>
    public static bool IsAvailable => NativeLibrary.TryLoad(Library, out _);

    /// <summary>The longest frame that <paramref name="length"/> bytes can become.</summary>
    public static int Bound(int length) => checked((int)CompressBound((nuint)length));

    /// <summary>
    /// Address of <c>size_t ZSTD_decompressDCtx(ZSTD_DCtx*, void* output, size_t capacity, const void* frame, size_t length)</c> for code that is not managed.
    /// </summary>
    /// <exception cref="NotSupportedException">The library is missing.</exception>
    public static nint DecompressFunction
    {
        get
        {
            try
            {
                return NativeLibrary.GetExport(NativeLibrary.Load(Library), "ZSTD_decompressDCtx");
            }
            catch (Exception failure) when (failure is DllNotFoundException or EntryPointNotFoundException)
            {
                throw Missing(failure);
            }
        }
    }

    internal static NotSupportedException Missing(Exception failure) => new("libzstd.so.1 is missing: install the package libzstd1", failure);

    internal static nint Make(bool compressing)
    {
        try
        {
            var context = compressing ? CreateCompression() : CreateDecompression();
            return context != 0 ? context : throw new OutOfMemoryException("libzstd has no memory");
        }
        catch (Exception failure) when (failure is DllNotFoundException or EntryPointNotFoundException)
        {
            throw Missing(failure);
        }
    }

    [LibraryImport(Library, EntryPoint = "ZSTD_compressBound")]
    private static partial nuint CompressBound(nuint length);

    [LibraryImport(Library, EntryPoint = "ZSTD_createCCtx")]
    private static partial nint CreateCompression();

    [LibraryImport(Library, EntryPoint = "ZSTD_freeCCtx")]
    internal static partial nuint FreeCompression(nint context);

    [LibraryImport(Library, EntryPoint = "ZSTD_createDCtx")]
    private static partial nint CreateDecompression();

    [LibraryImport(Library, EntryPoint = "ZSTD_freeDCtx")]
    internal static partial nuint FreeDecompression(nint context);

    [LibraryImport(Library, EntryPoint = "ZSTD_CCtx_setParameter")]
    internal static partial nuint SetParameter(nint context, int parameter, int value);

    [LibraryImport(Library, EntryPoint = "ZSTD_compress2")]
    internal static partial nuint Compress(nint context, byte* output, nuint capacity, byte* input, nuint length);

    [LibraryImport(Library, EntryPoint = "ZSTD_decompressDCtx")]
    internal static partial nuint Decompress(nint context, byte* output, nuint capacity, byte* input, nuint length);

    [LibraryImport(Library, EntryPoint = "ZSTD_findFrameCompressedSize")]
    internal static partial nuint FindFrameCompressedSize(byte* input, nuint length);

    [LibraryImport(Library, EntryPoint = "ZSTD_isError")]
    internal static partial uint IsError(nuint code);
}

/// <summary>Makes frames, each on its own. One thread at a time.</summary>
public sealed unsafe class ZstandardCompressor : IDisposable
{
    private const int LevelParameter = 100, ChecksumParameter = 201; // ZSTD_cParameter
    private nint _context;

    /// <summary>Prepares it.</summary>
    /// <param name="level">From negative, which is fastest, to 19.</param>
    /// <param name="checksum">Whether frames end with a sum of their contents, which the decompressor checks.</param>
    /// <exception cref="NotSupportedException">The library is missing.</exception>
    public ZstandardCompressor(int level, bool checksum)
    {
        _context = Zstandard.Make(compressing: true);
        _ = Zstandard.SetParameter(_context, LevelParameter, level);
        _ = Zstandard.SetParameter(_context, ChecksumParameter, checksum ? 1 : 0);
    }

    /// <summary/>
    ~ZstandardCompressor() => Free();

    /// <summary>Compresses; gives the frame's length, or 0 if it does not fit.</summary>
    public int TryCompress(ReadOnlySpan<byte> plain, Span<byte> frame)
    {
        ObjectDisposedException.ThrowIf(_context == 0, this);
        fixed (byte* input = plain, output = frame)
        {
            var length = Zstandard.Compress(_context, output, (nuint)frame.Length, input, (nuint)plain.Length);
            return Zstandard.IsError(length) != 0 ? 0 : (int)length;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Free();
        GC.SuppressFinalize(this);
    }

    private void Free()
    {
        _ = _context != 0 ? Zstandard.FreeCompression(_context) : 0;
        _context = 0;
    }
}

/// <summary>Reads frames whose plain length is known; they are decompressed straight into place, so that none can ask for a large window. One thread at a time.</summary>
public sealed unsafe class ZstandardDecompressor : IDisposable
{
    /// <summary>Prepares it.</summary>
    /// <exception cref="NotSupportedException">The library is missing.</exception>
    public ZstandardDecompressor() => Context = Zstandard.Make(compressing: false);

    /// <summary/>
    ~ZstandardDecompressor() => Free();

    /// <summary>The <c>ZSTD_DCtx*</c> for <see cref="Zstandard.DecompressFunction"/>.</summary>
    public nint Context { get; private set; }

    /// <summary>Decompresses one frame, which is all of <paramref name="frame"/>, to exactly the length of <paramref name="plain"/>; false if it is damaged.</summary>
    public bool TryDecompress(ReadOnlySpan<byte> frame, Span<byte> plain)
    {
        ObjectDisposedException.ThrowIf(Context == 0, this);
        fixed (byte* input = frame, output = plain)
        {
            return Zstandard.Decompress(Context, output, (nuint)plain.Length, input, (nuint)frame.Length) == (nuint)plain.Length;
        }
    }

    /// <summary>The same for a frame that other bytes may follow.</summary>
    public bool TryDecompressFirst(ReadOnlySpan<byte> frames, Span<byte> plain)
    {
        fixed (byte* input = frames)
        {
            var length = Zstandard.FindFrameCompressedSize(input, (nuint)frames.Length);
            return Zstandard.IsError(length) == 0 && TryDecompress(frames[..(int)length], plain);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Free();
        GC.SuppressFinalize(this);
    }

    private void Free()
    {
        _ = Context != 0 ? Zstandard.FreeDecompression(Context) : 0;
        Context = 0;
    }
}
