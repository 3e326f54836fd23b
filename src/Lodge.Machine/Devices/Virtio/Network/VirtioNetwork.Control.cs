using System.Buffers.Binary;
using Lodge.Machine.Virtio;
using Lodge.Network.Packets;

namespace Lodge.Machine.Devices.Virtio.Network;

/// <content>The control queue (virtio 1.2, 5.1.6.5): class, command, data, and a byte for the answer.</content>
public sealed partial class VirtioNetwork
{
    private bool TakeControl(VirtQueue queue, DescriptorChain chain)
    {
        Span<byte> command = stackalloc byte[2];
        if (chain.WritableLength == 0 || chain.Read(command) != command.Length)
        {
            Reject(queue, chain);
            return false;
        }
        bool done = command[0] switch
        {
            VirtioNetworkRegisters.ControlReceive => SetReceiveMode(command[1], chain),
            VirtioNetworkRegisters.ControlMac when command[1] == VirtioNetworkRegisters.MacTableSet => SetMacTable(chain),
            VirtioNetworkRegisters.ControlMac when command[1] == VirtioNetworkRegisters.MacAddressSet => SetMac(chain),
            VirtioNetworkRegisters.ControlVlan => SetVlan(command[1], chain),
            VirtioNetworkRegisters.ControlAnnounce when command[1] == VirtioNetworkRegisters.AnnounceAcknowledge => AcknowledgeAnnounce(),
            VirtioNetworkRegisters.ControlMultiQueue when command[1] == VirtioNetworkRegisters.PairsSet => SetPairs(chain),
            VirtioNetworkRegisters.ControlGuestOffloads when command[1] == VirtioNetworkRegisters.GuestOffloadsSet => SetGuestOffloads(chain),
            _ => false,
        };
        chain.Write([done ? VirtioNetworkRegisters.Ok : VirtioNetworkRegisters.Error]);
        queue.Complete(chain);
        return true;
    }

    private bool SetReceiveMode(byte command, DescriptorChain chain)
    {
        var mode = (ReceiveModes)(command < 8 ? 1 << command : 0);
        ulong needed = (mode & (ReceiveModes.Promiscuous | ReceiveModes.AllMulticast)) != 0
            ? VirtioNetworkRegisters.FeatureControlReceive
            : VirtioNetworkRegisters.FeatureControlReceiveExtra;
        Span<byte> on = stackalloc byte[1];
        if ((mode & ReceiveModes.All) == 0 || !Has(needed) || chain.Read(on) != on.Length)
        {
            return false;
        }
        _filter.Modes = on[0] != 0 ? _filter.Modes | mode : _filter.Modes & ~mode;
        return true;
    }

    /// <summary>Two lists of addresses, each a le32 count and so many addresses: stations, then groups. Both are replaced, or none when the lists are malformed.</summary>
    private bool SetMacTable(DescriptorChain chain)
    {
        if (!Has(VirtioNetworkRegisters.FeatureControlReceive))
        {
            return false;
        }
        Span<byte> stations = stackalloc byte[AddressTable.Capacity * MacAddress.Length];
        Span<byte> groups = stackalloc byte[AddressTable.Capacity * MacAddress.Length];
        if (!TryReadAddresses(chain, stations, out int stationsLength, out bool stationsOverflow)
            || !TryReadAddresses(chain, groups, out int groupsLength, out bool groupsOverflow))
        {
            return false;
        }
        _filter.Unicast.Restore(stations[..stationsLength], stationsOverflow);
        _filter.Multicast.Restore(groups[..groupsLength], groupsOverflow);
        return true;
    }

    private static bool TryReadAddresses(DescriptorChain chain, Span<byte> addresses, out int length, out bool overflow)
    {
        length = 0;
        overflow = false;
        if (!chain.TryReadUInt32(out uint count) || count > chain.Unread / MacAddress.Length)
        {
            return false;
        }
        overflow = count > AddressTable.Capacity;
        length = (int)Math.Min(count, AddressTable.Capacity) * MacAddress.Length;
        uint total = count * MacAddress.Length;
        return chain.Read(addresses[..length]) == length && chain.Skip(total - (uint)length) == total - (uint)length;
    }

    private bool SetMac(DescriptorChain chain)
    {
        Span<byte> bytes = stackalloc byte[MacAddress.Length];
        if (!Has(VirtioNetworkRegisters.FeatureControlMac) || chain.Read(bytes) != bytes.Length)
        {
            return false;
        }
        MacAddress mac = MacAddress.Read(bytes);
        if (mac.IsMulticast || mac.Value == 0)
        {
            return false;
        }
        lock (Gate)
        {
            _filter.Mac = mac;
        }
        return true;
    }

    private bool SetVlan(byte command, DescriptorChain chain)
    {
        if (!Has(VirtioNetworkRegisters.FeatureControlVlan) || command is not (VirtioNetworkRegisters.VlanAdd or VirtioNetworkRegisters.VlanDelete)
            || !chain.TryReadUInt16(out ushort vlan) || vlan >= ReceiveFilter.Vlans)
        {
            return false;
        }
        _filter.SetVlan(vlan, command == VirtioNetworkRegisters.VlanAdd);
        return true;
    }

    private bool AcknowledgeAnnounce()
    {
        lock (Gate)
        {
            _announce = false;
        }
        return Has(VirtioNetworkRegisters.FeatureGuestAnnounce);
    }

    private bool SetPairs(DescriptorChain chain)
    {
        if (!Has(VirtioNetworkRegisters.FeatureMultiQueue) || !chain.TryReadUInt16(out ushort pairs) || pairs == 0 || pairs > _maximumPairs)
        {
            return false;
        }
        _pairs = pairs;
        for (int pair = 0; pair < pairs; pair++)
        {
            Kick((2 * pair) + 1);
        }
        return true;
    }

    private bool SetGuestOffloads(DescriptorChain chain)
    {
        Span<byte> bytes = stackalloc byte[8];
        if (!Has(VirtioNetworkRegisters.FeatureControlGuestOffloads) || chain.Read(bytes) != bytes.Length)
        {
            return false;
        }
        ulong value = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
        if ((value & ~(DriverFeatures & VirtioNetworkRegisters.GuestOffloads)) != 0
            || !Needs(value, ~VirtioNetworkRegisters.FeatureGuestChecksum, VirtioNetworkRegisters.FeatureGuestChecksum))
        {
            return false;
        }
        SetGuestOffloads(value);
        return true;
    }
}
