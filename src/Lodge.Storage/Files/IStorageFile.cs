using Lodge.Storage.Disks;

namespace Lodge.Storage.Files;

/// <summary>
/// The file under an image: a disk that grows when it is written beyond its end (a gap reads as zeroes). Reads must lie inside, as on every disk.
/// <see cref="IDisk.Length"/> is the present length of the file in bytes.
/// </summary>
public interface IStorageFile : IDisk, IResize, IWriteZeroes, IDiscard, IBlockStatus
{
    /// <summary>How messages name it: the path or the address.</summary>
    string Name { get; }

    /// <summary>Bytes that it takes on its medium; holes take none.</summary>
    long AllocatedLength { get; }

    /// <summary>Reserves room for a range, so that later writes to it do not fail for want of it.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.NoSpace"/>, <see cref="DiskError.Unsupported"/>.</exception>
    ValueTask AllocateAsync(long offset, long length, CancellationToken cancellation = default);
}
