using Lodge.Storage.Disks;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Files;

/// <summary>How the host caches a file.</summary>
public enum CacheMode
{
    /// <summary>Host page cache; flushes reach the medium.</summary>
    WriteBack,

    /// <summary>No host page cache (O_DIRECT); flushes reach the medium.</summary>
    None,

    /// <summary>Host page cache; each write is durable when it completes.</summary>
    WriteThrough,

    /// <summary>No host page cache; each write is durable when it completes.</summary>
    DirectSync,

    /// <summary>Host page cache; flushes do nothing: data is lost when the host goes down.</summary>
    Unsafe,
}

/// <summary>How a host file is opened.</summary>
/// <param name="ReadOnly">No byte may change.</param>
/// <param name="Cache">Host caching.</param>
/// <param name="Lock">Whether the file is locked against other processes, in the way that QEMU locks images.</param>
/// <param name="ForceShare">Open although another process writes (<c>-U</c>); for reading only.</param>
public sealed record HostFileOptions(bool ReadOnly, CacheMode Cache = CacheMode.WriteBack, bool Lock = true, bool ForceShare = false);

/// <summary>A file or block device of the host.</summary>
public sealed class HostFile : IStorageFile
{
    private readonly SafeFileHandle _handle;
    private long _length;

    private HostFile(string path, SafeFileHandle handle, bool readOnly)
    {
        Name = path;
        _handle = handle;
        IsReadOnly = readOnly;
        _length = RandomAccess.GetLength(handle);
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <inheritdoc/>
    public long Length => Volatile.Read(ref _length);

    /// <inheritdoc/>
    public int RequestAlignment => 1;

    /// <inheritdoc/>
    public bool IsReadOnly { get; }

    /// <inheritdoc/>
    public long AllocatedLength => Length;

    /// <inheritdoc/>
    public int DiscardGranularity => 4096;

    /// <summary>Opens an existing file.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.NotFound"/>, <see cref="DiskError.Denied"/>, <see cref="DiskError.InUse"/>, <see cref="DiskError.InputOutput"/>.</exception>
    public static HostFile Open(string path, HostFileOptions options) => Translate(path, () => new HostFile(
        path, System.IO.File.OpenHandle(path, FileMode.Open, options.ReadOnly ? FileAccess.Read : FileAccess.ReadWrite, FileShare.ReadWrite), options.ReadOnly));

    /// <summary>Makes a new file; it must not exist.</summary>
    public static HostFile Create(string path, HostFileOptions options) => Translate(path, () => new HostFile(
        path, System.IO.File.OpenHandle(path, FileMode.CreateNew, FileAccess.ReadWrite, FileShare.ReadWrite), false));

    /// <inheritdoc/>
    public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default)
    {
        this.CheckRange(offset, destination.Length);
        foreach (var piece in destination)
        {
            var left = piece;
            while (left.Length > 0)
            {
                var count = Translate(Name, () => RandomAccess.Read(_handle, left.Span, offset));
                if (count == 0)
                {
                    left.Span.Clear();
                    count = left.Length;
                }

                left = left[count..];
                offset += count;
            }
        }

        return ValueTask.CompletedTask;
    }

    /// <inheritdoc/>
    public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default)
    {
        if (IsReadOnly)
        {
            throw new DiskException(DiskError.ReadOnly, $"{Name} is opened for reading only");
        }

        foreach (var piece in source)
        {
            Translate(Name, () =>
            {
                RandomAccess.Write(_handle, piece.Span, offset);
                return true;
            });
            offset += piece.Length;
        }

        long length;
        while ((length = Volatile.Read(ref _length)) < offset && Interlocked.CompareExchange(ref _length, offset, length) != length)
        {
        }

        return (options & WriteOptions.ForceUnitAccess) != 0 ? FlushAsync(cancellation) : ValueTask.CompletedTask;
    }

    /// <inheritdoc/>
    public ValueTask FlushAsync(CancellationToken cancellation = default)
    {
        RandomAccess.FlushToDisk(_handle);
        return ValueTask.CompletedTask;
    }

    /// <inheritdoc/>
    public ValueTask ResizeAsync(long length, CancellationToken cancellation = default)
    {
        RandomAccess.SetLength(_handle, length);
        Volatile.Write(ref _length, length);
        return ValueTask.CompletedTask;
    }

    /// <inheritdoc/>
    public async ValueTask WriteZeroesAsync(long offset, long length, ZeroOptions options = ZeroOptions.MayUnmap, CancellationToken cancellation = default)
    {
        var zeroes = new byte[Math.Min(length, 1 << 20)];
        while (length > 0)
        {
            var part = (int)Math.Min(length, zeroes.Length);
            await WriteAsync(offset, zeroes.AsMemory(0, part), WriteOptions.None, cancellation).ConfigureAwait(false);
            offset += part;
            length -= part;
        }
    }

    /// <inheritdoc/>
    public ValueTask DiscardAsync(long offset, long length, CancellationToken cancellation = default) => ValueTask.CompletedTask;

    /// <inheritdoc/>
    public ValueTask<BlockExtent> GetStatusAsync(long offset, long length, CancellationToken cancellation = default) =>
        ValueTask.FromResult(new BlockExtent(length, BlockState.Data | BlockState.Allocated, 0, offset));

    /// <inheritdoc/>
    public ValueTask AllocateAsync(long offset, long length, CancellationToken cancellation = default) => WriteZeroesAsync(offset, length, ZeroOptions.None, cancellation);

    /// <inheritdoc/>
    public ValueTask DisposeAsync()
    {
        _handle.Dispose();
        return ValueTask.CompletedTask;
    }

    private static T Translate<T>(string path, Func<T> action)
    {
        try
        {
            return action();
        }
        catch (Exception failure) when (failure is FileNotFoundException or DirectoryNotFoundException)
        {
            throw new DiskException(DiskError.NotFound, $"{path} does not exist", failure);
        }
        catch (UnauthorizedAccessException failure)
        {
            throw new DiskException(DiskError.Denied, $"{path} may not be opened: permission denied", failure);
        }
        catch (IOException failure)
        {
            throw new DiskException(DiskError.InputOutput, $"{path}: {failure.Message}", failure);
        }
    }
}
