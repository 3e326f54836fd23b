using System.Buffers.Binary;
using Lodge.Network.Packets;

namespace Lodge.Network.Filters;

/// <summary>Names a connection: the same for packets of both directions.</summary>
internal readonly record struct FlowKey(UInt128 Local, UInt128 Remote, ushort LocalPort, ushort RemotePort, IpProtocol Protocol);

/// <summary>What rules and connections look at of an IPv4 or IPv6 packet that is whole or a first fragment.</summary>
internal readonly struct PacketFlow
{
    /// <summary>The connection; an echo's identifier is the local port.</summary>
    public FlowKey Key { get; private init; }

    public bool IsOut { get; private init; }

    public bool IsIpv4 { get; private init; }

    /// <summary>It asks for a new connection: only rules decide.</summary>
    public bool Opens { get; private init; }

    /// <summary>It can belong to a connection.</summary>
    public bool IsTracked { get; private init; }

    /// <summary>It is an ICMP error about a packet inside.</summary>
    public bool IsError { get; private init; }

    public TcpFlags Flags { get; private init; }

    public byte IcmpType { get; private init; }

    public IpProtocol Protocol => Key.Protocol;

    /// <summary>Reads a packet; false when the transport's header is not all there or malformed.</summary>
    public static bool TryRead(ReadOnlySpan<byte> frame, in FrameLayout layout, bool isOut, out PacketFlow flow)
    {
        flow = default;
        var transport = frame[layout.TransportOffset..layout.End];
        var protocol = layout.Protocol;
        bool isIpv4 = layout.Network == NetworkProtocol.Ipv4;
        ushort source = 0, destination = 0;
        var flags = TcpFlags.None;
        bool opens = false, isTracked = true, isError = false;
        byte icmpType = 0;
        switch (protocol)
        {
            case IpProtocol.Tcp:
                if (!TcpHeader.TryParse(transport, out var tcp))
                {
                    return false;
                }
                (source, destination, flags) = (tcp.SourcePort, tcp.DestinationPort, tcp.Flags);
                opens = (flags & (TcpFlags.Syn | TcpFlags.Ack)) == TcpFlags.Syn;
                break;
            case IpProtocol.Udp:
                if (!UdpHeader.TryParse(transport, out var udp) || (!layout.IsFragment && udp.DatagramLength > transport.Length))
                {
                    return false;
                }
                (source, destination) = (udp.SourcePort, udp.DestinationPort);
                break;
            case IpProtocol.Icmp or IpProtocol.IcmpV6:
                if (!IcmpHeader.TryParse(transport, out var icmp))
                {
                    return false;
                }
                icmpType = icmp.Type;
                bool isRequest, isReply;
                if (protocol == IpProtocol.Icmp)
                {
                    (isRequest, isReply) = (icmpType == (byte)Packets.IcmpType.Echo, icmpType == (byte)Packets.IcmpType.EchoReply);
                    isError = isIpv4 && (Packets.IcmpType)icmpType is Packets.IcmpType.Unreachable or Packets.IcmpType.SourceQuench or Packets.IcmpType.TimeExceeded
                        or Packets.IcmpType.ParameterProblem;
                }
                else
                {
                    (isRequest, isReply) = (icmpType == (byte)IcmpV6Type.Echo, icmpType == (byte)IcmpV6Type.EchoReply);
                    isError = !isIpv4 && icmpType is >= (byte)IcmpV6Type.Unreachable and <= (byte)IcmpV6Type.ParameterProblem;
                }
                opens = isRequest;
                isTracked = isRequest || isReply;
                (source, destination) = isTracked ? (icmp.Identifier, icmp.Identifier) : (source, destination);
                break;
        }
        UInt128 from = isIpv4 ? IpPrefix.FromIpv4(layout.Ipv4.Source) : layout.Ipv6.Source;
        UInt128 to = isIpv4 ? IpPrefix.FromIpv4(layout.Ipv4.Destination) : layout.Ipv6.Destination;
        flow = new()
        {
            Key = isOut ? new(from, to, source, destination, protocol) : new(to, from, destination, source, protocol),
            IsOut = isOut,
            IsIpv4 = isIpv4,
            Opens = opens,
            IsTracked = isTracked,
            IsError = isError,
            Flags = flags,
            IcmpType = icmpType,
        };
        return true;
    }

    /// <summary>The connection of the packet inside of an ICMP error, of which only the start need be there; false when it is not told or not one of this packet's machine.</summary>
    public bool TryReadInner(ReadOnlySpan<byte> frame, in FrameLayout layout, out FlowKey key)
    {
        key = default;
        var packet = frame[layout.TransportOffset..layout.End][IcmpHeader.Length..];
        UInt128 from, to;
        IpProtocol protocol;
        if (IsIpv4)
        {
            if (packet.Length < Ipv4Header.MinimumLength || packet[0] >> 4 != 4 || (BinaryPrimitives.ReadUInt16BigEndian(packet[6..]) & 0x1FFF) != 0)
            {
                return false;
            }
            int header = (packet[0] & 15) * 4;
            if (header < Ipv4Header.MinimumLength || packet.Length < header + 8)
            {
                return false;
            }
            from = IpPrefix.FromIpv4(BinaryPrimitives.ReadUInt32BigEndian(packet[12..]));
            to = IpPrefix.FromIpv4(BinaryPrimitives.ReadUInt32BigEndian(packet[16..]));
            protocol = (IpProtocol)packet[9];
            packet = packet[header..];
        }
        else
        {
            if (packet.Length < Ipv6Header.MinimumLength + 8 || packet[0] >> 4 != 6)
            {
                return false;
            }
            from = BinaryPrimitives.ReadUInt128BigEndian(packet[8..]);
            to = BinaryPrimitives.ReadUInt128BigEndian(packet[24..]);
            protocol = (IpProtocol)packet[6];
            packet = packet[Ipv6Header.MinimumLength..];
        }
        // An error towards the machine is about a packet from it, and the other way round.
        if ((IsOut ? to : from) != Key.Local)
        {
            return false;
        }
        ushort source = 0, destination = 0;
        switch (protocol)
        {
            case IpProtocol.Tcp or IpProtocol.Udp:
                source = BinaryPrimitives.ReadUInt16BigEndian(packet);
                destination = BinaryPrimitives.ReadUInt16BigEndian(packet[2..]);
                break;
            case IpProtocol.Icmp or IpProtocol.IcmpV6:
                source = destination = BinaryPrimitives.ReadUInt16BigEndian(packet[4..]);
                break;
        }
        key = IsOut ? new(to, from, destination, source, protocol) : new(from, to, source, destination, protocol);
        return true;
    }
}
