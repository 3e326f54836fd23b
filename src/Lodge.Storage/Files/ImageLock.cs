using Lodge.Storage.Disks;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Files;

/// <summary>
/// Locks an image against other processes so that QEMU and Lodge respect each other (QEMU's documentation of image locking, docs/interop: open-file-description
/// locks on single bytes). There is a byte for each kind of access: 100 + n is locked, shared, by who uses access n; 200 + n by who does not bear that others
/// use it. Who then finds a lock of somebody else on the counterpart of one of his own gives up.
/// </summary>
internal static class ImageLock
{
    private const int UsedBase = 100;
    private const int UnsharedBase = 200;
    private const int ConsistentRead = 1 << 0;
    private const int Write = 1 << 1;
    private const int Resize = 1 << 3;
    private const int Kinds = 4;
    private static readonly string[] Names = ["consistent read", "write", "write of unchanged data", "resize"];

    /// <summary>Locks the file until its handle is closed.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InUse"/>; then no lock is held.</exception>
    public static void Take(SafeFileHandle file, string path, bool writer, bool forceShare)
    {
        var used = writer ? ConsistentRead | Write | Resize : ConsistentRead;
        var unshared = forceShare ? 0 : Write | Resize;
        for (var kind = 0; kind < Kinds; kind++)
        {
            // Shared locks on a byte never exclude each other, so these two calls fail only where the file system has no such locks (some network and
            // FUSE ones): the image is used without, as by QEMU.
            if (((used >> kind & 1) != 0 && !Lock(file, path, UsedBase + kind)) || ((unshared >> kind & 1) != 0 && !Lock(file, path, UnsharedBase + kind)))
            {
                return;
            }
        }

        for (var kind = 0; kind < Kinds; kind++)
        {
            if ((used >> kind & 1) != 0 && HostSystemCalls.TestLock(file, UnsharedBase + kind) == 1)
            {
                throw Refuse(file, path, $"does not share '{Names[kind]}'");
            }

            if ((unshared >> kind & 1) != 0 && HostSystemCalls.TestLock(file, UsedBase + kind) == 1)
            {
                throw Refuse(file, path, "writes to it");
            }
        }
    }

    /// <summary>Gives all locks up: closing does it only when no child process that is just being started still has a copy of the handle.</summary>
    public static void Release(SafeFileHandle file)
    {
        for (var kind = 0; kind < Kinds; kind++)
        {
            HostSystemCalls.SetLock(file, UsedBase + kind, shared: null);
            HostSystemCalls.SetLock(file, UnsharedBase + kind, shared: null);
        }
    }

    private static bool Lock(SafeFileHandle file, string path, int at)
    {
        var result = HostSystemCalls.SetLock(file, at, shared: true);
        return result >= 0 || (-result is HostErrors.NoLocks or HostErrors.NoSystemCall or HostErrors.Invalid or HostErrors.NotSupported
            ? false
            : throw HostErrors.From(path, -result, "locking"));
    }

    private static DiskException Refuse(SafeFileHandle file, string path, string why)
    {
        var holder = FindHolder(file);
        Release(file);
        return new DiskException(DiskError.InUse, $"{path} is in use by another process{holder} that {why}; end it, or read all the same with --force-share (-U)");
    }

    /// <summary>Looks for a process that has the file open (the lock itself does not tell: its owner is the open file, not a process).</summary>
    private static string FindHolder(SafeFileHandle file)
    {
        try
        {
            var real = System.IO.File.ResolveLinkTarget(HostSystemCalls.PathOf(file), returnFinalTarget: false)?.FullName;
            foreach (var process in Directory.EnumerateDirectories("/proc").Where(folder => char.IsAsciiDigit(folder[6])))
            {
                if (Path.GetFileName(process) == Environment.ProcessId.ToString())
                {
                    continue;
                }

                try
                {
                    if (real is not null && Directory.EnumerateFiles(process + "/fd").Any(link => new FileInfo(link).LinkTarget == real))
                    {
                        return $" ({System.IO.File.ReadAllText(process + "/comm").Trim()}, process {Path.GetFileName(process)})";
                    }
                }
                catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
                {
                    // The process is gone, or another user's.
                }
            }
        }
        catch (Exception failure) when (failure is IOException or UnauthorizedAccessException)
        {
            // No /proc: the message does without the name.
        }

        return "";
    }
}
