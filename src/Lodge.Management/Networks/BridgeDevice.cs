using System.Text;
using Lodge.Management.Host;

namespace Lodge.Management.Networks;

/// <summary>The Linux bridge of a network (ip-link(8), bridge(8)) and the taps on it.</summary>
internal static class BridgeDevice
{
    /// <summary>Makes a network's own bridge, or repairs it, or checks the one of kind <see cref="NetworkKind.Bridge"/>.</summary>
    /// <exception cref="ManagementException">An interface of that name is somebody else's, the bridge does not exist, or the host refuses.</exception>
    public static void Ensure(NetworkDefinition network, HostInterfaces host)
    {
        IpLink? bridge = host.Find(network.Bridge);
        if (!network.HasOwnBridge)
        {
            CheckIsBridge(network.Bridge, bridge);
            return;
        }
        StringBuilder commands = new();
        if (bridge is null)
        {
            IEnumerable<(IpSubnet, string)> used = host.Subnets(network.Bridge);
            foreach (IpSubnet subnet in Subnets(network))
            {
                SubnetChooser.Check(subnet, used);
            }
            string mtu = network.Mtu == 0 ? "" : $" mtu {network.Mtu}";
            commands.AppendLine($"link add name {network.Bridge} address {network.BridgeMac}{mtu} type bridge stp_state 0 forward_delay 0");
        }
        else if (!IsOf(network, bridge))
        {
            throw new ManagementException($"the interface {network.Bridge} exists and is not of network '{network.Name}'; remove it: ip link delete dev {network.Bridge}");
        }
        else if (network.Mtu != 0 && bridge.Mtu != network.Mtu)
        {
            commands.AppendLine($"link set dev {network.Bridge} mtu {network.Mtu}");
        }
        if (bridge is not { IsUp: true } || !HasAddresses(network, bridge))
        {
            commands.AppendLine($"link set dev {network.Bridge} alias lodge-network-{network.Name} addrgenmode {(network.Subnet6 is null ? "none" : "eui64")}");
            foreach (IpSubnet subnet in Subnets(network))
            {
                commands.AppendLine($"address replace {subnet.Gateway}/{subnet.Prefix} {(subnet.IsV6 ? "nodad" : "broadcast +")} dev {network.Bridge}");
            }
            commands.AppendLine($"link set dev {network.Bridge} up");
        }
        if (commands.Length != 0)
        {
            HostInterfaces.Change(commands.ToString(), $"network '{network.Name}' cannot be brought up");
        }
    }

    /// <summary>Removes a network's own bridge.</summary>
    /// <exception cref="ManagementException">The host refuses.</exception>
    public static void Remove(NetworkDefinition network, HostInterfaces host)
    {
        if (network.HasOwnBridge && host.Find(network.Bridge) is { } bridge && IsOf(network, bridge))
        {
            HostInterfaces.Change($"link delete dev {network.Bridge} type bridge\n", $"the bridge of network '{network.Name}' cannot be removed");
        }
    }

    /// <summary>Whether a network's bridge is there and up.</summary>
    public static bool IsUp(NetworkDefinition network, HostInterfaces host) =>
        host.Find(network.Bridge) is { IsBridge: true, IsUp: true } bridge && (!network.HasOwnBridge || (IsOf(network, bridge) && HasAddresses(network, bridge)));

    /// <summary>Puts a tap on a bridge and sets it up.</summary>
    /// <param name="bridge">The bridge.</param>
    /// <param name="tap">The tap.</param>
    /// <param name="machine">The machine, for people who look at the host's interfaces.</param>
    /// <param name="isolated">Whether it is kept from other such ports.</param>
    /// <param name="vlan">On a bridge that filters VLANs: the one of which the tap is an access port; 0: as the bridge has it.</param>
    /// <exception cref="ManagementException">The host refuses.</exception>
    public static void Plug(string bridge, string tap, string machine, bool isolated, int vlan)
    {
        // The host itself does not speak IPv6 on the port.
        HostInterfaces.Change(
            $"link set dev {tap} alias lodge-machine-{NetworkName.Dns(machine) ?? "unnamed"} addrgenmode none\nlink set dev {tap} master {bridge}\n"
                + (isolated ? $"link set dev {tap} type bridge_slave isolated on\n" : ""),
            $"tap {tap} cannot be put on bridge {bridge}");
        if (vlan != 0)
        {
            HostProgram.Require("bridge", "iproute2");
            _ = HostProgram.Run("bridge", ["vlan", "delete", "dev", tap, "vid", "1"]); // the usual default, which may be another
            if (HostProgram.Run("bridge", ["vlan", "add", "dev", tap, "vid", $"{vlan}", "pvid", "untagged"]) is { Status: not 0 } failed)
            {
                throw new ManagementException($"VLAN {vlan} cannot be set for tap {tap}: bridge says: {failed.Error}");
            }
        }
        HostInterfaces.Change($"link set dev {tap} up\n", $"tap {tap} cannot be set up");
    }

    /// <summary>Checks that an interface can be plugged into.</summary>
    /// <exception cref="ManagementException">It cannot.</exception>
    public static IpLink CheckIsBridge(string name, IpLink? bridge) =>
        bridge is null ? throw new ManagementException($"there is no bridge '{name}' on this host; make it with: ip link add {name} type bridge")
        : !bridge.IsBridge ? throw new ManagementException($"the interface '{name}' is not a bridge; a machine can be plugged into a Linux bridge only")
        : bridge;

    private static IEnumerable<IpSubnet> Subnets(NetworkDefinition network) => new[] { network.Subnet, network.Subnet6 }.OfType<IpSubnet>();

    private static bool IsOf(NetworkDefinition network, IpLink bridge) => bridge.IsBridge && bridge.Mac == network.BridgeMac.ToString();

    private static bool HasAddresses(NetworkDefinition network, IpLink bridge) =>
        Subnets(network).All(subnet => bridge.Addresses?.Any(address => address.Local == subnet.Gateway.ToString() && address.Prefix == subnet.Prefix) == true);
}
