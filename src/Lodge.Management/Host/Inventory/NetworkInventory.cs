namespace Lodge.Management.Host.Inventory;

/// <summary>What networks machines can have on this host.</summary>
public sealed record NetworkInventory
{
    /// <summary>Whether machines get user-mode NAT, without root; null: not looked at.</summary>
    public bool? UserMode { get; init; }

    /// <summary>Why not, or null.</summary>
    public string? UserModeProblem { get; init; }

    /// <summary>Whether taps can be made or used (<c>/dev/net/tun</c>).</summary>
    public bool Taps { get; init; }

    /// <summary>Whether this process may make bridges, taps and rules: root.</summary>
    public bool Privileged { get; init; }

    /// <summary>Programs that networks of <c>lodge network</c> need and that are missing.</summary>
    public IReadOnlyList<string> MissingPrograms { get; init; } = [];

    /// <summary>Whether the kernel takes nftables' rules; null: only root can tell.</summary>
    public bool? Rules { get; init; }

    /// <summary>Whether the host forwards IPv4.</summary>
    public bool? Forwarding4 { get; init; }

    /// <summary>Whether the host forwards IPv6.</summary>
    public bool? Forwarding6 { get; init; }

    /// <summary>Bridges of the host.</summary>
    public IReadOnlyList<string> Bridges { get; init; } = [];

    /// <summary>Networks of <c>lodge network</c>.</summary>
    public IReadOnlyList<string> Networks { get; init; } = [];

    /// <summary>Looks at the kernel's side; what needs the programs and the library of user-mode NAT is the caller's to add.</summary>
    /// <param name="hasProgram">Whether a program is installed.</param>
    public static NetworkInventory Read(HostTree tree, Func<string, bool> hasProgram) => new()
    {
        Taps = tree.Exists("dev/net/tun"),
        Privileged = Environment.IsPrivilegedProcess,
        MissingPrograms = [.. ((string[])["ip", "bridge", "nft", "dnsmasq"]).Where(program => !hasProgram(program))],
        Forwarding4 = tree.Switch("proc/sys/net/ipv4/ip_forward"),
        Forwarding6 = tree.Switch("proc/sys/net/ipv6/conf/all/forwarding"),
        Bridges = [.. tree.Names("sys/class/net").Where(name => tree.Exists($"sys/class/net/{name}/bridge"))],
    };
}
