using System.Net;
using Lodge.Network;
using Lodge.Network.Packets;
using Lodge.Network.Taps;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Networks;

public sealed partial class NetworkStore
{
    private const string TapPattern = "lodgetap%d";

    /// <summary>
    /// Plugs a machine of this process into a network, which is brought up if it is not; the network <c>default</c> is made if there is none.
    /// </summary>
    /// <param name="name">The network.</param>
    /// <param name="mac">MAC address of the card.</param>
    /// <param name="machine">Name of the machine, under which others on the network find it.</param>
    /// <exception cref="ManagementException">There is no such network, another machine on it has the MAC address, or the host refuses.</exception>
    /// <exception cref="NetworkException">The host has no taps.</exception>
    /// <param name="process">Process that has, or will have, the machine; null: this one.</param>
    public NetworkAttachment Attach(string name, MacAddress mac, string machine, int? process = null)
    {
        RequireRoot();
        using StoreLock held = Enter();
        List<string> notes = [];
        NetworkFolder one = FolderOf(name);
        if (name == NetworkName.Default && one.Read() is null or { Removing: true } && !Directory.Exists(one.Path))
        {
            notes.AddRange(CreateLocked(new NetworkRequest { Name = name }).Notes);
        }
        NetworkDefinition network = Get(name).Network;
        if (!network.Started)
        {
            network = network with { Started = true };
            one.Write(network);
        }
        List<AttachedMachine> machines = one.ReadMachines(clean: true);
        if (mac.IsMulticast || mac == network.BridgeMac || machines.Any(other => other.Mac == mac))
        {
            throw new ManagementException($"MAC address {mac} is not possible on network '{name}': it is {(mac.IsMulticast ? "a group's" : "that of another")}");
        }
        HostInterfaces host = HostInterfaces.Read();
        BridgeDevice.Ensure(network, host);
        int vlanInFrames = network.Vlan != 0 && host.Find(network.Bridge) is not { FiltersVlans: true } ? network.Vlan : 0;
        (IPAddress? v4, IPAddress? v6) = NetworkAddresses.Assign(network, one, mac, machines, DateTimeOffset.Now);
        string? dns = network.Leases.FirstOrDefault(lease => lease.Mac == mac)?.Name ?? NetworkName.Dns(machine);
        if (machines.Any(other => other.DnsName == dns) || network.Leases.Any(lease => lease.Mac != mac && lease.Name == dns))
        {
            notes.Add($"another machine on network '{name}' has the name {dns}; this one is found by its address only");
            dns = null;
        }
        TapLink link = TapLink.Create(TapPattern, network.Mtu != 0 ? network.Mtu : host.Find(network.Bridge)?.Mtu ?? 0, vlanInFrames);
        SafeFileHandle? machineLock = null;
        try
        {
            AttachedMachine record = new()
            {
                Process = process ?? Environment.ProcessId,
                Machine = machine,
                DnsName = network.Dhcp ? dns : null,
                Mac = mac,
                Tap = link.Name,
                Address = v4,
                Address6 = v6,
                Since = DateTimeOffset.Now,
            };
            machineLock = one.WriteMachine(record);
            notes.AddRange(Ensure(network, one));
            BridgeDevice.Plug(network.Bridge, link.Name, machine, network.IsolateMachines, vlanInFrames == 0 ? network.Vlan : 0);
            return new NetworkAttachment(link, record, network, machineLock, () => Leave(one, record)) { Notes = notes };
        }
        catch
        {
            link.Dispose();
            machineLock?.Dispose();
            throw;
        }
    }

    /// <summary>Plugs a machine of this process into a bridge that the host's administrator keeps, without a network of a name.</summary>
    /// <param name="bridge">The bridge.</param>
    /// <param name="mac">MAC address of the card.</param>
    /// <param name="machine">Name of the machine.</param>
    /// <param name="vlan">802.1Q tag that its frames have on the bridge; 0: none.</param>
    /// <exception cref="ManagementException">There is no such bridge, or the host refuses.</exception>
    /// <exception cref="NetworkException">The host has no taps, or this user may not make one.</exception>
    public static NetworkAttachment AttachToBridge(string bridge, MacAddress mac, string machine, int vlan = 0)
    {
        RequireRoot();
        IpLink found = BridgeDevice.CheckIsBridge(bridge, HostInterfaces.Read().Find(bridge));
        TapLink link = TapLink.Create(TapPattern, found.Mtu, found.FiltersVlans ? 0 : vlan);
        try
        {
            BridgeDevice.Plug(bridge, link.Name, machine, isolated: false, found.FiltersVlans ? vlan : 0);
            return new NetworkAttachment(link, new AttachedMachine { Process = Environment.ProcessId, Machine = machine, Mac = mac, Tap = link.Name, Since = DateTimeOffset.Now }, null, null, null);
        }
        catch
        {
            link.Dispose();
            throw;
        }
    }

    /// <summary>Notes the process of the machine of a card that was put on its network before there was one.</summary>
    public void SetProcess(NetworkAttachment attachment, int process)
    {
        using StoreLock held = Enter();
        NetworkFolder.Rewrite(attachment.Lock!, attachment.Machine with { Process = process });
    }

    /// <summary>Removes what the host has for cards that are off a network whose processes could not do it.</summary>
    /// <param name="name">The network; one that there is not is no mistake.</param>
    /// <exception cref="ManagementException">The host refuses.</exception>
    public void Tidy(string name)
    {
        using StoreLock held = Enter();
        NetworkFolder one = FolderOf(name);
        if (one.Read() is { Removing: false, Started: true } network)
        {
            List<AttachedMachine> rest = one.ReadMachines(clean: true);
            NetworkRules.LoadPorts(network, rest);
            new DhcpServer(network, one).Ensure(rest);
        }
    }

    /// <summary>Removes what the host has for a card that is off the network.</summary>
    private void Leave(NetworkFolder one, AttachedMachine machine)
    {
        try
        {
            using StoreLock held = Enter();
            one.DeleteMachine(machine.Tap);
            if (one.Read() is { Removing: false, Started: true } network)
            {
                List<AttachedMachine> rest = one.ReadMachines(clean: true);
                NetworkRules.LoadPorts(network, rest);
                new DhcpServer(network, one).Ensure(rest);
            }
        }
        catch (Exception e) when (e is ManagementException or IOException or UnauthorizedAccessException)
        {
            // The machine is off in any case; the next command puts the rest right.
        }
    }
}
