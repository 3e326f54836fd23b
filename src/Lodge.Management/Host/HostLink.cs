using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Host;

/// <summary>Hard links.</summary>
public static class HostLink
{
    /// <summary>Gives the file <paramref name="existing"/> the second name <paramref name="path"/>, on the same file system.</summary>
    /// <exception cref="IOException">The host refuses, for example because the two are on different file systems.</exception>
    public static void Create(string existing, string path) => HostSystemCalls.Link(existing, path);

    /// <summary>Gives an open file the further name <paramref name="path"/>, on the same file system: it is that file, whatever has its old name by now.</summary>
    /// <exception cref="IOException">The host refuses, for example because the file has no name any more.</exception>
    public static void Create(SafeFileHandle existing, string path) => HostSystemCalls.Link(existing, path);
}
