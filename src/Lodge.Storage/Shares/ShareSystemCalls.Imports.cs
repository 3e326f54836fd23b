using System.Runtime.InteropServices;

namespace Lodge.Storage.Shares;

/// <content>The functions of libc.</content>
internal static unsafe partial class ShareSystemCalls
{
    [LibraryImport("libc", SetLastError = true)]
    private static partial int openat(int folder, byte* path, int flags, uint mode);

    [LibraryImport("libc")]
    private static partial int close(int descriptor);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int statx(int folder, byte* path, int flags, uint mask, ShareStatus* status);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int mkdirat(int folder, byte* path, uint mode);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int mknodat(int folder, byte* path, uint mode, ulong device);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int symlinkat(byte* target, int folder, byte* path);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int linkat(int fromFolder, byte* from, int toFolder, byte* to, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int unlinkat(int folder, byte* path, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int renameat2(int fromFolder, byte* from, int toFolder, byte* to, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint readlinkat(int folder, byte* path, byte* buffer, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fchmodat(int folder, byte* path, uint mode, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fchownat(int folder, byte* path, uint user, uint group, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int utimensat(int folder, byte* path, long* times, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ftruncate(int descriptor, long length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fsync(int descriptor);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fdatasync(int descriptor);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int syncfs(int descriptor);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fallocate(int descriptor, int mode, long offset, long length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial long lseek(int descriptor, long offset, int whence);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint copy_file_range(int from, long* fromOffset, int to, long* toOffset, nuint length, uint flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fstatfs(int descriptor, long* numbers);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint getxattr(byte* path, byte* name, byte* value, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint listxattr(byte* path, byte* names, nuint length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int setxattr(byte* path, byte* name, byte* value, nuint length, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int removexattr(byte* path, byte* name);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint preadv2(int descriptor, Piece* pieces, int count, long offset, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint pwritev2(int descriptor, Piece* pieces, int count, long offset, int flags);

    [LibraryImport("libc")]
    private static partial uint geteuid();

    [LibraryImport("libc")]
    private static partial uint getegid();

    [LibraryImport("libc")]
    private static partial int getrlimit(int resource, ulong* limit);

    [LibraryImport("libc")]
    private static partial int setrlimit(int resource, ulong* limit);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint syscall(nint number, nint first, nint second, nint third, nint fourth);
}
