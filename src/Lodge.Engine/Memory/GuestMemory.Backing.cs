using System.Runtime.InteropServices;

namespace Lodge.Engine.Memory;

// Where RAM comes from and how it goes back: memfd_create(2), mmap(2), madvise(2), mlock(2), fallocate(2).
public sealed unsafe partial class GuestMemory
{
    private const int ProtReadWrite = 3, MapShared = 1, MapPrivate = 2, MapAnonymous = 0x20, MapNoReserve = 0x4000;
    private const uint MemfdCloseOnExec = 1, MemfdHugePages = 4, MemfdSizeShift = 26;
    private const int AdviseDontNeed = 4, AdviseDontFork = 10, AdviseMergeable = 12, AdviseHugePage = 14;
    private const int ErrorAgain = 11, ErrorNoMemory = 12, ErrorInvalid = 22, ErrorNoSpace = 28, ErrorPermission = 1;
    private const ulong TransparentPage = 2UL << 20;

    private void* _reservation;
    private ulong _reserved;

    /// <summary>How the host backs it.</summary>
    public MemoryBacking Backing { get; }

    /// <summary>Maps RAM as <see cref="Backing"/> says.</summary>
    /// <exception cref="IOException">The host refuses; the message says what is missing and what to do.</exception>
    private int Map()
    {
        int file = -1;
        try
        {
            if (Backing.CopyOf is { } original)
            {
                MapCopy(original);
            }
            else if (Backing.IsFile)
            {
                file = Backing.PoolPageSize == 0 ? MapFile() : MapPool();
            }
            else
            {
                MapAnonymousMemory();
            }
            if (Backing.Locked)
            {
                Lock();
            }
            return file;
        }
        catch
        {
            Unmap();
            if (file >= 0)
            {
                close(file);
            }
            throw;
        }
    }

    private int MapFile()
    {
        int file = memfd_create("lodge-ram", MemfdCloseOnExec);
        if (file < 0 || ftruncate(file, (long)Size) != 0)
        {
            int error = Marshal.GetLastPInvokeError();
            CloseIfOpen(file);
            throw new IOException($"cannot create {Size} bytes of guest memory: error {error}");
        }
        _base = (byte*)mmap(null, (nuint)Size, ProtReadWrite, MapShared | MapNoReserve, file, 0);
        return _base != (byte*)-1 ? file : throw NotMapped(file);
    }

    /// <summary>Pages of the pool are taken at once: when they ran out later, the process would be killed (SIGBUS).</summary>
    private int MapPool()
    {
        string pages = Backing.HugePages == HugePages.Pool1G ? "1 GiB" : "2 MiB";
        int sizeCode = System.Numerics.BitOperations.Log2(Backing.PoolPageSize);
        int file = memfd_create("lodge-ram", MemfdCloseOnExec | MemfdHugePages | ((uint)sizeCode << (int)MemfdSizeShift));
        if (file < 0)
        {
            throw new IOException($"this host has no huge pages of {pages}: error {Marshal.GetLastPInvokeError()}");
        }
        if (ftruncate(file, (long)Size) != 0)
        {
            throw NotMapped(file);
        }
        _base = (byte*)mmap(null, (nuint)Size, ProtReadWrite, MapShared, file, 0);
        int error = _base == (byte*)-1 ? Marshal.GetLastPInvokeError() : 0;
        if (error == 0 && fallocate(file, 0, 0, (long)Size) != 0)
        {
            error = Marshal.GetLastPInvokeError();
        }
        if (error is ErrorNoMemory or ErrorNoSpace)
        {
            CloseIfOpen(file);
            ulong needed = Size / Backing.PoolPageSize;
            string folder = $"/sys/kernel/mm/hugepages/hugepages-{Backing.PoolPageSize >> 10}kB";
            throw new IOException(
                $"{needed} huge pages of {pages} are needed and {FreePoolPages(folder)} are free; as root make more: echo {needed + (ulong)UsedPoolPages(folder)} > {folder}/nr_hugepages");
        }
        return error == 0 ? file : throw NotMapped(file, error);
    }

    private static string FreePoolPages(string folder) =>
        ReadNumber($"{folder}/free_hugepages") is { } free ? $"{Math.Max(0, free - (ReadNumber($"{folder}/resv_hugepages") ?? 0))}" : "none";

    private static long UsedPoolPages(string folder) =>
        Math.Max(0, (ReadNumber($"{folder}/nr_hugepages") ?? 0) - Math.Max(0, (ReadNumber($"{folder}/free_hugepages") ?? 0) - (ReadNumber($"{folder}/resv_hugepages") ?? 0)));

    private static long? ReadNumber(string path)
    {
        try
        {
            return long.TryParse(File.ReadAllText(path), out long number) ? number : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>Private memory begins at a multiple of 2 MiB, so that the guest's huge pages lie on the host's.</summary>
    private void MapAnonymousMemory()
    {
        ulong reserved = Size + TransparentPage;
        void* place = mmap(null, (nuint)reserved, ProtReadWrite, MapPrivate | MapAnonymous | MapNoReserve, -1, 0);
        if (place == (void*)-1)
        {
            throw NotMapped(-1);
        }
        _reservation = place;
        _reserved = reserved;
        _base = (byte*)(((ulong)place + TransparentPage - 1) & ~(TransparentPage - 1));
        // A program that is started must neither copy it nor make its pages copy-on-write while a device reads from disk into them.
        _ = madvise(_base, (nuint)Size, AdviseDontFork);
        if (Backing.Mergeable && madvise(_base, (nuint)Size, AdviseMergeable) != 0)
        {
            throw new IOException(Marshal.GetLastPInvokeError() == ErrorInvalid
                ? "this host's kernel cannot merge pages: it is built without KSM"
                : $"guest memory cannot be made mergeable: error {Marshal.GetLastPInvokeError()}");
        }
        if (Backing.HugePages == HugePages.Transparent)
        {
            const string setting = "/sys/kernel/mm/transparent_hugepage/enabled";
            if (madvise(_base, (nuint)Size, AdviseHugePage) != 0)
            {
                throw new IOException("this host's kernel is built without transparent huge pages");
            }
            if (ReadText(setting)?.Contains("[never]", StringComparison.Ordinal) != false)
            {
                throw new IOException($"transparent huge pages are turned off on this host; as root: echo madvise > {setting}");
            }
        }
    }

    private static string? ReadText(string path)
    {
        try
        {
            return File.ReadAllText(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private void Lock()
    {
        // The kernel would end processes to find the memory.
        if (Backing.PoolPageSize == 0 && AvailableMemory() is { } available && available < Size)
        {
            throw new IOException($"{Size >> 20} MiB of guest memory cannot be locked: the host has {available >> 20} MiB available");
        }
        if (mlock(_base, (nuint)Size) == 0)
        {
            return;
        }
        int error = Marshal.GetLastPInvokeError();
        throw new IOException(error is ErrorNoMemory or ErrorAgain or ErrorPermission
            ? $"{Size >> 20} MiB of guest memory cannot be locked: the limit RLIMIT_MEMLOCK is {LockLimit()}; raise it (ulimit -l, LimitMEMLOCK= of systemd)"
            : $"guest memory cannot be locked: error {error}");
    }

    private static ulong? AvailableMemory()
    {
        const string field = "MemAvailable:";
        string text = ReadText("/proc/meminfo") ?? "";
        int at = text.IndexOf(field, StringComparison.Ordinal);
        if (at < 0)
        {
            return null;
        }
        ReadOnlySpan<char> rest = text.AsSpan(at + field.Length).TrimStart();
        int end = rest.IndexOf(' ');
        return end > 0 && ulong.TryParse(rest[..end], out ulong kilobytes) ? kilobytes << 10 : null;
    }

    private static string LockLimit()
    {
        const int memoryLock = 8;
        ulong* limit = stackalloc ulong[2];
        return getrlimit(memoryLock, limit) != 0 ? "unknown" : limit[0] == ulong.MaxValue ? "none" : $"{limit[0] >> 10} KiB";
    }

    private IOException NotMapped(int file, int? error = null)
    {
        int number = error ?? Marshal.GetLastPInvokeError();
        CloseIfOpen(file);
        return new IOException($"cannot map {Size} bytes of guest memory: error {number}");
    }

    private static void CloseIfOpen(int file)
    {
        if (file >= 0)
        {
            close(file);
        }
    }

    private void Unmap()
    {
        if (_reservation != null)
        {
            munmap(_reservation, (nuint)_reserved);
        }
        else if (_base != null && _base != (byte*)-1)
        {
            munmap(_base, (nuint)Size);
        }
        _base = null;
        _reservation = null;
    }

    /// <summary>Gives host memory of a page-aligned range back; it reads as zero afterwards (balloon, free page reporting). False, with nothing done, while RAM is being read in.</summary>
    /// <remarks>
    /// Locked memory and pages of a pool are kept and only cleared: when they were wanted again they might not be there, and a missing page of a pool kills the
    /// process.
    /// </remarks>
    public bool TryDiscard(ulong address, ulong length)
    {
        if (address % PageSize != 0 || length % PageSize != 0 || !TryGetOffset(address, length, out ulong offset))
        {
            return false;
        }
        const int punchHoleKeepSize = 3;
        bool done = true;
        if (DiscardUnderImage(offset, length) is { } discarded)
        {
            done = discarded;
        }
        else if (Backing.Locked || Backing.PoolPageSize != 0)
        {
            NativeMemory.Clear(_base + offset, (nuint)length);
        }
        else if (Backing.CopyOf is not null)
        {
            done = DiscardCopied(offset, length);
        }
        else
        {
            done = Backing.IsFile
                ? fallocate(FileDescriptor, punchHoleKeepSize, (long)offset, (long)length) == 0
                : madvise(_base + offset, (nuint)length, AdviseDontNeed) == 0;
        }
        Written(address, length);
        return done;
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int memfd_create(string name, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ftruncate(int fd, long length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial void* mmap(void* address, nuint length, int protection, int flags, int fd, long offset);

    [LibraryImport("libc")]
    private static partial int munmap(void* address, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int madvise(void* address, nuint length, int advice);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int mlock(void* address, nuint length);

    [LibraryImport("libc")]
    private static partial int getrlimit(int resource, ulong* limit);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fallocate(int fd, int mode, long offset, long length);

    [LibraryImport("libc")]
    private static partial int close(int fd);
}
