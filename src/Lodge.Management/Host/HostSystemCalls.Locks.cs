using System.Runtime.InteropServices;

namespace Lodge.Management.Host;

// Open file description locks (fcntl(2), "Open file description locks"): unlike flock(2) they can be asked about without taking them.
internal static unsafe partial class HostSystemCalls
{
    private const int OwnedGetLock = 36, OwnedSetLock = 37, OwnedSetLockWait = 38; // F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW
    private const short LockTypeWrite = 1, LockTypeNone = 2; // F_WRLCK, F_UNLCK
    private const int ErrorAgain = 11, ErrorAccess = 13;

    /// <summary>Takes the lock of a whole file for this open file, without waiting or with.</summary>
    /// <returns>Whether it was got.</returns>
    /// <exception cref="IOException">The host refuses.</exception>
    public static bool TakeOwnedLock(SafeHandle handle, bool wait)
    {
        FileLock whole = new() { Type = LockTypeWrite };
        while (FcntlLock((int)handle.DangerousGetHandle(), wait ? OwnedSetLockWait : OwnedSetLock, &whole) != 0)
        {
            int error = Marshal.GetLastPInvokeError();
            if (error is ErrorAgain or ErrorAccess && !wait)
            {
                return false;
            }
            if (error != ErrorInterrupted)
            {
                throw new IOException($"no lock: {Marshal.GetLastPInvokeErrorMessage()}");
            }
        }
        return true;
    }

    /// <summary>Whether another open file has the lock of a file. Takes nothing.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static bool IsOwnedLockTaken(SafeHandle handle)
    {
        FileLock whole = new() { Type = LockTypeWrite };
        return FcntlLock((int)handle.DangerousGetHandle(), OwnedGetLock, &whole) == 0
            ? whole.Type != LockTypeNone
            : throw new IOException($"its lock cannot be read: {Marshal.GetLastPInvokeErrorMessage()}");
    }

    /// <summary>struct flock of x86-64 Linux.</summary>
    [StructLayout(LayoutKind.Sequential)]
    private struct FileLock
    {
        public short Type;
        public short Whence;
        public long Start;
        public long Length;
        public int Process;
    }

    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    private static partial int FcntlLock(int fd, int command, FileLock* argument);
}
