using System.Runtime.InteropServices;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Files;

/// <summary>The host's error numbers (errno.h of Linux) as disk errors.</summary>
internal static class HostErrors
{
    public const int Interrupted = 4;
    public const int NoDeviceOrAddress = 6;
    public const int WouldBlock = 11;
    public const int Invalid = 22;
    public const int NotSupported = 95;
    public const int NoSystemCall = 38;
    public const int NoLocks = 37;
    public const int CrossDevice = 18;
    public const int Exists = 17;
    public const int AccessDenied = 13;
    public const int IsFolder = 21;
    public const int NotImplementedIoctl = 25;

    /// <summary>The exception for an error number.</summary>
    /// <param name="path">The file's name for the message.</param>
    /// <param name="error">The error number.</param>
    /// <param name="doing">What failed, such as "writing 512 bytes at 0"; or null for opening.</param>
    public static DiskException From(string path, int error, string? doing = null)
    {
        var text = Marshal.GetPInvokeErrorMessage(error);
        var (kind, message) = error switch
        {
            2 or 20 => (DiskError.NotFound, $"{path} does not exist"),
            NoDeviceOrAddress or 19 => (DiskError.NotFound, $"{path}: there is no such device"),
            1 or AccessDenied when doing is null => (DiskError.Denied, $"{path} may not be opened: permission denied"),
            1 or AccessDenied => (DiskError.Denied, $"{path}: {doing}: {text}"),
            30 when doing is null => (DiskError.ReadOnly, $"{path} lies on a file system that is mounted for reading only; open it for reading only"),
            30 => (DiskError.ReadOnly, $"{path}: {doing}: the file system is for reading only"),
            Exists => (DiskError.Exists, $"{path} exists"),
            28 => (DiskError.NoSpace, $"{path}: {doing ?? "opening"}: no space is left on the device"),
            122 => (DiskError.NoSpace, $"{path}: {doing ?? "opening"}: the disk quota is used up"),
            27 => (DiskError.NoSpace, $"{path}: {doing ?? "opening"}: the file would be larger than the file system or the limit of the process allows"),
            16 or 26 => (DiskError.InUse, $"{path} is in use: {text}"),
            IsFolder => (DiskError.WrongFormat, $"{path} is a folder, not a disk image"),
            NotSupported => (DiskError.Unsupported, $"{path}: {doing ?? "opening"}: the file system cannot do it"),
            Invalid when doing is not null => (DiskError.InvalidOption, $"{path}: {doing}: {text}"),
            CrossDevice => (DiskError.Denied, $"{path} leads out of its folder by a symbolic link"),
            40 => (DiskError.Denied, $"{path}: too many symbolic links"),
            23 or 24 => (DiskError.InputOutput, $"{path}: too many open files; raise the limit with: ulimit -n"),
            _ => (DiskError.InputOutput, $"{path}: {doing ?? "opening"}: {text}"),
        };
        return new DiskException(kind, message);
    }
}
