namespace Lodge.Storage.Disks;

/// <summary>What a request for zeroes allows.</summary>
[Flags]
public enum ZeroOptions
{
    /// <summary>The range reads as zeroes afterwards and stays allocated.</summary>
    None = 0,

    /// <summary>The range may be deallocated if it then reads as zeroes.</summary>
    MayUnmap = 1,

    /// <summary>Durable when it completes.</summary>
    ForceUnitAccess = 2,

    /// <summary>Fail with <see cref="DiskError.Unsupported"/> rather than write zero bytes one by one.</summary>
    Fast = 4,
}

/// <summary>A disk that can forget ranges. What they read as afterwards is unspecified unless the disk says otherwise.</summary>
public interface IDiscard
{
    /// <summary>Granularity in bytes; parts of a range that do not fill a unit are left as they are.</summary>
    int DiscardGranularity { get; }

    /// <summary>Forgets <paramref name="length"/> bytes from <paramref name="offset"/>.</summary>
    ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default);
}

/// <summary>A disk that can make ranges zero without being sent zeroes.</summary>
public interface IWriteZeroes
{
    /// <summary>Makes <paramref name="length"/> bytes from <paramref name="offset"/> read as zeroes.</summary>
    ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default);
}

/// <summary>A disk whose size can change.</summary>
public interface IResize
{
    /// <summary>Makes the disk <paramref name="length"/> bytes long; what is added reads as zeroes.</summary>
    ValueTask ResizeAsync(long length, CancellationToken cancellation = default);
}

/// <summary>What is known about a range without reading it.</summary>
[Flags]
public enum BlockState
{
    /// <summary>Nothing allocated in any layer; reads as zeroes.</summary>
    None = 0,

    /// <summary>Holds data that must be read.</summary>
    Data = 1,

    /// <summary>Reads as zeroes.</summary>
    Zero = 2,

    /// <summary>The state is decided by this disk's own top layer, not by a backing image.</summary>
    Allocated = 4,

    /// <summary>Stored compressed.</summary>
    Compressed = 8,
}

/// <summary>A range of one state.</summary>
/// <param name="Length">Bytes from the offset that was asked about.</param>
/// <param name="State">The state of all of them.</param>
/// <param name="Depth">The layer that holds it: 0 is the disk itself, 1 its backing image, and so on.</param>
/// <param name="HostOffset">Where the bytes stand in the layer's file, if they are there as they are; else -1.</param>
public readonly record struct BlockExtent(long Length, BlockState State, int Depth = 0, long HostOffset = -1);

/// <summary>A disk that knows what it holds where.</summary>
public interface IBlockStatus
{
    /// <summary>The extent that starts at <paramref name="offset"/>, at most <paramref name="length"/> bytes, at least one.</summary>
    ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default);
}

/// <summary>A disk that stores units compressed.</summary>
public interface ICompressedWrite
{
    /// <summary>Bytes in a unit; offsets and lengths of compressed writes are multiples of it (the last may be short).</summary>
    int CompressionUnit { get; }

    /// <summary>Whether units must be written in ascending order, each once (a stream).</summary>
    bool InOrder { get; }

    /// <summary>Compresses on the calling thread and stores; several may run at once unless <see cref="InOrder"/>. A unit that does not shrink is stored plainly.</summary>
    ValueTask WriteCompressedAsync(long offset, ReadOnlyMemory<byte> unit, CancellationToken cancellation = default);
}

/// <summary>
/// A disk whose compressing can run apart from storing, so that a stream of units (<see cref="ICompressedWrite.InOrder"/>) is compressed on all cores and
/// stored by one at a time.
/// </summary>
public interface ISplitCompression : ICompressedWrite
{
    /// <summary>Room in bytes that <see cref="Compress"/> needs for its result.</summary>
    int CompressedCapacity { get; }

    /// <summary>Compresses a unit; any number of threads at once.</summary>
    /// <returns>Bytes put into <paramref name="destination"/>, or 0 for a unit that does not shrink.</returns>
    int Compress(ReadOnlySpan<byte> unit, Span<byte> destination);

    /// <summary>Stores a unit of which <paramref name="compressed"/> is the result of <see cref="Compress"/>, empty if that was 0; in ascending order, one at a time, where <see cref="ICompressedWrite.InOrder"/>.</summary>
    ValueTask StoreCompressedAsync(long offset, ReadOnlyMemory<byte> unit, ReadOnlyMemory<byte> compressed, CancellationToken cancellation = default);
}

/// <summary>Named dirty bitmaps of an image (qcow2, "Bitmaps extension").</summary>
public interface IDirtyBitmaps
{
    /// <summary>Names of the bitmaps.</summary>
    IReadOnlyList<string> BitmapNames { get; }

    /// <summary>Whether the range at <paramref name="offset"/> is dirty in bitmap <paramref name="name"/>, and for how many bytes, at most <paramref name="length"/>.</summary>
    ValueTask<(bool Dirty, long Length)> GetDirtyAsync(string name, long offset, long length, CancellationToken cancellation = default);
}
