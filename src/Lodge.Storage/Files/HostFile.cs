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

/// <summary>Which file of the host it is, whatever its name.</summary>
/// <param name="Device">The device of its file system.</param>
/// <param name="Inode">Its number there.</param>
public readonly record struct HostFileIdentity(ulong Device, ulong Inode);

/// <summary>
/// A file or block device of the host. Requests that the page cache can serve complete at once on the calling thread; those that would wait do so on
/// <see cref="IoThreads"/>, many at a time.
/// </summary>
public sealed partial class HostFile : IStorageFile
{
    private readonly SafeFileHandle _handle;
    private readonly bool _device;
    private readonly bool _direct;
    private readonly bool _synchronous;
    private readonly bool _unsafe;
    private bool _isView;
    private long _length;

    // Counts changes of content: a flush with nothing new is free, and knowledge about holes is dropped.
    private long _changes;
    private long _flushedChanges = -1;
    private DiskException? _flushFailure;

    private HostFile(string path, SafeFileHandle handle, HostFileOptions options, in FileStatus status)
    {
        Name = path;
        _handle = handle;
        IsReadOnly = options.ReadOnly;
        Identity = IdentityOf(status);
        _device = status.Kind == FileStatus.KindBlockDevice;
        _direct = options.Cache is CacheMode.None or CacheMode.DirectSync;
        _synchronous = options.Cache is CacheMode.WriteThrough or CacheMode.DirectSync;
        _unsafe = options.Cache == CacheMode.Unsafe;
        _length = _device ? HostSystemCalls.DeviceLength(handle) : status.Size;
        if (_length < 0)
        {
            throw HostErrors.From(path, (int)-_length, "asking for its size");
        }

        DiscardGranularity = (int)Math.Clamp(status.BlockSize, 512, 1 << 20);
        if (_direct)
        {
            (_directAlignment, _memoryAlignment) = FindAlignment(status);
        }
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <summary>Which file it is.</summary>
    public HostFileIdentity Identity { get; }

    /// <inheritdoc/>
    public long Length => Volatile.Read(ref _length);

    /// <inheritdoc/>
    public int RequestAlignment => _direct ? _directAlignment : 1;

    /// <inheritdoc/>
    public bool IsReadOnly { get; }

    /// <inheritdoc/>
    public long AllocatedLength
    {
        get
        {
            if (_device)
            {
                return Length;
            }

            var result = HostSystemCalls.Status(_handle, out var status);
            return result < 0 ? throw HostErrors.From(Name, -result, "asking for its size") : status.Blocks * 512;
        }
    }

    /// <inheritdoc/>
    public int DiscardGranularity { get; }

    /// <summary>Whether it is a block device.</summary>
    public bool IsDevice => _device;

    internal SafeFileHandle Handle => _handle;

    /// <summary>Opens an existing file or block device.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.NotFound"/>, <see cref="DiskError.Denied"/>, <see cref="DiskError.InUse"/>, <see cref="DiskError.WrongFormat"/> for a folder, pipe or the
    /// like, <see cref="DiskError.Unsupported"/> for direct I/O on a file system without it, <see cref="DiskError.InputOutput"/>.</exception>
    public static HostFile Open(string path, HostFileOptions options)
    {
        using var found = HostSystemCalls.Open(null, path, HostSystemCalls.OpenPath, 0, out var error) ?? throw HostErrors.From(path, error);
        return Open(found, path, options);
    }

    /// <summary>Makes a new file; it must not exist.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Exists"/>, <see cref="DiskError.NotFound"/> for a missing folder, ...</exception>
    public static HostFile Create(string path, HostFileOptions options) => Create(null, path, path, HostSystemCalls.OpenCreate | HostSystemCalls.OpenExclusive, options);

    /// <summary>Opens what a handle without rights (O_PATH) stands for.</summary>
    internal static HostFile Open(SafeFileHandle found, string path, HostFileOptions options)
    {
        // First looked at, then opened: opening a pipe would wait for its other end, and opening some devices does things.
        var status = StatusOf(found, path);
        CheckKind(status, path);
        var flags = options.ReadOnly ? HostSystemCalls.OpenReadOnly : HostSystemCalls.OpenReadWrite;
        return Start(HostSystemCalls.Open(null, HostSystemCalls.PathOf(found), flags | CacheFlags(options), 0, out var error), path, options, error);
    }

    /// <summary>Makes a file in a folder (null: the current one).</summary>
    internal static HostFile Create(HostFolder? folder, string name, string path, int flags, HostFileOptions options) => Start(
        HostSystemCalls.Open(folder?.Handle, name, HostSystemCalls.OpenReadWrite | flags | CacheFlags(options), folder is null ? 0 : HostSystemCalls.ResolveBeneath, out var error),
        path, options with { ReadOnly = false }, error);

    /// <summary>A file that another process has opened, and locked, and handed over. The lock belongs to what is open and so came with it.</summary>
    /// <param name="handle">The file; it belongs to the result, also when this fails.</param>
    /// <param name="buffered">The same file without O_DIRECT, for the end of a file that is no multiple of a block; null for none.</param>
    /// <param name="path">How messages name it.</param>
    /// <param name="options">How it was opened.</param>
    /// <exception cref="DiskException">It is no file or block device, or the host refuses.</exception>
    internal static HostFile Take(SafeFileHandle handle, SafeFileHandle? buffered, string path, HostFileOptions options)
    {
        try
        {
            var file = Start(handle, path, options, 0);
            file._buffered = buffered;
            return file;
        }
        catch
        {
            buffered?.Dispose();
            throw;
        }
    }

    /// <summary>The file once more, to look at: closing that leaves this one and its locks alone.</summary>
    internal HostFile View()
    {
        var handle = new SafeFileHandle(_handle.DangerousGetHandle(), ownsHandle: false);
        return new HostFile(Name, handle, new HostFileOptions(ReadOnly: true, _direct ? CacheMode.None : CacheMode.WriteBack, Lock: false), StatusOf(handle, Name)) { _isView = true };
    }

    /// <summary>Closes this process' descriptor of a file that another process has now; its locks stay.</summary>
    internal void CloseHanded()
    {
        _handle.Dispose();
        _buffered?.Dispose();
    }

    /// <summary>The same file without O_DIRECT.</summary>
    internal SafeFileHandle OpenBuffered() =>
        _buffered ??= HostSystemCalls.Open(null, HostSystemCalls.PathOf(_handle), HostSystemCalls.OpenReadWrite, 0, out var error) ?? throw HostErrors.From(Name, error);

    internal static FileStatus StatusOf(SafeFileHandle handle, string path)
    {
        var result = HostSystemCalls.Status(handle, out var status);
        return result < 0 ? throw HostErrors.From(path, -result) : status;
    }

    internal static HostFileIdentity IdentityOf(in FileStatus status) => new((ulong)status.DeviceMajor << 32 | status.DeviceMinor, status.Inode);

    /// <inheritdoc/>
    public ValueTask FlushAsync(CancellationToken cancellation = default)
    {
        if (_unsafe || IsReadOnly)
        {
            return ValueTask.CompletedTask;
        }

        if (Volatile.Read(ref _flushFailure) is { } failure)
        {
            return ValueTask.FromException(failure);
        }

        return Volatile.Read(ref _changes) == Volatile.Read(ref _flushedChanges) ? ValueTask.CompletedTask : Dispatch(HostFileWork.Flush, 0, 0, default, 0, cancellation);
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync()
    {
        if (!_handle.IsClosed && !_isView)
        {
            ImageLock.Release(_handle);
        }

        _handle.Dispose();
        _buffered?.Dispose();
        return ValueTask.CompletedTask;
    }

    /// <summary>Does a request on an I/O thread.</summary>
    internal void Execute(HostFileWork work, long offset, long length, in IoVector vector, int flags)
    {
        try
        {
            switch (work)
            {
                case HostFileWork.Read:
                    TransferAll(_handle, write: false, offset, vector, 0);
                    break;
                case HostFileWork.Write:
                    WriteBlocking(offset, vector, flags);
                    break;
                case HostFileWork.DirectRead:
                    ReadDirect(offset, vector);
                    break;
                case HostFileWork.DirectWrite:
                    WriteDirect(offset, vector, flags);
                    break;
                case HostFileWork.Flush:
                    FlushBlocking();
                    break;
                case HostFileWork.WriteZeroes:
                    WriteZeroesBlocking(offset, length, (ZeroOptions)flags);
                    break;
                case HostFileWork.Discard:
                    DiscardBlocking(offset, length);
                    break;
                case HostFileWork.Allocate:
                    AllocateBlocking(offset, length);
                    break;
                case HostFileWork.Resize:
                    ResizeBlocking(length);
                    break;
            }
        }
        catch (ObjectDisposedException)
        {
            throw new DiskException(DiskError.InputOutput, $"{Name} was closed while a request was on its way");
        }
    }

    private static int CacheFlags(HostFileOptions options) => options.Cache switch
    {
        CacheMode.None => HostSystemCalls.OpenDirect,
        CacheMode.WriteThrough => HostSystemCalls.OpenDataSync,
        CacheMode.DirectSync => HostSystemCalls.OpenDirect | HostSystemCalls.OpenDataSync,
        _ => 0,
    };

    private static HostFile Start(SafeFileHandle? handle, string path, HostFileOptions options, int error)
    {
        if (handle is null)
        {
            throw error == HostErrors.Invalid && options.Cache is CacheMode.None or CacheMode.DirectSync
                ? new DiskException(DiskError.Unsupported, $"{path}: its file system has no direct I/O; use cache=writeback or cache=writethrough")
                : HostErrors.From(path, error);
        }

        try
        {
            var status = StatusOf(handle, path);
            CheckKind(status, path);
            if (options.Lock)
            {
                ImageLock.Take(handle, path, !options.ReadOnly, options.ForceShare && options.ReadOnly);
            }

            return new HostFile(path, handle, options, status);
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    private static void CheckKind(in FileStatus status, string path)
    {
        var what = status.Kind switch
        {
            FileStatus.KindRegular or FileStatus.KindBlockDevice => null,
            FileStatus.KindFolder => "a folder",
            FileStatus.KindPipe => "a pipe",
            FileStatus.KindCharacterDevice => "a character device",
            FileStatus.KindSocket => "a socket",
            _ => "not a file",
        };
        if (what is not null)
        {
            throw new DiskException(DiskError.WrongFormat, $"{path} is {what}; a disk image is a regular file or a block device");
        }
    }

    private ValueTask Dispatch(HostFileWork work, long offset, long length, in IoVector vector, int flags, CancellationToken cancellation) =>
        cancellation.IsCancellationRequested ? ValueTask.FromCanceled(cancellation) : HostFileOperation.Start(this, work, offset, length, vector, flags);

    private void FlushBlocking()
    {
        var changes = Volatile.Read(ref _changes);
        var result = HostSystemCalls.SynchronizeData(_handle);
        if (result < 0)
        {
            throw RememberFlushFailure(-result);
        }

        // Another flush may have got further.
        long before;
        while ((before = Volatile.Read(ref _flushedChanges)) < changes && Interlocked.CompareExchange(ref _flushedChanges, changes, before) != before)
        {
        }
    }

    /// <summary>
    /// After a failed flush the kernel drops the dirty pages and says of the next flush that it went well, although data is lost. So no flush of this file ever
    /// succeeds again.
    /// </summary>
    private DiskException RememberFlushFailure(int error)
    {
        var failure = HostErrors.From(Name, error, "flushing");
        failure = new DiskException(failure.Error, failure.Message + "; what was written since the last flush may be lost");
        return Interlocked.CompareExchange(ref _flushFailure, failure, null) ?? failure;
    }

    private void CountChange() => Interlocked.Increment(ref _changes);

    private void GrowTo(long end)
    {
        long length;
        while ((length = Volatile.Read(ref _length)) < end && Interlocked.CompareExchange(ref _length, end, length) != length)
        {
        }
    }

    private DiskException? RefuseWrite(long offset, long length) =>
        IsReadOnly ? new DiskException(DiskError.ReadOnly, $"{Name} is opened for reading only")
        : offset < 0 || length < 0 || offset > long.MaxValue - length || (_device && offset + length > Length) ? OutOfRange(offset, length)
        : null;

    private DiskException OutOfRange(long offset, long length) =>
        new(DiskError.OutOfRange, $"{Name}: {length} bytes at {offset} reach beyond its {Length} bytes");
}
