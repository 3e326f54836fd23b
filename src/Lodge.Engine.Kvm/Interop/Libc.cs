using System.Runtime.InteropServices;

namespace Lodge.Engine.Kvm.Interop;

/// <summary>The C library's calls that this room makes.</summary>
internal static unsafe partial class Libc
{
    /// <summary>Error numbers of Linux on x86-64 (errno(3)).</summary>
    public const int ENOENT = 2, EINTR = 4, ENXIO = 6, E2BIG = 7, EAGAIN = 11, EACCES = 13, EFAULT = 14, EBUSY = 16, EEXIST = 17, ENODEV = 19, EINVAL = 22, ENOTTY = 25, EPERM = 1, ENOMEM = 12;

    /// <summary>open(2) and mmap(2) flags.</summary>
    public const int O_RDWR = 2, O_CLOEXEC = 0x80000, PROT_READ = 1, PROT_WRITE = 2, MAP_SHARED = 1, MAP_PRIVATE = 2, MAP_ANONYMOUS = 0x20;

    /// <summary>eventfd(2) flags.</summary>
    public const int EFD_CLOEXEC = 0x80000, EFD_NONBLOCK = 0x800;

    /// <summary>What mmap returns on failure.</summary>
    public static readonly void* MAP_FAILED = (void*)-1;

    /// <summary>
    /// Address of ioctl, for calls without a marshalling stub: blittable, with a GC transition (KVM_RUN blocks). errno is kept across the transition by the
    /// runtime and is read with <see cref="Marshal.GetLastSystemError"/>.
    /// </summary>
    public static readonly delegate* unmanaged<int, nuint, nuint, int> Ioctl =
        (delegate* unmanaged<int, nuint, nuint, int>)NativeLibrary.GetExport(NativeLibrary.Load("libc.so.6"), "ioctl");

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    public static partial int ioctl(int fd, nuint request, nuint argument);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    public static partial int ioctl(int fd, nuint request, void* argument);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int open(string path, int flags);

    [LibraryImport("libc")]
    public static partial int close(int fd);

    [LibraryImport("libc", SetLastError = true)]
    public static partial void* mmap(void* address, nuint length, int protection, int flags, int fd, long offset);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int mprotect(void* address, nuint length, int protection);

    [LibraryImport("libc")]
    public static partial int munmap(void* address, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int eventfd(uint initial, int flags);

    [LibraryImport("libc")]
    public static partial int gettid();

    [LibraryImport("libc")]
    public static partial int getpid();

    [LibraryImport("libc", SetLastError = true)]
    public static partial int tgkill(int process, int thread, int signal);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int sigaction(int signal, byte* action, byte* old);

    /// <summary>Sets are of 128 bytes. Returns the error number.</summary>
    [LibraryImport("libc")]
    public static partial int pthread_sigmask(int how, byte* set, byte* old);
}
