namespace Lodge.Network.User;

/// <summary>
/// User-mode networking: the guest's connections become connections of this process, through libslirp, without privileges. The guest has a DHCP server, a name server and a gateway
/// (<see cref="UserNetworkOptions"/>).
/// </summary>
public static class UserNetwork
{
    /// <summary>Debian's package that it needs.</summary>
    public const string Package = SlirpLibrary.Package;

    /// <summary>Why it cannot be had here, in one line that names the package; null when it can.</summary>
    public static string? Problem
    {
        get
        {
            _ = SlirpLibrary.TryLoad(out string? problem);
            return problem;
        }
    }

    /// <summary>Whether the library's file seems to be there, at the places where distributions have it: a guess that costs nothing. <see cref="Problem"/> tells for certain.</summary>
    public static bool IsLikely => SlirpLibrary.Places.Any(File.Exists);

    /// <summary>Opens one with its own thread; ports are published when it returns.</summary>
    /// <exception cref="NetworkException">The library is missing, the options are not possible, or a port cannot be published.</exception>
    public static UserLink Open(UserNetworkOptions options)
    {
        options.Check();
        return SlirpLibrary.TryLoad(out string? problem) is { } library ? new UserLink(library, options) : throw new NetworkException(problem!);
    }
}
