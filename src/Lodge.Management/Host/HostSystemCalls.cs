using System.Runtime.InteropServices;

namespace Lodge.Management.Host;

/// <summary>System calls that .NET has no face for.</summary>
internal static partial class HostSystemCalls
{
    private const int ReadOnlyDirectoryCloseOnExec = 0x10000 | 0x80000; // O_RDONLY | O_DIRECTORY | O_CLOEXEC
    private const int CurrentFolder = -100; // AT_FDCWD
    private const uint RenameExchange = 2;
    private const int LockExclusive = 2, LockShared = 1, LockNonBlocking = 4;

    /// <summary>fsync(2) of a folder; file systems that cannot do it are left alone.</summary>
    public static void SyncFolder(string folder)
    {
        int fd = Open(folder, ReadOnlyDirectoryCloseOnExec);
        if (fd >= 0)
        {
            _ = Fsync(fd);
            _ = Close(fd);
        }
    }

    /// <summary>flock(2) without waiting.</summary>
    /// <returns>Whether the lock was got.</returns>
    public static bool TryLock(SafeHandle handle, bool exclusive) => Flock((int)handle.DangerousGetHandle(), (exclusive ? LockExclusive : LockShared) | LockNonBlocking) == 0;

    /// <summary>renameat2(2) with RENAME_EXCHANGE: two paths change places in one step.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static void Exchange(string one, string other)
    {
        if (Rename(CurrentFolder, one, CurrentFolder, other, RenameExchange) != 0)
        {
            throw new IOException($"'{one}' and '{other}' cannot change places: {Marshal.GetLastPInvokeErrorMessage()}");
        }
    }

    /// <summary>link(2).</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static void Link(string existing, string path)
    {
        if (HardLink(existing, path) != 0)
        {
            throw new IOException($"'{path}' cannot be linked to '{existing}': {Marshal.GetLastPInvokeErrorMessage()}");
        }
    }

    [LibraryImport("libc", EntryPoint = "link", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int HardLink(string existing, string path);

    [LibraryImport("libc", EntryPoint = "renameat2", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int Rename(int oneFolder, string one, int otherFolder, string other, uint flags);

    [LibraryImport("libc", EntryPoint = "open", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "fsync")]
    private static partial int Fsync(int fd);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int fd);

    [LibraryImport("libc", EntryPoint = "flock")]
    private static partial int Flock(int fd, int operation);
}
