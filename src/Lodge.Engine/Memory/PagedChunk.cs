namespace Lodge.Engine.Memory;

/// <summary>A chunk of RAM that is not all zero, in a file, as a compressed frame.</summary>
public struct PagedChunk
{
    /// <summary>Where the frame begins in the file.</summary>
    public ulong Offset;

    /// <summary>Which chunk of RAM's backing: its offset there divided by the bytes of a chunk.</summary>
    public uint Chunk;

    /// <summary>Bytes of the frame, below 2^31.</summary>
    public uint Length;
}

/// <summary>Where RAM is read from while the guest runs.</summary>
/// <param name="File">Descriptor of the file, which stays open and whose contents stay the same until loading has ended.</param>
/// <param name="Chunks">The chunks that are not zero, ascending, each inside the file and RAM; checked by the caller.</param>
/// <param name="ChunkShift">Base-2 logarithm of the bytes of a chunk: 12 to 20. The last chunk of RAM may be shorter.</param>
/// <param name="Function">Address of native code <c>size_t (void* context, void* output, size_t capacity, const void* frame, size_t length)</c>, which gives the plain length or something else on damage.</param>
/// <param name="Context">Its first argument, for this use alone.</param>
public sealed record PagedSource(int File, PagedChunk[] Chunks, int ChunkShift, nint Function, nint Context);

/// <summary>A range of RAM's backing.</summary>
/// <param name="Start">First byte.</param>
/// <param name="End">Past the last.</param>
public readonly record struct BackingRange(ulong Start, ulong End);
