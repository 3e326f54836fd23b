using System.Buffers.Binary;
using Lodge.Network.Packets;

namespace Lodge.Network.Filters;

/// <summary>
/// Knows which addresses a machine has, and tells frames that pretend to be somebody else's. It learns from what comes to the machine: addresses from DHCP servers'
/// answers to its own questions, prefixes and routers from router advertisements of the link.
/// </summary>
internal sealed class AddressGuard(FilterOptions options, TimeProvider time)
{
    private const int MostLeases = 4, MostPrefixes = 8, MostRouters = 8, MostTransactions = 4;
    private const ushort DhcpV6ServerPort = 547, DhcpV6ClientPort = 546;
    private const byte IgmpQuery = 0x11;
    private const IpProtocol Igmp = (IpProtocol)2;

    private static readonly IpPrefix LinkLocal = IpPrefix.Ipv6(new UInt128(0xFE80_0000_0000_0000, 0), 10);
    private static readonly IpPrefix LinkMulticast = IpPrefix.Ipv6(new UInt128(0xFF02_0000_0000_0000, 0), 16);
    private static readonly IpPrefix Multicast = IpPrefix.Ipv6(new UInt128(0xFF00_0000_0000_0000, 0), 8);
    private static readonly IpPrefix Mapped = IpPrefix.Ipv6(new UInt128(0, 0xFFFF_0000_0000), 96);
    private static readonly UInt128 DhcpV6Servers = new(0xFF02_0000_0000_0000, 0x0001_0002);

    private readonly IpPrefix[] _fixed = [.. options.Addresses];
    private readonly IpPrefix[] _servers = [.. options.DhcpServers];
    private readonly UInt128 _derived = Derive(options.Address);
    private readonly (IpPrefix Prefix, long Expires)[] _leases = new (IpPrefix, long)[MostLeases];
    private readonly (IpPrefix Prefix, long Expires)[] _prefixes = new (IpPrefix, long)[MostPrefixes];
    private readonly UInt128[] _routers = new UInt128[MostRouters];
    private readonly uint[] _knownServers = new uint[MostLeases];
    private readonly uint[] _transactions = new uint[MostTransactions];
    private int _nextLease, _nextPrefix, _nextRouter, _nextTransaction, _transactionCount, _nextServer;

    /// <summary>Addresses and prefixes that were learned and have not expired.</summary>
    public List<IpPrefix> Learned() => [.. _leases.Concat(_prefixes).Where(one => one.Expires > time.GetTimestamp()).Select(one => one.Prefix)];

    /// <summary>Learns an address or prefix as if the network had said it.</summary>
    public void Learn(IpPrefix prefix, TimeSpan lifetime)
    {
        if (prefix.IsIpv4)
        {
            Learn(_leases, ref _nextLease, prefix, lifetime.TotalSeconds);
        }
        else
        {
            Learn(_prefixes, ref _nextPrefix, prefix, lifetime.TotalSeconds);
        }
    }

    /// <summary>Whether a frame of the machine is what it pretends to be.</summary>
    public bool IsGenuine(ReadOnlySpan<byte> frame, in FrameLayout layout)
    {
        if (layout.Ethernet.Source != options.Address)
        {
            return false;
        }
        return layout.Network switch
        {
            NetworkProtocol.Arp => IsGenuine(layout.Arp),
            NetworkProtocol.Ipv4 => IsGenuineIpv4(frame, layout),
            NetworkProtocol.Ipv6 => IsGenuineIpv6(frame, layout),
            NetworkProtocol.Other => true,
            _ => false,
        };
    }

    /// <summary>Notes the number of a question to DHCP servers.</summary>
    public void ObserveSent(ReadOnlySpan<byte> frame, in FrameLayout layout)
    {
        if (TryReadDhcp(frame, layout, out var udp, out var message) && udp.DestinationPort == DhcpMessage.ServerPort && !message.IsReply && !IsAsked(message.Transaction))
        {
            _transactions[_nextTransaction] = message.Transaction;
            _nextTransaction = (_nextTransaction + 1) % MostTransactions;
            _transactionCount = Math.Min(_transactionCount + 1, MostTransactions);
        }
    }

    /// <summary>Learns from a frame for the machine.</summary>
    public void ObserveReceived(ReadOnlySpan<byte> frame, in FrameLayout layout)
    {
        if (layout.IsFragment)
        {
            return;
        }
        if (layout.Network == NetworkProtocol.Ipv4 && layout.Protocol == IpProtocol.Udp)
        {
            ObserveLease(frame, layout);
        }
        else if (layout.Network == NetworkProtocol.Ipv6 && layout.Protocol == IpProtocol.IcmpV6)
        {
            ObserveRouter(frame, layout);
        }
    }

    /// <summary>
    /// Whether a packet is the link's own matter, without which the machine has no addresses or neighbors and which no router passes on: rules are not asked. DHCP with servers
    /// of the link, neighbor discovery and multicast groups of the link.
    /// </summary>
    public bool IsOfLink(ReadOnlySpan<byte> frame, in FrameLayout layout, in PacketFlow flow)
    {
        if (layout.IsFragment)
        {
            return false;
        }
        var key = flow.Key;
        if (flow.Protocol == IpProtocol.Udp && flow.IsIpv4)
        {
            if ((key.LocalPort, key.RemotePort) != (DhcpMessage.ClientPort, DhcpMessage.ServerPort) || !TryReadDhcp(frame, layout, out _, out var message))
            {
                return false;
            }
            return flow.IsOut
                ? !message.IsReply && (layout.Ipv4.Destination == uint.MaxValue || Array.IndexOf(_knownServers, layout.Ipv4.Destination) >= 0)
                : IsAnswer(message);
        }
        if (flow.Protocol == IpProtocol.Udp)
        {
            return (key.LocalPort, key.RemotePort) == (DhcpV6ClientPort, DhcpV6ServerPort)
                && (flow.IsOut ? key.Remote == DhcpV6Servers : LinkLocal.Contains(key.Remote, false));
        }
        if (flow.Protocol != IpProtocol.IcmpV6 || flow.IsIpv4)
        {
            return false;
        }
        switch ((IcmpV6Type)flow.IcmpType)
        {
            case IcmpV6Type.RouterSolicitation or IcmpV6Type.RouterAdvertisement or IcmpV6Type.NeighborSolicitation or IcmpV6Type.NeighborAdvertisement:
                // A packet that comes with 255 has passed no router; one that goes with 255 might pass some.
                return layout.Ipv6.HopLimit == 255 && (!flow.IsOut || LinkMulticast.Contains(key.Remote, false) || IsOnLink(key.Remote));
            case IcmpV6Type.ListenerQuery or IcmpV6Type.ListenerReport or IcmpV6Type.ListenerDone or IcmpV6Type.ListenerReport2:
                return LinkMulticast.Contains(layout.Ipv6.Destination, false);
            default:
                return false;
        }
    }

    private static UInt128 Derive(MacAddress mac) => new(0xFE80_0000_0000_0000,
        (((mac.Value >> 24) ^ 0x02_0000) << 40) | 0xFF_FE00_0000UL | (mac.Value & 0xFF_FFFF));

    private static bool TryReadDhcp(ReadOnlySpan<byte> frame, in FrameLayout layout, out UdpHeader udp, out DhcpMessage message)
    {
        udp = default;
        message = default;
        if (layout.Network != NetworkProtocol.Ipv4 || layout.Protocol != IpProtocol.Udp || layout.IsFragment)
        {
            return false;
        }
        var datagram = frame[layout.TransportOffset..layout.End];
        return UdpHeader.TryParse(datagram, out udp) && udp.DatagramLength <= datagram.Length && DhcpMessage.TryParse(datagram[UdpHeader.Length..udp.DatagramLength], out message);
    }

    private bool IsGenuine(in ArpPacket arp) => arp.SenderMac == options.Address && arp.Operation is ArpPacket.Request or ArpPacket.Reply
        && (arp.SenderAddress == 0
            ? arp.Operation == ArpPacket.Request && IsOwn(IpPrefix.FromIpv4(arp.TargetAddress), true) // a probe makes whoever probes the same address give it up
            : IsOwn(IpPrefix.FromIpv4(arp.SenderAddress), true));

    private bool IsGenuineIpv4(ReadOnlySpan<byte> frame, in FrameLayout layout)
    {
        var header = layout.Ipv4;
        if (header.HasSourceRoute)
        {
            return false;
        }
        bool isOwn = IsOwn(IpPrefix.FromIpv4(header.Source), true);
        if (header.FragmentOffset != 0)
        {
            return isOwn;
        }
        var transport = frame[layout.TransportOffset..layout.End];
        switch (header.Protocol)
        {
            case IpProtocol.Udp:
                if (!UdpHeader.TryParse(transport, out var udp) || udp.SourcePort == DhcpMessage.ServerPort)
                {
                    return false;
                }
                if (udp.DestinationPort != DhcpMessage.ServerPort)
                {
                    return isOwn;
                }
                // A server gives addresses away by what the message says, so that it must be true as well.
                return TryReadDhcp(frame, layout, out _, out var message) && !message.IsReply && message.Client == options.Address && message.RelayAddress == 0
                    && (isOwn || (header.Source == 0 && header.Destination == uint.MaxValue && udp.SourcePort == DhcpMessage.ClientPort));
            case IpProtocol.Icmp:
                return isOwn && IcmpHeader.TryParse(transport, out var icmp) && (IcmpType)icmp.Type is not (IcmpType.Redirect or IcmpType.RouterAdvertisement);
            case Igmp:
                return isOwn && transport.Length > 0 && transport[0] != IgmpQuery;
            default:
                return isOwn;
        }
    }

    private bool IsGenuineIpv6(ReadOnlySpan<byte> frame, in FrameLayout layout)
    {
        var header = layout.Ipv6;
        if (header.HasSourceRoute)
        {
            return false;
        }
        bool isOwn = IsOwn(header.Source, false);
        if (header.FragmentOffset != 0)
        {
            return isOwn;
        }
        var transport = frame[layout.TransportOffset..layout.End];
        switch (header.Protocol)
        {
            case IpProtocol.Udp:
                return isOwn && UdpHeader.TryParse(transport, out var udp) && udp.SourcePort != DhcpV6ServerPort;
            case IpProtocol.IcmpV6:
                return IcmpHeader.TryParse(transport, out var icmp) && IsGenuine((IcmpV6Type)icmp.Type, transport, header, isOwn);
            default:
                return isOwn;
        }
    }

    private bool IsGenuine(IcmpV6Type type, ReadOnlySpan<byte> message, in Ipv6Header header, bool isOwn)
    {
        bool isUnspecified = header.Source == UInt128.Zero;
        switch (type)
        {
            case IcmpV6Type.RouterAdvertisement or IcmpV6Type.Redirect or IcmpV6Type.ListenerQuery:
                return false;
            case IcmpV6Type.RouterSolicitation or IcmpV6Type.NeighborSolicitation or IcmpV6Type.NeighborAdvertisement:
                // Neighbor discovery in fragments is forbidden (RFC 6980), and is how filters were passed by.
                if (header.HasFragmentHeader || header.HopLimit != 255 || message[1] != 0
                    || !NeighborMessage.TryParse(message, out var neighbor) || !neighbor.IsAllFrom(options.Address))
                {
                    return false;
                }
                return type switch
                {
                    IcmpV6Type.NeighborAdvertisement => isOwn && IsOwn(neighbor.Target, false),
                    _ => isOwn || (isUnspecified && !neighbor.Has(NeighborMessage.SourceLinkLayerAddress)
                        && (type == IcmpV6Type.RouterSolicitation || IsOwn(neighbor.Target, false))),
                };
            case IcmpV6Type.ListenerReport or IcmpV6Type.ListenerDone or IcmpV6Type.ListenerReport2:
                return isOwn || (isUnspecified && LinkMulticast.Contains(header.Destination, false));
            default:
                return isOwn;
        }
    }

    /// <summary>Whether the machine has the address.</summary>
    private bool IsOwn(UInt128 address, bool isIpv4)
    {
        if (isIpv4)
        {
            return IsInRange(address, true);
        }
        if (address == UInt128.Zero || Multicast.Contains(address, false) || Mapped.Contains(address, false) || Array.IndexOf(_routers, address) >= 0)
        {
            return false;
        }
        return IsInRange(address, false) || (LinkLocal.Contains(address, false) && (options.AllowsAnyLinkLocal || address == _derived));
    }

    private bool IsOnLink(UInt128 address) => LinkLocal.Contains(address, false) || IsInRange(address, false);

    private bool IsInRange(UInt128 address, bool isIpv4)
    {
        foreach (ref readonly var prefix in _fixed.AsSpan())
        {
            if (prefix.Contains(address, isIpv4))
            {
                return true;
            }
        }
        long now = time.GetTimestamp();
        foreach (ref readonly var one in (isIpv4 ? _leases : _prefixes).AsSpan())
        {
            if (one.Expires > now && one.Prefix.Contains(address, isIpv4))
            {
                return true;
            }
        }
        return false;
    }

    private bool IsAsked(uint transaction) => _transactions.AsSpan(0, _transactionCount).Contains(transaction);

    private bool IsAnswer(in DhcpMessage message) => message.IsReply && message.Client == options.Address && IsAsked(message.Transaction);

    private void ObserveLease(ReadOnlySpan<byte> frame, in FrameLayout layout)
    {
        if (!TryReadDhcp(frame, layout, out var udp, out var message) || (udp.SourcePort, udp.DestinationPort) != (DhcpMessage.ServerPort, DhcpMessage.ClientPort)
            || !IsAnswer(message) || message.MessageType != DhcpMessage.Acknowledge || !IsBelieved(layout.Ipv4.Source))
        {
            return;
        }
        if (Array.IndexOf(_knownServers, layout.Ipv4.Source) < 0)
        {
            _knownServers[_nextServer] = layout.Ipv4.Source;
            _nextServer = (_nextServer + 1) % _knownServers.Length;
        }
        uint address = message.YourAddress;
        bool isOfStation = address >> 24 is not (0 or 127) && address < 0xE000_0000 && address != message.Server && address != message.Router && address != layout.Ipv4.Source;
        if (options.LearnsAddresses && isOfStation)
        {
            const int grace = 60;
            Learn(_leases, ref _nextLease, IpPrefix.Ipv4(address), Math.Max(message.LeaseSeconds, grace) + (double)grace);
        }
    }

    private bool IsBelieved(uint server)
    {
        foreach (ref readonly var prefix in _servers.AsSpan())
        {
            if (prefix.Contains(IpPrefix.FromIpv4(server), true))
            {
                return true;
            }
        }
        return _servers.Length == 0;
    }

    private void ObserveRouter(ReadOnlySpan<byte> frame, in FrameLayout layout)
    {
        const int shortest = 48;
        var header = layout.Ipv6;
        if (header.HopLimit != 255 || !LinkLocal.Contains(header.Source, false) || layout.Ethernet.Source == options.Address
            || !NeighborMessage.TryParse(frame[layout.TransportOffset..layout.End], out var message) || message.Type != IcmpV6Type.RouterAdvertisement)
        {
            return;
        }
        if (Array.IndexOf(_routers, header.Source) < 0)
        {
            _routers[_nextRouter] = header.Source;
            _nextRouter = (_nextRouter + 1) % MostRouters;
        }
        for (var rest = message.Options; options.LearnsAddresses && !rest.IsEmpty; rest = rest[(rest[1] * 8)..])
        {
            if (rest[0] == NeighborMessage.PrefixInformation && rest[1] == 4 && rest[2] is >= shortest and <= 128)
            {
                var prefix = IpPrefix.Ipv6(BinaryPrimitives.ReadUInt128BigEndian(rest[16..]), rest[2]);
                if (!LinkLocal.Contains(prefix.Address, false) && !Multicast.Contains(prefix.Address, false))
                {
                    Learn(_prefixes, ref _nextPrefix, prefix, BinaryPrimitives.ReadUInt32BigEndian(rest[4..]));
                }
            }
        }
    }

    private void Learn((IpPrefix Prefix, long Expires)[] known, ref int next, IpPrefix prefix, double seconds)
    {
        long expires = time.GetTimestamp() + (long)(Math.Min(seconds, uint.MaxValue) * time.TimestampFrequency);
        for (int i = 0; i < known.Length; i++)
        {
            if (known[i].Expires != 0 && known[i].Prefix == prefix)
            {
                known[i].Expires = expires;
                return;
            }
        }
        known[next] = (prefix, expires);
        next = (next + 1) % known.Length;
    }
}
