using System.Runtime.InteropServices;

namespace Lodge.Engine.Memory.Code;

/// <summary>Places machine code where it can be executed: in a memory file that is written by its descriptor, so that no address is both writable and executable.</summary>
internal static unsafe partial class HostCode
{
    private static readonly Lock s_gate = new();
    private static nint s_fork, s_pager;

    /// <summary><c>int64 fork(int socket)</c> of fork.s.</summary>
    /// <exception cref="IOException">The host forbids it.</exception>
    public static delegate* unmanaged<int, long> Fork => (delegate* unmanaged<int, long>)Place(ref s_fork, ForkCode.Bytes);

    /// <summary><c>int64 page_in(PagerBlock*)</c> of pager.s.</summary>
    /// <exception cref="IOException">The host forbids it.</exception>
    public static delegate* unmanaged<PagerBlock*, long> PageIn => (delegate* unmanaged<PagerBlock*, long>)Place(ref s_pager, PagerCode.Bytes);

    private static nint Place(ref nint place, ReadOnlySpan<byte> code)
    {
        lock (s_gate)
        {
            if (place != 0)
            {
                return place;
            }
            const int readExecute = 5, mapPrivate = 2;
            int file = memfd_create("lodge-code", 1);
            try
            {
                nint written;
                fixed (byte* bytes = code)
                {
                    written = file < 0 ? -1 : pwrite(file, bytes, (nuint)code.Length, 0);
                }
                void* mapped = written == code.Length ? mmap(null, (nuint)code.Length, readExecute, mapPrivate, file, 0) : (void*)-1;
                if (mapped == (void*)-1)
                {
                    throw new IOException($"cannot map executable memory: error {Marshal.GetLastPInvokeError()}; the host may forbid it (SELinux execmem, noexec)");
                }
                return place = (nint)mapped;
            }
            finally
            {
                if (file >= 0)
                {
                    close(file);
                }
            }
        }
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int memfd_create(string name, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint pwrite(int fd, byte* data, nuint length, long offset);

    [LibraryImport("libc", SetLastError = true)]
    private static partial void* mmap(void* address, nuint length, int protection, int flags, int fd, long offset);

    [LibraryImport("libc")]
    private static partial int close(int fd);
}
