namespace Lodge.Management.Host;

/// <summary>Hard links.</summary>
public static class HostLink
{
    /// <summary>Gives the file <paramref name="existing"/> the second name <paramref name="path"/>, on the same file system.</summary>
    /// <exception cref="IOException">The host refuses, for example because the two are on different file systems.</exception>
    public static void Create(string existing, string path) => HostSystemCalls.Link(existing, path);
}
