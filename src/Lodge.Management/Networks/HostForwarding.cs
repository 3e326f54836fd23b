namespace Lodge.Management.Networks;

/// <summary>Whether the host passes packets on between its interfaces (Documentation/networking/ip-sysctl.rst).</summary>
internal static class HostForwarding
{
    private const string V4 = "/proc/sys/net/ipv4/ip_forward", V6Folder = "/proc/sys/net/ipv6/conf";

    /// <summary>Whether the host has IPv6.</summary>
    public static bool HasV6 => Directory.Exists(V6Folder);

    /// <summary>Switches forwarding on where a network needs it. It stays on, since others may have come to rely on it.</summary>
    /// <returns>What was switched, for people.</returns>
    /// <exception cref="ManagementException">The host refuses.</exception>
    public static IReadOnlyList<string> Ensure(NetworkDefinition network)
    {
        List<string> switched = [];
        if (network.Kind != NetworkKind.Nat)
        {
            return switched;
        }
        try
        {
            if (network.Subnet is not null && Read(V4) == "0")
            {
                File.WriteAllText(V4, "1");
                switched.Add("IPv4 forwarding of the host is now on (net.ipv4.ip_forward)");
            }
            string all = $"{V6Folder}/all/forwarding";
            if (network.Subnet6 is not null && Read(all) == "0")
            {
                // A router ignores router advertisements unless told otherwise: the host would lose its own default route.
                foreach (string folder in Directory.EnumerateDirectories(V6Folder).Where(folder => Path.GetFileName(folder) != network.Bridge && Read($"{folder}/accept_ra") == "1"))
                {
                    File.WriteAllText($"{folder}/accept_ra", "2");
                }
                File.WriteAllText(all, "1");
                switched.Add("IPv6 forwarding of the host is now on (net.ipv6.conf.all.forwarding)");
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ManagementException($"forwarding cannot be switched on: {e.Message}", e);
        }
        return switched;
    }

    private static string Read(string file)
    {
        try
        {
            return File.ReadAllText(file).Trim();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return "";
        }
    }
}
