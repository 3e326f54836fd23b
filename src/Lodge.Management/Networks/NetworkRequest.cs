using System.Net;
using Lodge.Network.Packets;

namespace Lodge.Management.Networks;

/// <summary>What is asked of a new network; what is left open is chosen.</summary>
public sealed record NetworkRequest
{
    private const int LeastMtu = 576, LeastMtuV6 = 1280, MostMtu = 65521;

    /// <summary>Its name.</summary>
    public required string Name { get; init; }

    /// <summary>Its kind.</summary>
    public NetworkKind Kind { get; init; }

    /// <summary>The bridge: of kind <see cref="NetworkKind.Bridge"/> one that exists, else the name for its own.</summary>
    public string? Bridge { get; init; }

    /// <summary>IPv4 subnet; null: a free one.</summary>
    public IpSubnet? Subnet { get; init; }

    /// <summary>Without IPv4.</summary>
    public bool WithoutV4 { get; init; }

    /// <summary>IPv6 subnet; null: a new unique local one, where the host has IPv6.</summary>
    public IpSubnet? Subnet6 { get; init; }

    /// <summary>Without IPv6.</summary>
    public bool WithoutV6 { get; init; }

    /// <summary>Without addresses and names from the host: an isolated network then has no host on it at all.</summary>
    public bool WithoutDhcp { get; init; }

    /// <summary>Domain of the machines' names; null: the usual one.</summary>
    public string? Domain { get; init; }

    /// <summary>MTU; 0: the usual one.</summary>
    public int Mtu { get; init; }

    /// <summary>802.1Q tag; 0: none.</summary>
    public int Vlan { get; init; }

    /// <summary>Whether machines are kept from each other.</summary>
    public bool IsolateMachines { get; init; }

    /// <summary>Addresses that machines always get.</summary>
    public IReadOnlyList<StaticLease> Leases { get; init; } = [];

    /// <summary>Checks the request against the host and the other networks and completes it.</summary>
    /// <exception cref="ManagementException">It cannot be met.</exception>
    internal NetworkDefinition Plan(string folder, HostInterfaces host, IReadOnlyCollection<NetworkDefinition> others, DateTimeOffset now)
    {
        string bridge = Bridge ?? (Kind == NetworkKind.Bridge ? throw new ManagementException("which bridge? A network of kind bridge takes one that exists: --bridge BR") : NetworkName.Bridge(Name));
        CheckCommon(bridge);
        NetworkDefinition plain = new()
        {
            Name = Name,
            Kind = Kind,
            Bridge = bridge,
            Mtu = Mtu,
            Vlan = Vlan,
            IsolateMachines = IsolateMachines,
            Domain = Domain ?? NetworkDefinition.DefaultDomain,
            Created = now,
            Started = true,
        };
        if (Kind == NetworkKind.Bridge)
        {
            if (Subnet is not null || Subnet6 is not null || Domain is not null || Leases.Count != 0)
            {
                throw new ManagementException("on an existing bridge addresses and names come from its own network; --subnet, --subnet6, --domain and --lease are for kinds nat and isolated");
            }
            BridgeDevice.CheckIsBridge(bridge, host.Find(bridge));
            return plain;
        }
        if (Vlan != 0)
        {
            throw new ManagementException("a VLAN tag makes sense on an existing bridge that leads somewhere; give --kind bridge --bridge BR");
        }
        if (host.Find(bridge) is not null || others.Any(other => other.Bridge == bridge))
        {
            throw new ManagementException($"the interface {bridge} exists; choose another name for the network's bridge with --bridge");
        }
        if (WithoutDhcp && Kind == NetworkKind.Nat)
        {
            throw new ManagementException("machines on a nat network get their addresses from it; --no-dhcp is for kind isolated");
        }
        if (WithoutDhcp)
        {
            return Subnet is null && Subnet6 is null && Leases.Count == 0
                ? plain with { BridgeMac = NetworkName.BridgeMac(folder, Name) }
                : throw new ManagementException("with --no-dhcp the network gives no addresses; leave --subnet, --subnet6 and --lease away");
        }
        NetworkDefinition network = plain with
        {
            BridgeMac = NetworkName.BridgeMac(folder, Name),
            Dhcp = true,
            Subnet = WithoutV4 ? null : Choose(Subnet, host, others, used => SubnetChooser.ChooseV4(Name, used)),
            Subnet6 = WithoutV6 || (Subnet6 is null && !HostForwarding.HasV6) ? null : Choose(Subnet6, host, others, SubnetChooser.ChooseV6),
        };
        if (network.Subnet is null && network.Subnet6 is null)
        {
            throw new ManagementException("a network needs an IPv4 or an IPv6 subnet; for one without any addresses give --kind isolated --no-dhcp");
        }
        if (network.Subnet6 is not null && Mtu is not 0 and < LeastMtuV6)
        {
            throw new ManagementException($"MTU {Mtu} is too small for IPv6 ({LeastMtuV6}); give --subnet6 none");
        }
        return network with { Leases = CheckLeases(network) };
    }

    private void CheckCommon(string bridge)
    {
        if (!NetworkName.IsInterface(bridge))
        {
            throw new ManagementException($"'{bridge}' cannot name a bridge; an interface's name has up to 15 letters, digits, '-', '_' or '.'");
        }
        if (Mtu is not 0 and (< LeastMtu or > MostMtu))
        {
            throw new ManagementException($"MTU {Mtu} is not possible; it is {LeastMtu} to {MostMtu}");
        }
        if (Vlan is < 0 or > 4094)
        {
            throw new ManagementException($"VLAN {Vlan} is not possible; it is 1 to 4094");
        }
        if (Domain is not null && !NetworkName.IsDomain(Domain))
        {
            throw new ManagementException($"'{Domain}' is not a domain; write it as lab.internal");
        }
    }

    private static IpSubnet Choose(IpSubnet? wanted, HostInterfaces host, IReadOnlyCollection<NetworkDefinition> others, Func<List<IpSubnet>, IpSubnet> choose)
    {
        List<(IpSubnet Subnet, string User)> used =
        [
            .. others.SelectMany(other => new[] { (other.Subnet, $"network '{other.Name}'"), (other.Subnet6, $"network '{other.Name}'") }).Where(pair => pair.Item1 is not null).Select(pair => (pair.Item1!, pair.Item2)),
            .. host.Subnets(),
        ];
        if (wanted is null)
        {
            return choose([.. used.Select(one => one.Subnet)]);
        }
        SubnetChooser.Check(wanted, used);
        return wanted;
    }

    private List<StaticLease> CheckLeases(NetworkDefinition network)
    {
        List<StaticLease> leases = [];
        foreach (StaticLease lease in Leases)
        {
            foreach (IPAddress address in new[] { lease.Address, lease.Address6 }.OfType<IPAddress>())
            {
                IpSubnet? subnet = address.AddressFamily == System.Net.Sockets.AddressFamily.InterNetworkV6 ? network.Subnet6 : network.Subnet;
                if (subnet is null || subnet.NumberOf(address) < 0 || address.Equals(subnet.Gateway))
                {
                    throw new ManagementException($"{address} cannot be leased: it is not a machine's address in {subnet?.ToString() ?? "the network, which has none of its family"}");
                }
                if (leases.Any(other => address.Equals(other.Address) || address.Equals(other.Address6)))
                {
                    throw new ManagementException($"{address} is leased twice");
                }
            }
            if (lease.Mac.IsMulticast || lease.Mac == network.BridgeMac || lease.Mac == default(MacAddress))
            {
                throw new ManagementException($"{lease.Mac} is not the MAC address of a card");
            }
            if (lease.Name is not null && (NetworkName.Dns(lease.Name) != lease.Name || leases.Any(other => other.Name == lease.Name && other.Mac != lease.Mac)))
            {
                throw new ManagementException($"'{lease.Name}' cannot be a machine's name in DNS: it is a label of small letters, digits and '-', once in a network");
            }
            int same = leases.FindIndex(other => other.Mac == lease.Mac);
            if (same < 0)
            {
                leases.Add(lease);
            }
            else if ((lease.Address is not null && leases[same].Address is not null) || (lease.Address6 is not null && leases[same].Address6 is not null))
            {
                throw new ManagementException($"{lease.Mac} has two addresses of one family");
            }
            else
            {
                leases[same] = leases[same] with { Address = leases[same].Address ?? lease.Address, Address6 = leases[same].Address6 ?? lease.Address6, Name = leases[same].Name ?? lease.Name };
            }
        }
        return leases;
    }
}
