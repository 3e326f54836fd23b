using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Engine.Memory;

// Images of RAM. The first snapshot of RAM that is a memory file leaves the file as the image: RAM is mapped anew, privately, at the same address, and when the image has
// been read all pages become private and the file empty. RAM that is private already is kept by a forked process. Processors' and KVM's pointers into RAM stay valid.
public sealed unsafe partial class GuestMemory
{
    private const int AdviseDoFork = 11, AdvisePopulateWrite = 23, LockOnFault = 1, SeekData = 3, SeekHole = 4, PunchHoleKeepSize = 3;
    private const int DuplicateCloseOnExec = 1030, ErrorNoSuchAddress = 6;
    private const int MaximumAreas = 1000; // of the process' 65,530 mappings
    private const ulong ReleaseStep = 4UL << 20;

    private readonly Lock _imageGate = new(); // RAM is not unmapped while it is held
    private bool _private;                    // the memory file is mapped privately
    private bool _imaged;                     // the memory file is read as an image
    private bool _fileHolds;                  // the memory file may have pages that are not zero and not private
    private MemoryPager? _pager;

    /// <summary>RAM as it is, of a machine that stands still until the image is disposed of. Waits for <see cref="FinishLoading"/>.</summary>
    /// <exception cref="IOException">The host has no file descriptor left.</exception>
    public MemoryImage CurrentImage()
    {
        FinishLoading();
        IReadOnlyList<BackingRange> data = FindData(Environment.ProcessId);
        // A hole that is read through the shared mapping would become a page.
        return SharesFile ? new FileImage(Size, data, DuplicateFile(), null) : new LiveImage(this, data);
    }

    /// <summary>
    /// Keeps RAM as it is now, while the machine stands still (no processor runs, no I/O is in flight); it may go on when this returns. Copies nothing, except of RAM
    /// in pages of a pool, or where the host refuses a fork: that is copied here.
    /// </summary>
    /// <remarks>
    /// The image needs as much memory of the host as the guest changes while it exists. Made on a thread that lives as long as the image. One at a time.
    /// </remarks>
    /// <exception cref="InvalidOperationException">There is an image already, or RAM is still being read in.</exception>
    /// <exception cref="IOException">The host has no memory for it; RAM is as it was.</exception>
    public MemoryImage TakeSnapshot()
    {
        lock (_imageGate)
        {
            ObjectDisposedException.ThrowIf(_base == null, this);
            if (_imaged || _pager is { Ended: false })
            {
                throw new InvalidOperationException(_imaged ? "a snapshot of this machine is being written" : "guest memory is still being read in");
            }
            if (Backing.PoolPageSize != 0)
            {
                return Copy();
            }
            if (SharesFile)
            {
                return LeaveFile();
            }
            bool forked = madvise(_base, (nuint)Size, AdviseDoFork) == 0;
            try
            {
                return forked ? ForkedImage.Create(this, FindForkedData) : Copy();
            }
            catch (IOException)
            {
                return Copy();
            }
            finally
            {
                _ = madvise(_base, (nuint)Size, AdviseDontFork);
            }
        }
    }

    /// <summary>
    /// Begins to read RAM in while the machine runs: what is touched comes first. RAM must be untouched or is emptied here; the machine is started afterwards.
    /// </summary>
    /// <param name="source">Where from.</param>
    /// <param name="failed">Called once, on a thread of its own, when a chunk cannot be read, before those who wait for it go on with zeros: it must stop the machine without delay.</param>
    /// <param name="reason">Why not, when the result is null.</param>
    /// <returns>Null when this host or kind of RAM cannot: it must then be filled before the start.</returns>
    public MemoryPager? TryBeginLoading(PagedSource source, Action<string> failed, out string? reason)
    {
        lock (_imageGate)
        {
            ObjectDisposedException.ThrowIf(_base == null, this);
            if (Backing.Locked || Backing.PoolPageSize != 0 || (FileDescriptor >= 0 && !SharesFile) || Backing.CopyOf is not null || _pager is not null)
            {
                reason = "guest memory is locked, of a pool or not its own";
                return null;
            }
            foreach (MemorySlot slot in _slots)
            {
                TryDiscard(slot.Address, slot.Length);
            }
            return _pager = MemoryPager.TryStart(this, source, failed, out reason);
        }
    }

    /// <summary>Waits until all of RAM is there, or the loading has failed, if it is being read in.</summary>
    public void FinishLoading() => _pager?.Finish();

    private bool SharesFile => Backing.IsFile && FileDescriptor >= 0 && !_private;

    /// <summary>Maps RAM privately, holes as anonymous memory, and gives the file as the image.</summary>
    private FileImage LeaveFile()
    {
        List<BackingRange> data = FileData(FileDescriptor);
        SafeFileHandle duplicate = DuplicateFile();
        bool mapped = mmap(_base, (nuint)Size, ProtReadWrite, MapPrivate | MapAnonymous | MapNoReserve | MapFixed, -1, 0) == _base;
        foreach (BackingRange area in Areas(data))
        {
            mapped = mapped && mmap(_base + area.Start, (nuint)(area.End - area.Start), ProtReadWrite, MapPrivate | MapNoReserve | MapFixed, FileDescriptor, (long)area.Start) == _base + area.Start;
        }
        if (!mapped)
        {
            int error = Marshal.GetLastPInvokeError();
            duplicate.Dispose();
            if (mmap(_base, (nuint)Size, ProtReadWrite, MapShared | MapNoReserve | MapFixed, FileDescriptor, 0) != _base)
            {
                Environment.FailFast("guest memory cannot be mapped again"); // nothing of the guest is there any more
            }
            throw new IOException($"no image of guest memory: error {error}");
        }
        _private = true;
        _ = madvise(_base, (nuint)Size, AdviseDontFork);
        if (Backing.Locked)
        {
            _ = mlock2(_base, (nuint)Size, LockOnFault);
        }
        _imaged = _fileHolds = true;
        return new FileImage(Size, data, duplicate, FileReleased);
    }

    private SafeFileHandle DuplicateFile()
    {
        int duplicate = fcntl(FileDescriptor, DuplicateCloseOnExec, 0);
        return duplicate >= 0 ? new SafeFileHandle(duplicate, ownsHandle: true) : throw new IOException($"no image of guest memory: error {Marshal.GetLastPInvokeError()}");
    }

    /// <summary>The memory file is not needed as an image any more: what is still only there becomes private, and the file is emptied.</summary>
    private void FileReleased()
    {
        bool populated = true;
        for (ulong start = 0; start < Size && populated; start += ReleaseStep)
        {
            lock (_imageGate)
            {
                if (_base == null)
                {
                    break;
                }
                ulong end = Math.Min(Size, start + ReleaseStep);
                foreach (BackingRange range in FileData(FileDescriptor, start, end))
                {
                    ulong length = range.End - range.Start;
                    populated = populated && madvise(_base + range.Start, (nuint)length, AdvisePopulateWrite) == 0
                        && fallocate(FileDescriptor, PunchHoleKeepSize, (long)range.Start, (long)length) == 0;
                }
            }
        }
        lock (_imageGate)
        {
            _imaged = false;
            _fileHolds = !populated;
        }
    }

    /// <summary>A copy in a memory file of its own.</summary>
    private FileImage Copy()
    {
        IReadOnlyList<BackingRange> data = FindData(Environment.ProcessId);
        int file = memfd_create("lodge-snapshot", MemfdCloseOnExec);
        var handle = new SafeFileHandle(file, ownsHandle: true);
        if (file < 0 || ftruncate(file, (long)Size) != 0)
        {
            int error = Marshal.GetLastPInvokeError();
            handle.Dispose();
            throw new IOException($"no copy of guest memory: error {error}");
        }
        try
        {
            const ulong step = 1UL << 20;
            Parallel.ForEach(data.SelectMany(range => Pieces(range, step)), piece =>
                RandomAccess.Write(handle, new ReadOnlySpan<byte>(_base + piece.Start, (int)(piece.End - piece.Start)), (long)piece.Start));
        }
        catch (AggregateException failure) when (failure.InnerException is IOException inner)
        {
            handle.Dispose();
            throw new IOException($"no copy of guest memory: {inner.Message}", inner);
        }
        return new FileImage(Size, data, handle, null);
    }

    private static IEnumerable<BackingRange> Pieces(BackingRange range, ulong step)
    {
        for (ulong start = range.Start; start < range.End; start += step)
        {
            yield return new BackingRange(start, Math.Min(range.End, start + step));
        }
    }

    /// <summary>What may be other than zero in RAM of this process or of its fork.</summary>
    private IReadOnlyList<BackingRange> FindData(int process)
    {
        if (SharesFile)
        {
            return FileData(FileDescriptor);
        }
        return PagePresence.Find(process, (ulong)_base, Size) is { } present
            ? PagePresence.Join(present, _private ? FileData(FileDescriptor) : _original)
            : [new BackingRange(0, Size)];
    }

    private IReadOnlyList<BackingRange> FindForkedData(int process)
    {
        lock (_imageGate)
        {
            return _base != null ? FindData(process) : [new BackingRange(0, Size)];
        }
    }

    /// <summary>What holds data of a memory file (lseek(2), SEEK_DATA and SEEK_HOLE).</summary>
    internal List<BackingRange> FileData(int file, ulong start = 0, ulong end = ulong.MaxValue)
    {
        end = Math.Min(end, Size);
        var data = new List<BackingRange>();
        while (start < end)
        {
            long first = lseek(file, (long)start, SeekData);
            if (first < 0 && Marshal.GetLastPInvokeError() != ErrorNoSuchAddress)
            {
                data.Add(new BackingRange(start, end)); // files of the pool do not tell
                break;
            }
            if (first < 0 || (ulong)first >= end)
            {
                break; // a hole up to the end
            }
            long last = lseek(file, first, SeekHole);
            ulong to = last < 0 ? end : Math.Min(end, (ulong)last);
            data.Add(new BackingRange((ulong)first, to));
            start = to;
        }
        return data;
    }

    /// <summary>Joins ranges across small gaps until there are not too many for mappings.</summary>
    internal static List<BackingRange> Areas(IReadOnlyList<BackingRange> data)
    {
        for (ulong gap = 2UL << 20; ; gap *= 2)
        {
            var areas = new List<BackingRange>();
            foreach (BackingRange range in data)
            {
                if (areas.Count != 0 && range.Start - areas[^1].End < gap)
                {
                    areas[^1] = areas[^1] with { End = range.End };
                }
                else
                {
                    areas.Add(range);
                }
            }
            if (areas.Count <= MaximumAreas)
            {
                return areas;
            }
        }
    }

    /// <summary>Gives a range back when RAM is read in or not what its backing says; null when it is.</summary>
    private bool? DiscardUnderImage(ulong offset, ulong length)
    {
        if (_pager is { Ended: false })
        {
            return false;
        }
        if (!_private)
        {
            return null;
        }
        lock (_imageGate)
        {
            if (_fileHolds || Backing.Locked)
            {
                NativeMemory.Clear(_base + offset, (nuint)length); // the file must stay as it is
                return true;
            }
            return madvise(_base + offset, (nuint)length, AdviseDontNeed) == 0 && fallocate(FileDescriptor, PunchHoleKeepSize, (long)offset, (long)length) == 0;
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fcntl(int fd, int command, int argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int mlock2(void* address, nuint length, uint flags);
}
