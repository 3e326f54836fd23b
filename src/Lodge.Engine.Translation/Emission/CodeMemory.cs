using System.Runtime.InteropServices;

namespace Lodge.Engine.Translation.Emission;

/// <summary>
/// Executable memory, mapped twice: one view is written, the other executed; no address is ever both. Lazily backed. All regions are reserved side
/// by side in one range of the process so that the signal handler can tell generated code by two comparisons.
/// </summary>
internal sealed unsafe partial class CodeMemory : IDisposable
{
    private static readonly nuint Reservation = unchecked((nuint)(64UL << 30));
    private static readonly Lock Gate = new();
    private static readonly List<(nint Place, nuint Size)> Free = [];
    private static nuint _next;
    private static byte* _reserved;

    /// <summary>Creates a region of <paramref name="size"/> bytes (a multiple of 64 KiB).</summary>
    public CodeMemory(int size)
    {
        Size = size;
        int fd = memfd_create("lodge-code", 1);
        if (fd < 0 || ftruncate(fd, size) != 0)
        {
            throw new IOException($"cannot create {size} bytes of code memory: error {Marshal.GetLastPInvokeError()}");
        }
        Write = (byte*)mmap(null, (nuint)size, 3, 1, fd, 0);
        byte* place = Reserve((nuint)size);
        Execute = (byte*)mmap(place, (nuint)size, 5, 1 | 0x10, fd, 0);
        close(fd);
        if (Write == (byte*)-1 || Execute == (byte*)-1)
        {
            throw new IOException($"cannot map executable memory: error {Marshal.GetLastPInvokeError()}; the host may forbid it (SELinux execmem, noexec)");
        }
    }

    /// <summary>First address of all generated code of this process.</summary>
    public static byte* RangeStart
    {
        get
        {
            Reserve(0);
            return _reserved;
        }
    }

    /// <summary>Address past all generated code.</summary>
    public static byte* RangeEnd => RangeStart + Reservation;

    /// <summary>Bytes.</summary>
    public int Size { get; }

    /// <summary>The writable view.</summary>
    public byte* Write { get; }

    /// <summary>The executable view.</summary>
    public byte* Execute { get; }

    /// <summary>Distance from the writable to the executable view.</summary>
    public nint Delta => (nint)(Execute - Write);

    /// <summary>Gives what stands behind an address back to the host: nobody executes it any more, and it reads as zeros until it is written again.</summary>
    public void Release(byte* from)
    {
        const int adviseRemove = 9; // MADV_REMOVE
        nint first = (nint)(from - Execute + 0xFFF) & ~0xFFF;
        _ = madvise(Write + first, (nuint)(Size - first), adviseRemove); // if the host refuses, it stays
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        munmap(Write, (nuint)Size);
        mmap(Execute, (nuint)Size, 0, 0x4032, -1, 0);
        lock (Gate)
        {
            Free.Add(((nint)Execute, Rounded((nuint)Size)));
        }
    }

    private static nuint Rounded(nuint size) => (size + 0xFFFF) & ~(nuint)0xFFFF;

    private static byte* Reserve(nuint size)
    {
        lock (Gate)
        {
            if (_reserved == null)
            {
                _reserved = (byte*)mmap(null, Reservation, 0, 0x4022, -1, 0);
                if (_reserved == (byte*)-1)
                {
                    throw new IOException("cannot reserve address space for generated code; raise the limit on virtual memory (ulimit -v)");
                }
            }
            size = Rounded(size);
            int known = size == 0 ? -1 : Free.FindIndex(f => f.Size == size);
            if (known >= 0)
            {
                byte* again = (byte*)Free[known].Place;
                Free.RemoveAt(known);
                return again;
            }
            byte* place = _reserved + _next;
            _next += size;
            return _next <= Reservation ? place : throw new IOException("the address space for generated code is used up");
        }
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int memfd_create(string name, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ftruncate(int fd, long length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial void* mmap(void* address, nuint length, int protection, int flags, int fd, long offset);

    [LibraryImport("libc")]
    private static partial int madvise(void* address, nuint length, int advice);

    [LibraryImport("libc")]
    private static partial int munmap(void* address, nuint length);

    [LibraryImport("libc")]
    private static partial int close(int fd);
}
