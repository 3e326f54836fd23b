using System.CommandLine;
using System.Net;
using System.Net.Sockets;
using Lodge.Cli.Image;
using Lodge.Management.Networks;
using Lodge.Network.Packets;

namespace Lodge.Cli.Network;

/// <summary>The verb <c>network create</c>.</summary>
internal static class CreateCommand
{
    private const string None = "none";

    private const string Manual = """

        Machines find each other by name: NAME or NAME.DOMAIN, the name being that of 'lodge run --name'. A machine uses the addresses that
        the network gives it and no others; what it sends with another MAC or IP address is dropped.

        Examples:
          sudo lodge network create lab
          sudo lodge network create lab --subnet 10.9.0.0/24 --subnet6 none --domain lab.internal
          sudo lodge network create lab --lease 52:54:00:00:00:07=10.9.0.7,db --lease 52:54:00:00:00:07=fd00:9::7
          sudo lodge network create closed --kind isolated
          sudo lodge network create wire --kind isolated --no-dhcp --mtu 9000
          sudo lodge network create office --kind bridge --bridge br0 --vlan 30

        """;

    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> name = new("NAME") { Description = "Name of the network" };
        Option<string> kind = new("--kind") { Description = "nat, isolated or bridge [default: nat]", HelpName = "KIND" };
        Option<string?> subnet = new("--subnet") { Description = "IPv4 subnet, or none [default: a free one of 10.64.0.0/10]", HelpName = "SUBNET" };
        Option<string?> subnet6 = new("--subnet6") { Description = "IPv6 subnet, or none [default: a unique local one]", HelpName = "SUBNET" };
        Option<string?> bridge = new("--bridge") { Description = "Kind bridge: the bridge that exists; else the name of its own [default: lodge-NAME]", HelpName = "BR" };
        Option<int> vlan = new("--vlan") { Description = "Kind bridge: 802.1Q tag of the machines' frames on the bridge (1 to 4094)", HelpName = "TAG" };
        Option<int> mtu = new("--mtu") { Description = "MTU [default: 1500, or that of the bridge]", HelpName = "BYTES" };
        Option<string?> domain = new("--domain") { Description = $"Domain of the machines' names [default: {NetworkDefinition.DefaultDomain}]", HelpName = "DOMAIN" };
        Option<bool> isolate = new("--isolate-machines") { Description = "Keep the machines on it from each other" };
        Option<bool> noDhcp = new("--no-dhcp") { Description = "Kind isolated: no addresses, no names, no host on it" };
        Option<string[]> leases = new("--lease") { Description = "An address and name that one machine always gets; repeatable", HelpName = "MAC=IP[,NAME]" };
        Command command = new("create", "Make a network and bring it up") { name, kind, subnet, subnet6, bridge, vlan, mtu, domain, isolate, noDhcp, leases };
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed =>
        {
            string? v4 = parsed.GetValue(subnet), v6 = parsed.GetValue(subnet6);
            (NetworkDefinition network, IReadOnlyList<string> notes) = NetworkStore.OfHost().Create(new NetworkRequest
            {
                Name = parsed.GetValue(name)!,
                Kind = ParseKind(parsed.GetValue(kind)),
                Subnet = ParseSubnet("--subnet", v4, isV6: false),
                WithoutV4 = v4 == None,
                Subnet6 = ParseSubnet("--subnet6", v6, isV6: true),
                WithoutV6 = v6 == None,
                Bridge = parsed.GetValue(bridge),
                Vlan = parsed.GetResult(vlan) is { } given && parsed.GetValue(vlan) == 0 && given.Tokens.Count != 0 ? throw new LodgeException("VLAN 0 is not possible; it is 1 to 4094", ExitStatus.Usage) : parsed.GetValue(vlan),
                Mtu = parsed.GetValue(mtu),
                Domain = parsed.GetValue(domain),
                IsolateMachines = parsed.GetValue(isolate),
                WithoutDhcp = parsed.GetValue(noDhcp),
                Leases = [.. (parsed.GetValue(leases) ?? []).Select(ParseLease)],
            });
            NetworkCommand.Tell(notes);
            return NetworkCommand.Print($"{network.Name}\n");
        });
        return command;
    }

    /// <summary>Parses <c>MAC=IP[,NAME]</c>.</summary>
    /// <exception cref="LodgeException">It is not that.</exception>
    public static StaticLease ParseLease(string text)
    {
        string[] sides = text.Split('=', 2);
        string[] words = sides.Length == 2 ? sides[1].Split(',', 2) : [];
        if (words.Length == 0 || !MacAddress.TryParse(sides[0], out MacAddress mac) || !IpSubnet.TryParseAddress(words[0], out IPAddress? address) || (words.Length == 2 && words[1].Length == 0))
        {
            throw new LodgeException($"'{text}' is not a lease; write it as 52:54:00:00:00:07=10.9.0.7 or 52:54:00:00:00:07=10.9.0.7,db", ExitStatus.Usage);
        }
        bool isV6 = address.AddressFamily == AddressFamily.InterNetworkV6;
        return new StaticLease { Mac = mac, Address = isV6 ? null : address, Address6 = isV6 ? address : null, Name = words.Length == 2 ? words[1].ToLowerInvariant() : null };
    }

    private static NetworkKind ParseKind(string? text) => text switch
    {
        null or "nat" => NetworkKind.Nat,
        "bridge" => NetworkKind.Bridge,
        "isolated" => NetworkKind.Isolated,
        _ => throw new LodgeException($"'{text}' is not a kind of network; take nat, isolated or bridge", ExitStatus.Usage),
    };

    private static IpSubnet? ParseSubnet(string option, string? text, bool isV6) =>
        text is null or None ? null
        : IpSubnet.TryParse(text, out IpSubnet? subnet) && subnet.IsV6 == isV6 ? subnet
        : throw new LodgeException($"{option} '{text}' is not possible; write it as {(isV6 ? "fd00:9::/64" : "10.9.0.0/24")} or none", ExitStatus.Usage);
}
