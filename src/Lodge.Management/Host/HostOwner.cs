using System.Runtime.InteropServices;

namespace Lodge.Management.Host;

/// <summary>Whose a file is, which .NET does not tell.</summary>
public static unsafe partial class HostOwner
{
    /// <summary>The user whose a file or folder is; null when it is not there.</summary>
    public static uint? Of(string path)
    {
        Status status;
        return statx(-100, path, 0x100, 0x8, &status) == 0 ? status.User : null; // AT_FDCWD, AT_SYMLINK_NOFOLLOW, STATX_UID
    }

    /// <summary>Gives a folder with all that is in it to a user. Files with further names elsewhere stay whose they are.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static void Give(string folder, uint user)
    {
        foreach (string inner in Directory.EnumerateDirectories(folder))
        {
            if (new DirectoryInfo(inner).LinkTarget is null)
            {
                Give(inner, user);
            }
        }
        foreach (string file in Directory.EnumerateFiles(folder))
        {
            Status status;
            if (statx(-100, file, 0x100, 0xC, &status) == 0 && status.Links == 1 && status.User != user)
            {
                HostSystemCalls.GiveTo(file, user);
            }
        }
        HostSystemCalls.GiveTo(folder + "/.", user); // the folder, also where its path ends in a link as /proc/self/fd/N is
    }

    /// <summary>Opens a folder, to be used as <c>/proc/self/fd/N</c> wherever its path leads.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public static Microsoft.Win32.SafeHandles.SafeFileHandle OpenFolder(string path) => HostSystemCalls.OpenFolder(path);

    /// <summary>The beginning of struct statx, and room for the rest.</summary>
    [StructLayout(LayoutKind.Sequential, Size = 256)]
    private struct Status
    {
        public uint Mask;
        public uint BlockSize;
        public ulong Attributes;
        public uint Links;
        public uint User;
        public uint Group;
    }

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int statx(int folder, string path, int flags, uint mask, Status* status);
}
