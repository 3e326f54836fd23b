using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Host;

/// <summary>System calls that .NET has no face for.</summary>
internal static unsafe partial class HostSystemCalls
{
    private const int ReadOnlyDirectoryCloseOnExec = 0x10000 | 0x80000; // O_RDONLY | O_DIRECTORY | O_CLOEXEC
    private const int CurrentFolder = -100; // AT_FDCWD
    private const uint RenameExchange = 2;
    private const int LockExclusive = 2, LockShared = 1, LockNonBlocking = 4, Unlock = 8;
    private const int SetDescriptorFlags = 2, CloseOnExec = 1; // F_SETFD, FD_CLOEXEC
    private const int ReadWriteCreateCloseOnExec = 0x2 | 0x40 | 0x80000, ReadOnlyCloseOnExec = 0x80000;
    private const int ErrorNoEntry = 2, ErrorInterrupted = 4;
    private const long SystemCallPidfdOpen = 434, SystemCallPidfdSendSignal = 424;

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

    /// <summary>Opens a folder, for paths that begin at it.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static SafeFileHandle OpenFolder(string folder)
    {
        int descriptor = Open(folder, ReadOnlyDirectoryCloseOnExec);
        return descriptor >= 0 ? new SafeFileHandle(descriptor, ownsHandle: true) : throw new IOException($"'{folder}' cannot be opened: {Marshal.GetLastPInvokeErrorMessage()}");
    }

    /// <summary>flock(2) without waiting.</summary>
    /// <returns>Whether the lock was got.</returns>
    public static bool TryLock(SafeHandle handle, bool exclusive) => Flock((int)handle.DangerousGetHandle(), (exclusive ? LockExclusive : LockShared) | LockNonBlocking) == 0;

    /// <summary>Opens a file for its locks, to read, or to write when it may be made: .NET's own open takes one by itself and fails where it is not free.</summary>
    /// <returns>The file, or null when there is none and <paramref name="create"/> is false.</returns>
    /// <exception cref="IOException">The host refuses.</exception>
    public static SafeFileHandle? OpenUnlocked(string path, bool create)
    {
        int descriptor = Open(path, create ? ReadWriteCreateCloseOnExec : ReadOnlyCloseOnExec, 0b110_100_100);
        return descriptor >= 0 ? new SafeFileHandle(descriptor, ownsHandle: true)
            : !create && Marshal.GetLastPInvokeError() == ErrorNoEntry ? null
            : throw new IOException($"'{path}' cannot be opened: {Marshal.GetLastPInvokeErrorMessage()}");
    }

    /// <summary>Opens a file to which all writes go at its end, making it for its owner when it is not there.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static SafeFileHandle OpenForAppending(string path)
    {
        const int writeCreateAppendCloseOnExec = 0x1 | 0x40 | 0x400 | 0x80000;
        int descriptor = Open(path, writeCreateAppendCloseOnExec, 0b110_000_000);
        return descriptor >= 0 ? new SafeFileHandle(descriptor, ownsHandle: true) : throw new IOException($"'{path}' cannot be opened: {Marshal.GetLastPInvokeErrorMessage()}");
    }

    /// <summary>Another descriptor of the same open file, with a number that no program expects to be something else.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static SafeFileHandle DuplicateHigh(SafeHandle handle)
    {
        const int duplicateCloseOnExec = 1030, least = 10; // F_DUPFD_CLOEXEC
        int descriptor = Fcntl((int)handle.DangerousGetHandle(), duplicateCloseOnExec, least);
        return descriptor >= 0 ? new SafeFileHandle(descriptor, ownsHandle: true) : throw new IOException("no more descriptors");
    }

    /// <summary>Gives a file, or what a symbolic link itself is, to a user and its group.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static void GiveTo(string path, uint user)
    {
        if (ChangeOwner(path, user, user) != 0)
        {
            throw new IOException($"'{path}' cannot be given to user {user}: {Marshal.GetLastPInvokeErrorMessage()}");
        }
    }

    /// <summary>
    /// flock(2), waiting. With <paramref name="inherited"/> programs that are started meanwhile hold the lock too, so that it is free only when they
    /// have ended, even if this process is killed.
    /// </summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static void Lock(SafeHandle handle, bool inherited)
    {
        int descriptor = (int)handle.DangerousGetHandle();
        while (Flock(descriptor, LockExclusive) != 0)
        {
            if (Marshal.GetLastPInvokeError() != ErrorInterrupted)
            {
                throw new IOException($"no lock: {Marshal.GetLastPInvokeErrorMessage()}");
            }
        }
        if (inherited)
        {
            _ = Fcntl(descriptor, SetDescriptorFlags, 0);
        }
    }

    /// <summary>Gives a lock back, also for programs that have inherited it.</summary>
    public static void Release(SafeHandle handle)
    {
        int descriptor = (int)handle.DangerousGetHandle();
        _ = Fcntl(descriptor, SetDescriptorFlags, CloseOnExec);
        _ = Flock(descriptor, Unlock);
    }

    /// <summary>Sends a signal to a process for which <paramref name="isIt"/> holds after its identity is pinned (pidfd_open(2)), so that no other that got its number meets it.</summary>
    /// <returns>Whether it was sent.</returns>
    public static bool Signal(int process, int signal, Func<bool> isIt)
    {
        int descriptor = (int)SystemCall(SystemCallPidfdOpen, process, 0, 0, 0);
        if (descriptor < 0)
        {
            return false;
        }
        bool sent = isIt() && SystemCall(SystemCallPidfdSendSignal, descriptor, signal, 0, 0) == 0;
        _ = Close(descriptor);
        return sent;
    }

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

    /// <summary>linkat(2) of an open file.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static void Link(SafeHandle existing, string path)
    {
        const int followLinks = 0x400; // AT_SYMLINK_FOLLOW
        string name = $"/proc/self/fd/{existing.DangerousGetHandle()}";
        if (HardLink(CurrentFolder, name, CurrentFolder, path, followLinks) != 0)
        {
            throw new IOException($"'{path}' cannot be linked to a file that is open: {Marshal.GetLastPInvokeErrorMessage()}");
        }
    }

    [LibraryImport("libc", EntryPoint = "linkat", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int HardLink(int oneFolder, string one, int otherFolder, string other, int flags);

    [LibraryImport("libc", EntryPoint = "link", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int HardLink(string existing, string path);

    [LibraryImport("libc", EntryPoint = "renameat2", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int Rename(int oneFolder, string one, int otherFolder, string other, uint flags);

    [LibraryImport("libc", EntryPoint = "open", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int Open(string path, int flags, int mode = 0);

    [LibraryImport("libc", EntryPoint = "lchown", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int ChangeOwner(string path, uint user, uint group);

    [LibraryImport("libc", EntryPoint = "fsync")]
    private static partial int Fsync(int fd);

    [LibraryImport("libc", EntryPoint = "close")]
    private static partial int Close(int fd);

    [LibraryImport("libc", EntryPoint = "fcntl")]
    private static partial int Fcntl(int fd, int command, int argument);

    [LibraryImport("libc", EntryPoint = "syscall")]
    private static partial long SystemCall(long number, nint first, nint second, nint third, nint fourth);

    [LibraryImport("libc", EntryPoint = "flock", SetLastError = true)]
    private static partial int Flock(int fd, int operation);
}
