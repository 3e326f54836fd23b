using Lodge.Network.Packets;
using Lodge.Network.Tests.Harness;
using Xunit;

namespace Lodge.Network.Tests.Packets;

public class FrameLayoutTests
{
    private const string A = "10.0.0.5", B = "10.0.0.1", A6 = "fd00::5", B6 = "fd00::1";

    private static FrameLayout Parse(byte[] frame)
    {
        FrameLayout.Parse(frame, out var layout);
        return layout;
    }

    [Fact]
    public void IPv4_with_options_behind_two_tags()
    {
        byte[] frame = Frames.Ip(Frames.Guest, Frames.Other, A, B, 17, Frames.Udp(A, B, 5, 6), options: [1, 1, 1, 0]);
        frame = Frames.Tagged(Frames.Tagged(frame, 0x8100, 7), 0x88A8, 0x2009);
        var layout = Parse([.. frame, 0, 0, 0]);
        Assert.Equal(NetworkProtocol.Ipv4, layout.Network);
        Assert.Equal((2, 9, 22), (layout.Ethernet.TagCount, (int)layout.Ethernet.Vlan, layout.NetworkOffset));
        Assert.Equal((46, frame.Length, IpProtocol.Udp), (layout.TransportOffset, layout.End, layout.Protocol));
        Assert.False(layout.IsFragment);
        Assert.True(InternetChecksum.IsTransportValid(frame, layout));
        Assert.True(UdpHeader.TryParse(frame.AsSpan(layout.TransportOffset), out var udp));
        Assert.Equal((5, 6, 12), (udp.SourcePort, udp.DestinationPort, udp.DatagramLength));
    }

    [Fact]
    public void A_third_tag_is_not_looked_through() =>
        Assert.Equal(NetworkProtocol.Other, Parse(Frames.Tagged(Frames.Tagged(Frames.Tagged(Frames.Out(A, B, 17, Frames.Udp(A, B, 5, 6)), 0x8100, 7), 0x8100, 7), 0x8100, 7)).Network);

    [Fact]
    public void IPv6_behind_extension_headers()
    {
        byte[] udp = Frames.Udp(A6, B6, 5, 6);
        byte[] frame = Frames.Out(A6, B6, 0, [60, 0, 1, 4, 0, 0, 0, 0, 51, 0, 0, 0, 0, 0, 0, 0, 17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, .. udp]);
        var layout = Parse(frame);
        Assert.Equal((NetworkProtocol.Ipv6, IpProtocol.Udp), (layout.Network, layout.Protocol));
        Assert.Equal(frame.Length - udp.Length, layout.TransportOffset);
        Assert.True(InternetChecksum.IsTransportValid(frame, layout));
    }

    [Fact]
    public void IPv6_fragments()
    {
        var first = Parse(Frames.Out(A6, B6, 44, [60, 0, 0, 1, 0, 0, 0, 9, 17, 0, 1, 4, 0, 0, 0, 0, .. Frames.Udp(A6, B6, 5, 6)]));
        Assert.Equal((IpProtocol.Udp, 0, true, true, 9u), (first.Protocol, first.FragmentOffset, first.Ipv6.MoreFragments, first.IsFragment, first.Ipv6.Identification));
        var later = Parse(Frames.Out(A6, B6, 44, [60, 0, 0, 16, 0, 0, 0, 9, 1, 2, 3]));
        Assert.Equal((IpProtocol.DestinationOptions, 16, false, true), (later.Protocol, later.FragmentOffset, later.Ipv6.MoreFragments, later.IsFragment));
    }

    public static TheoryData<string, byte[]> Malformed => new()
    {
        { "short Ethernet", new byte[13] },
        { "tag cut off", Frames.Ethernet(Frames.Guest, Frames.Other, 0x8100, 0, 1, 8) },
        { "version", Frames.Ethernet(Frames.Guest, Frames.Other, 0x0800, [0x65, .. new byte[30]]) },
        { "header length", Frames.Ethernet(Frames.Guest, Frames.Other, 0x0800, [0x44, 0, 0, 30, .. new byte[30]]) },
        { "total length", Frames.Ethernet(Frames.Guest, Frames.Other, 0x0800, [0x45, 0, 0, 35, .. new byte[30]]) },
        { "total below header", Frames.Ethernet(Frames.Guest, Frames.Other, 0x0800, [0x45, 0, 0, 19, .. new byte[30]]) },
        { "fragment beyond 65535", Frames.Ip(Frames.Guest, Frames.Other, A, B, 1, new byte[30], fragment: 0x1FFF) },
        { "IPv6 length", Frames.Ethernet(Frames.Guest, Frames.Other, 0x86DD, [0x60, 0, 0, 0, 0, 9, 17, 1, .. new byte[40]]) },
        { "extension cut off", Frames.Out(A6, B6, 60, [17, 1, 1, 12, 0, 0, 0, 0]) },
        { "hop-by-hop not first", Frames.Out(A6, B6, 60, [0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]) },
        { "two fragment headers", Frames.Out(A6, B6, 44, [44, 0, 0, 1, 0, 0, 0, 9, 17, 0, 0, 1, 0, 0, 0, 9]) },
        { "option too long", Frames.Out(A6, B6, 60, [17, 0, 1, 5, 0, 0, 0, 0]) },
        { "jumbogram", Frames.Out(A6, B6, 0, [17, 0, 0xC2, 4, 0, 1, 0, 0]) },
        { "nine extensions", Frames.Out(A6, B6, 60, [.. Enumerable.Repeat<byte[]>([60, 0, 1, 4, 0, 0, 0, 0], 8).SelectMany(x => x), 17, 0, 1, 4, 0, 0, 0, 0]) },
        { "short ARP", Frames.Arp(Frames.Guest, A, B)[..^1] },
        { "ARP of other hardware", Frames.Ethernet(Frames.Guest, Frames.Other, 0x0806, [0, 6, 8, 0, 6, 4, 0, 1, .. new byte[20]]) },
    };

    [Theory]
    [MemberData(nameof(Malformed))]
    public void Malformed_packets_are_told(string what, byte[] frame) => Assert.True(Parse(frame).Network == NetworkProtocol.Malformed, what);

    [Fact]
    public void Detours_are_told()
    {
        Assert.True(Parse(Frames.Ip(Frames.Guest, Frames.Other, A, B, 1, [], options: [131, 7, 4, 1, 2, 3, 4, 0])).Ipv4.HasSourceRoute);
        Assert.True(Parse(Frames.Ip(Frames.Guest, Frames.Other, A, B, 1, [], options: [7, 9, 4, 0])).Ipv4.HasSourceRoute); // malformed
        Assert.False(Parse(Frames.Ip(Frames.Guest, Frames.Other, A, B, 1, [], options: [148, 4, 0, 0])).Ipv4.HasSourceRoute);
        Assert.True(Parse(Frames.Out(A6, B6, 43, [17, 0, 2, 1, 0, 0, 0, 0])).Ipv6.HasSourceRoute);
        Assert.True(Parse(Frames.Out(A6, B6, 43, [17, 0, 0, 0, 0, 0, 0, 0])).Ipv6.HasSourceRoute);
        Assert.False(Parse(Frames.Out(A6, B6, 43, [17, 0, 2, 0, 0, 0, 0, 0])).Ipv6.HasSourceRoute);
        Assert.True(Parse(Frames.Out(A6, B6, 60, [17, 2, 1, 2, 0, 0, 0xC9, 16, .. new byte[16]])).Ipv6.HasSourceRoute);
    }

    [Fact]
    public void A_DHCP_message_is_read()
    {
        Assert.True(DhcpMessage.TryParse(Frames.Dhcp(2, 5, Frames.Guest, "10.0.0.5"), out var message));
        Assert.Equal((true, 0x1234u, 0x0A000005u, (byte)5, 3600u, 0x0A000001u, 0x0A000001u),
            (message.IsReply, message.Transaction, message.YourAddress, message.MessageType, message.LeaseSeconds, message.Router, message.Server));
        Assert.Equal(Frames.GuestMac, message.Client);
        Assert.False(DhcpMessage.TryParse(Frames.Dhcp(2, 5, Frames.Guest)[..^12], out _));
    }

    [Fact]
    public void Neighbor_options_are_read()
    {
        byte[] solicitation = [135, 0, 0, 0, 0, 0, 0, 0, .. new byte[15], 9, 1, 1, .. Frames.Guest];
        Assert.True(NeighborMessage.TryParse(solicitation, out var message));
        Assert.Equal((UInt128)9, message.Target);
        Assert.True(message.IsAllFrom(Frames.GuestMac));
        byte[] two = [.. solicitation, 2, 1, .. Frames.Other];
        Assert.True(NeighborMessage.TryParse(two, out message));
        Assert.False(message.IsAllFrom(Frames.GuestMac));
        Assert.False(NeighborMessage.TryParse((byte[])[.. solicitation, 14, 0, 0, 0, 0, 0, 0, 0], out _));
        Assert.False(NeighborMessage.TryParse((byte[])[.. solicitation, 14], out _));
    }
}
