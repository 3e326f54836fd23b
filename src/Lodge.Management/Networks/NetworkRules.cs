using System.Text;
using Lodge.Management.Host;

namespace Lodge.Management.Networks;

/// <summary>
/// The packet filter rules of a network (nft(8)) in tables of its own, <c>inet lodge_NAME</c> and <c>bridge lodge_NAME</c>. Both are computed anew
/// from the network and the machines on it and replaced in one step, so that they are right whatever happened before.
/// </summary>
internal static class NetworkRules
{
    /// <summary>Loads the rules.</summary>
    /// <param name="network">The network.</param>
    /// <param name="machines">The machines on it.</param>
    /// <param name="closeHost">Whether machines of a network with a way out are kept from what they do not need of the host, as those of an isolated one always are.</param>
    /// <exception cref="ManagementException">nft is missing or refuses.</exception>
    public static void Load(NetworkDefinition network, IReadOnlyCollection<AttachedMachine> machines, bool closeHost)
    {
        StringBuilder text = new();
        if (network.HasOwnBridge)
        {
            WriteRouting(network, closeHost, text);
        }
        WritePorts(network, machines, text);
        Load(network, text);
    }

    /// <summary>Loads the rules about the machines' taps; what passes between the network, the host and the world stays as it is.</summary>
    /// <exception cref="ManagementException">nft is missing or refuses.</exception>
    public static void LoadPorts(NetworkDefinition network, IReadOnlyCollection<AttachedMachine> machines)
    {
        StringBuilder text = new();
        WritePorts(network, machines, text);
        Load(network, text);
    }

    private static void Load(NetworkDefinition network, StringBuilder text)
    {
        HostProgram.Require("nft", "nftables");
        if (HostProgram.Feed("nft", ["-f", "-"], text.ToString()) is { Status: not 0 } failed)
        {
            throw new ManagementException($"the packet filter rules of network '{network.Name}' cannot be loaded: nft says: {failed.Error}");
        }
    }

    /// <summary>Removes the rules.</summary>
    /// <exception cref="ManagementException">nft is missing or refuses.</exception>
    public static void Remove(NetworkDefinition network)
    {
        if (!HostProgram.Exists("nft"))
        {
            return; // then there are none
        }
        StringBuilder text = new();
        foreach (string family in new[] { "inet", "bridge" })
        {
            text.AppendLine($"table {family} {Table(network)}").AppendLine($"delete table {family} {Table(network)}");
        }
        if (HostProgram.Feed("nft", ["-f", "-"], text.ToString()) is { Status: not 0 } failed)
        {
            throw new ManagementException($"the packet filter rules of network '{network.Name}' cannot be removed: nft says: {failed.Error}");
        }
    }

    /// <summary>Whether the tables are there.</summary>
    public static bool AreLoaded(NetworkDefinition network)
    {
        string tables = HostProgram.Text("nft", "list", "tables") ?? "";
        string[] lines = tables.Split('\n');
        return lines.Contains($"table bridge {Table(network)}") && (!network.HasOwnBridge || lines.Contains($"table inet {Table(network)}"));
    }

    private static string Table(NetworkDefinition network) => $"lodge_{network.Name}";

    /// <summary>What passes between the network, the host and the world.</summary>
    private static void WriteRouting(NetworkDefinition network, bool closeHost, StringBuilder text)
    {
        string bridge = $"\"{network.Bridge}\"";
        Begin("inet", network, text);
        // With br_netfilter loaded, frames between two machines come by here too.
        text.AppendLine("chain forward {").AppendLine("type filter hook forward priority filter; policy accept;");
        text.AppendLine($"iifname {bridge} oifname {bridge} {(network.IsolateMachines ? "drop" : "accept")}");
        if (network.Kind == NetworkKind.Nat)
        {
            text.AppendLine(network.Subnet is { } v4 ? $"iifname {bridge} ip saddr != {v4} drop" : $"iifname {bridge} meta nfproto ipv4 drop");
            text.AppendLine(network.Subnet6 is { } v6 ? $"iifname {bridge} ip6 saddr != {v6} drop" : $"iifname {bridge} meta nfproto ipv6 drop");
            text.AppendLine($"iifname {bridge} accept");
            text.AppendLine($"oifname {bridge} ct state established,related accept");
            text.AppendLine($"oifname {bridge} ct status dnat accept");
        }
        text.AppendLine($"iifname {bridge} drop").AppendLine($"oifname {bridge} drop").AppendLine("}");
        if (network.Kind == NetworkKind.Nat)
        {
            text.AppendLine("chain postrouting {").AppendLine("type nat hook postrouting priority srcnat; policy accept;");
            if (network.Subnet is { } v4)
            {
                text.AppendLine($"ip saddr {v4} ip daddr != {v4} ip daddr != 224.0.0.0/4 ip daddr != 255.255.255.255 masquerade");
            }
            if (network.Subnet6 is { } v6)
            {
                text.AppendLine($"ip6 saddr {v6} ip6 daddr != {v6} ip6 daddr != ff00::/8 masquerade");
            }
            text.AppendLine("}");
        }
        if (closeHost || network.Kind != NetworkKind.Nat)
        {
            // The host's own services are out of reach too, but those that make the network work. It may itself open connections to machines.
            text.AppendLine("chain input {").AppendLine("type filter hook input priority filter; policy accept;");
            text.AppendLine($"iifname {bridge} ct state established,related accept");
            foreach (string match in Services(network))
            {
                text.AppendLine($"iifname {bridge} {match} accept");
            }
            text.AppendLine($"iifname {bridge} {(network.Kind == NetworkKind.Nat ? "reject with icmpx admin-prohibited" : "drop")}").AppendLine("}");
        }
        text.AppendLine("}");
    }

    /// <summary>The host's services that machines of a network use. Each is one match of the simplest form, which <c>iptables -L</c> can show too.</summary>
    public static IEnumerable<string> Services(NetworkDefinition network)
    {
        if (network.Dhcp)
        {
            yield return "udp dport 67";
            yield return "udp dport 53";
            yield return "tcp dport 53";
            yield return "udp dport 547";
        }
        if (network.Subnet is not null)
        {
            yield return "meta l4proto icmp";
        }
        if (network.Subnet6 is not null)
        {
            yield return "meta l4proto ipv6-icmp";
        }
    }

    /// <summary>What each tap may send: the same as the filter in the machine's process, for the case that a guest breaks out into it.</summary>
    private static void WritePorts(NetworkDefinition network, IReadOnlyCollection<AttachedMachine> machines, StringBuilder text)
    {
        Begin("bridge", network, text);
        Set("ports", "ifname", machines.Select(machine => $"\"{machine.Tap}\""), text);
        Set("macs", "ifname . ether_addr", machines.Select(machine => $"\"{machine.Tap}\" . {machine.Mac}"), text);
        Set("addresses", "ifname . ipv4_addr", machines.Where(machine => machine.Address is not null).Select(machine => $"\"{machine.Tap}\" . {machine.Address}"), text);
        Set("addresses6", "ifname . ipv6_addr", machines.Where(machine => machine.Address6 is not null).Select(machine => $"\"{machine.Tap}\" . {machine.Address6}"), text);
        Set("hosts", "ipv6_addr", network.HasOwnBridge && network.Subnet6 is not null ? [NetworkName.LinkLocal(network.BridgeMac).ToString()] : [], text);
        text.AppendLine("chain machine {").AppendLine("iifname . ether saddr != @macs drop");
        if (network.HasOwnBridge && network.Dhcp)
        {
            text.AppendLine("""
                ether type arp jump machine_arp
                ether type ip jump machine_v4
                ether type ip6 jump machine_v6
                drop
                }
                chain machine_arp {
                iifname . arp saddr ether != @macs drop
                arp saddr ip 0.0.0.0 accept
                iifname . arp saddr ip != @addresses drop
                accept
                }
                chain machine_v4 {
                udp sport 67 drop
                ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
                iifname . ip saddr != @addresses drop
                accept
                }
                chain machine_v6 {
                icmpv6 type { nd-router-advert, nd-redirect } drop
                udp sport 547 drop
                ip6 saddr @hosts drop
                ip6 saddr fe80::/10 accept
                ip6 saddr :: meta l4proto ipv6-icmp accept
                iifname . ip6 saddr != @addresses6 drop
                accept
                """);
        }
        text.AppendLine("}");
        text.AppendLine("chain prerouting {").AppendLine("type filter hook prerouting priority -300; policy accept;").AppendLine("iifname @ports jump machine").AppendLine("}");
        if (network.IsolateMachines)
        {
            text.AppendLine("chain forward {").AppendLine("type filter hook forward priority filter; policy accept;").AppendLine("iifname @ports oifname @ports drop").AppendLine("}");
        }
        text.AppendLine("}");
    }

    private static void Begin(string family, NetworkDefinition network, StringBuilder text) => text
        .AppendLine($"table {family} {Table(network)}")
        .AppendLine($"delete table {family} {Table(network)}")
        .AppendLine($"table {family} {Table(network)} {{");

    private static void Set(string name, string type, IEnumerable<string> elements, StringBuilder text)
    {
        string list = string.Join(", ", elements);
        text.AppendLine($"set {name} {{").AppendLine($"type {type};");
        if (list.Length != 0)
        {
            text.AppendLine($"elements = {{ {list} }}");
        }
        text.AppendLine("}");
    }
}
