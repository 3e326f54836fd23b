using System.Buffers.Binary;
using Lodge.Network.Packets;

namespace Lodge.Machine.Devices.Virtio.Network;

/// <summary>Receive modes (virtio 1.2, 5.1.6.5.1); the bit number is that of the command in VIRTIO_NET_CTRL_RX.</summary>
[Flags]
internal enum ReceiveModes : byte
{
    None = 0,
    Promiscuous = 1 << 0,
    AllMulticast = 1 << 1,
    AllUnicast = 1 << 2,
    NoMulticast = 1 << 3,
    NoUnicast = 1 << 4,
    NoBroadcast = 1 << 5,
    All = (1 << 6) - 1,
}

/// <summary>A bounded set of addresses; when the driver lists more, it stands for all.</summary>
internal sealed class AddressTable
{
    /// <summary>Addresses that fit.</summary>
    public const int Capacity = 128;

    private readonly ulong[] _addresses = new ulong[Capacity];

    /// <summary>Addresses in the table.</summary>
    public int Count { get; private set; }

    /// <summary>There were more than fit: every address passes.</summary>
    public bool Overflowed { get; set; }

    public void Clear() => (Count, Overflowed) = (0, false);

    public void Add(MacAddress address)
    {
        if (Count == Capacity)
        {
            Overflowed = true;
            return;
        }
        _addresses[Count++] = address.Value;
    }

    public bool Contains(MacAddress address) => Overflowed || _addresses.AsSpan(0, Count).Contains(address.Value);

    public byte[] Save()
    {
        byte[] bytes = new byte[Count * MacAddress.Length];
        for (int i = 0; i < Count; i++)
        {
            new MacAddress(_addresses[i]).Write(bytes.AsSpan(i * MacAddress.Length));
        }
        return bytes;
    }

    public void Restore(ReadOnlySpan<byte> bytes, bool overflowed)
    {
        Clear();
        for (; bytes.Length >= MacAddress.Length; bytes = bytes[MacAddress.Length..])
        {
            Add(MacAddress.Read(bytes));
        }
        Overflowed = overflowed;
    }
}

/// <summary>
/// Which frames the driver wants (virtio 1.2, 5.1.6.5.1 to 5.1.6.5.3). Until it says otherwise everything passes, as a driver without
/// VIRTIO_NET_F_CTRL_RX has no way to ask for what it needs.
/// </summary>
internal sealed class ReceiveFilter
{
    /// <summary>VLAN identifiers: 12 bits.</summary>
    public const int Vlans = 4096;

    private const ushort TypeVlan = 0x8100;
    private readonly ulong[] _vlans = new ulong[Vlans / 64];

    /// <summary>The card's address.</summary>
    public MacAddress Mac { get; set; }

    /// <summary>Modes that are on.</summary>
    public ReceiveModes Modes { get; set; }

    /// <summary>Further addresses of stations.</summary>
    public AddressTable Unicast { get; } = new();

    /// <summary>Addresses of groups.</summary>
    public AddressTable Multicast { get; } = new();

    /// <summary>Whether only the VLANs of the table pass (VIRTIO_NET_F_CTRL_VLAN).</summary>
    public bool FiltersVlans { get; set; }

    /// <summary>The VLAN table, a bit for each identifier.</summary>
    public ReadOnlySpan<ulong> VlanTable => _vlans;

    /// <summary>Back to the state after reset.</summary>
    public void Reset(MacAddress mac)
    {
        Mac = mac;
        Modes = ReceiveModes.Promiscuous;
        Unicast.Clear();
        Multicast.Clear();
        FiltersVlans = false;
        Array.Clear(_vlans);
    }

    /// <summary>Adds or removes a VLAN.</summary>
    public void SetVlan(ushort vlan, bool wanted)
    {
        ulong bit = 1UL << (vlan % 64);
        _vlans[vlan / 64] = wanted ? _vlans[vlan / 64] | bit : _vlans[vlan / 64] & ~bit;
    }

    /// <summary>Takes a saved VLAN table.</summary>
    public void RestoreVlans(ReadOnlySpan<ulong> table) => table.CopyTo(_vlans);

    /// <summary>Whether the driver wants a frame of at least an Ethernet header.</summary>
    public bool Accepts(ReadOnlySpan<byte> frame)
    {
        if ((Modes & ReceiveModes.Promiscuous) != 0)
        {
            return true;
        }
        if (FiltersVlans && frame.Length >= 16 && BinaryPrimitives.ReadUInt16BigEndian(frame[12..]) == TypeVlan)
        {
            int vlan = BinaryPrimitives.ReadUInt16BigEndian(frame[14..]) & (Vlans - 1);
            // Identifier 0 means a priority without a VLAN (IEEE 802.1Q).
            if (vlan != 0 && (_vlans[vlan / 64] & (1UL << (vlan % 64))) == 0)
            {
                return false;
            }
        }
        MacAddress destination = MacAddress.Read(frame);
        if (destination == MacAddress.Broadcast)
        {
            return (Modes & ReceiveModes.NoBroadcast) == 0;
        }
        if (destination.IsMulticast)
        {
            return (Modes & ReceiveModes.NoMulticast) == 0 && ((Modes & ReceiveModes.AllMulticast) != 0 || Multicast.Contains(destination));
        }
        return (Modes & ReceiveModes.NoUnicast) == 0
            && ((Modes & ReceiveModes.AllUnicast) != 0 || destination == Mac || Unicast.Contains(destination));
    }
}
