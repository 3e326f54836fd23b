using System.Net;
using Lodge.Network.Filters;
using Lodge.Network.Packets;
using Lodge.Network.Tests.Harness;
using Xunit;

namespace Lodge.Network.Tests.Filters;

public class AntiSpoofingTests
{
    private const string Own = "10.0.0.5", Peer = "10.0.0.7", Gateway = "10.0.0.1", Own6 = "fd00::5", Local6 = "fe80::abcd", Router6 = "fe80::1", All6 = "ff02::1";

    private static readonly FilterOptions Fixed = new() { Address = Frames.GuestMac, Addresses = [Prefix(Own), Prefix("fd00::/64")] };

    private static readonly byte[] Everybody = [255, 255, 255, 255, 255, 255];

    private static IpPrefix Prefix(string text) => IpPrefix.TryParse(text, out var prefix) ? prefix : throw new FormatException(text);

    private static byte[] A6(string address) => IPAddress.Parse(address).GetAddressBytes();

    private static byte[] Icmp6(string from, string to, int type, byte[] rest, int hops = 255, byte[]? source = null) =>
        Frames.Ip(source ?? Frames.Guest, Frames.Other, from, to, 58, Frames.IcmpV6(from, to, type, rest), hops: hops);

    /// <summary>Neighbor solicitation or advertisement with an option.</summary>
    private static byte[] Neighbor(int type, string from, string target, byte[]? mac, int hops = 255, byte[]? source = null)
    {
        byte[] option = mac is null ? [] : [(byte)(type == 135 ? 1 : 2), 1, .. mac];
        return Icmp6(from, All6, type, [0, 0, 0, 0, .. A6(target), .. option], hops, source);
    }

    private static byte[] DhcpOut(byte[] data, string from = "0.0.0.0", string to = "255.255.255.255", int sourcePort = 68) =>
        Frames.Ip(Frames.Guest, Everybody, from, to, 17, Frames.Udp(from, to, sourcePort, 67, data));

    private static byte[] DhcpIn(byte[] data, string from = Gateway) => Frames.Ip(Frames.Other, Frames.Guest, from, Own, 17, Frames.Udp(from, Own, 67, 68, data));

    private static bool Passes(FilterOptions options, byte[] frame, FrameOffload offload = default)
    {
        var inner = new QueueLink();
        using var link = new FilteredLink(inner, options);
        Assert.True(link.TrySend(frame, offload));
        Assert.Equal(inner.Sent.Count == 0 ? 1 : 0, link.Counters.SentDrops);
        return inner.Sent.Count == 1;
    }

    public static TheoryData<string, byte[]> Tricks()
    {
        byte[] udp = Frames.Udp(Own, Gateway, 1000, 53), udp6 = Frames.Udp(Own6, "fd00::1", 1000, 53), spoofed = Frames.Udp(Peer, Gateway, 1000, 53);
        byte[] good = Frames.Out(Own, Gateway, 17, udp);
        return new()
        {
            { "source MAC of another", Frames.Ip(Frames.Other, Frames.Other, Own, Gateway, 17, udp) },
            { "source MAC multicast", Frames.Ip([1, 0, 0x5e, 0, 0, 1], Frames.Other, Own, Gateway, 17, udp) },
            { "source MAC zero", Frames.Ip(new byte[6], Frames.Other, Own, Gateway, 17, udp) },
            { "source IPv4 of another", Frames.Out(Peer, Gateway, 17, spoofed) },
            { "source IPv4 of the gateway", Frames.Out(Gateway, Peer, 17, Frames.Udp(Gateway, Peer, 1, 2)) },
            { "source 0.0.0.0 beside DHCP", Frames.Out("0.0.0.0", Gateway, 17, Frames.Udp("0.0.0.0", Gateway, 68, 53)) },
            { "source 255.255.255.255", Frames.Out("255.255.255.255", Gateway, 17, spoofed) },
            { "source 127.0.0.1", Frames.Out("127.0.0.1", Gateway, 17, spoofed) },
            { "source multicast", Frames.Out("224.0.0.1", Gateway, 17, spoofed) },
            { "ARP reply for the gateway", Frames.Arp(Frames.Guest, Gateway, Peer, 2) },
            { "ARP request in the gateway's name", Frames.Arp(Frames.Guest, Gateway, Peer) },
            { "gratuitous ARP for another", Frames.Arp(Frames.Guest, Peer, Peer) },
            { "ARP reply with address 0", Frames.Arp(Frames.Guest, "0.0.0.0", Peer, 2) },
            { "ARP probe that takes a tentative address away", Frames.Arp(Frames.Guest, "0.0.0.0", Peer) },
            { "ARP with another's MAC inside", Frames.Arp(Frames.Other, Own, Gateway, 1, Frames.Guest) },
            { "ARP with another's MAC outside", Frames.Arp(Frames.Guest, Own, Gateway, 1, Frames.Other) },
            { "ARP cut off", Frames.Arp(Frames.Guest, Own, Gateway)[..40] },
            { "reverse ARP", Frames.Ethernet(Frames.Guest, Everybody, 0x8035, new byte[28]) },
            { "spanning tree (LLC)", Frames.Ethernet(Frames.Guest, [1, 0x80, 0xc2, 0, 0, 0], 38, [0x42, 0x42, 3, .. new byte[35]]) },
            { "IPv4 in SNAP", Frames.Ethernet(Frames.Guest, Frames.Other, good.Length - 6, [0xAA, 0xAA, 3, 0, 0, 0, 8, 0, .. good[14..]]) },
            { "LLDP", Frames.Ethernet(Frames.Guest, [1, 0x80, 0xc2, 0, 0, 14], 0x88CC, new byte[50]) },
            { "PPPoE discovery", Frames.Ethernet(Frames.Guest, Everybody, 0x8863, new byte[50]) },
            { "PPPoE session with IPv4", Frames.Ethernet(Frames.Guest, Frames.Other, 0x8864, [0x11, 0, 0, 1, 0, 60, 0, 0x21, .. good[14..]]) },
            { "MPLS with IPv4", Frames.Ethernet(Frames.Guest, Frames.Other, 0x8847, [0, 0, 1, 64, .. good[14..]]) },
            { "MAC in MAC", Frames.Ethernet(Frames.Guest, Frames.Other, 0x88E7, [0, 0, 0, 1, .. good]) },
            { "VLAN tag", Frames.Tagged(good, 0x8100, 7) },
            { "priority tag", Frames.Tagged(good, 0x8100, 0x6000) },
            { "two tags (VLAN hopping)", Frames.Tagged(Frames.Tagged(good, 0x8100, 7), 0x8100, 1) },
            { "service tag", Frames.Tagged(good, 0x88A8, 7) },
            { "fragment of another", Frames.Ip(Frames.Guest, Frames.Other, Peer, Gateway, 17, new byte[16], fragment: 2) },
            { "loose source route", Frames.Ip(Frames.Guest, Frames.Other, Own, Gateway, 17, udp, options: [131, 7, 4, 10, 0, 0, 7, 0]) },
            { "strict source route after padding", Frames.Ip(Frames.Guest, Frames.Other, Own, Gateway, 17, udp, options: [1, 137, 7, 4, 10, 0, 0, 7]) },
            { "malformed options", Frames.Ip(Frames.Guest, Frames.Other, Own, Gateway, 17, udp, options: [7, 0, 0, 0]) },
            { "IPv4 cut off", good[..^1] },
            { "IPv4 with version 6", Frames.Ethernet(Frames.Guest, Frames.Other, 0x0800, [0x65, .. good[15..]]) },
            { "IPv6 with the type of IPv4", Frames.Ethernet(Frames.Guest, Frames.Other, 0x0800, Frames.Out(Own6, "fd00::1", 17, udp6)[14..]) },
            { "DHCP server's answer", Frames.Out(Own, Peer, 17, Frames.Udp(Own, Peer, 67, 68, Frames.Dhcp(2, 5, Frames.Other, Peer))) },
            { "DHCP answer from port 67 to a relay", Frames.Out(Own, Peer, 17, Frames.Udp(Own, Peer, 67, 67, Frames.Dhcp(2, 5, Frames.Other, Peer))) },
            { "DHCP answer to port 67", DhcpOut(Frames.Dhcp(2, 5, Frames.Guest, Peer)) },
            { "DHCP for another card (starvation)", DhcpOut(Frames.Dhcp(1, 1, Frames.Other)) },
            { "DHCP release for another card", DhcpOut(Frames.Dhcp(1, 7, Frames.Other), Own, Gateway) },
            { "DHCP with a relay", DhcpOut(Frames.Dhcp(1, 1, Frames.Guest, relay: Own), Own, Gateway) },
            { "DHCP from another's address", DhcpOut(Frames.Dhcp(1, 3, Frames.Guest), Peer, Gateway) },
            { "DHCP from 0.0.0.0 to one host", DhcpOut(Frames.Dhcp(1, 1, Frames.Guest), "0.0.0.0", Gateway) },
            { "DHCP from 0.0.0.0 from another port", DhcpOut(Frames.Dhcp(1, 1, Frames.Guest), sourcePort: 69) },
            { "DHCP that is none", DhcpOut([1, 2, 3]) },
            { "ICMP redirect", Frames.Out(Own, Peer, 1, Frames.Icmp(5, [10, 0, 0, 5, .. good[14..42]])) },
            { "ICMP router advertisement", Frames.Out(Own, "224.0.0.1", 1, Frames.Icmp(9, 1, 2, 0, 60, 10, 0, 0, 5, 0, 0, 0, 0)) },
            { "IGMP query", Frames.Out(Own, "224.0.0.1", 2, [0x11, 0, 0, 0, 0, 0, 0, 0]) },
            { "source IPv6 of another prefix", Frames.Out("2001:db8::1", "fd00::1", 17, Frames.Udp("2001:db8::1", "fd00::1", 1, 2)) },
            { "source IPv6 unspecified", Frames.Out("::", "fd00::1", 17, Frames.Udp("::", "fd00::1", 1, 2)) },
            { "source IPv6 loopback", Frames.Out("::1", "fd00::1", 17, Frames.Udp("::1", "fd00::1", 1, 2)) },
            { "source IPv6 multicast", Frames.Out("ff02::5", "fd00::1", 17, Frames.Udp("ff02::5", "fd00::1", 1, 2)) },
            { "source IPv4-mapped", Frames.Ethernet(Frames.Guest, Frames.Other, 0x86DD, [0x60, 0, 0, 0, 0, (byte)udp.Length, 17, 64, .. new byte[10], 255, 255, 10, 0, 0, 5, .. A6("fd00::1"), .. udp]) },
            { "router advertisement", Icmp6(Local6, All6, 134, [64, 0, 7, 8, .. new byte[8]]) },
            { "router advertisement behind hop-by-hop options", Frames.Out(Local6, All6, 0, [58, 0, 1, 4, 0, 0, 0, 0, .. Frames.IcmpV6(Local6, All6, 134, [64, 0, 7, 8, .. new byte[8]])], 255) },
            { "router advertisement behind destination options", Frames.Out(Local6, All6, 60, [58, 0, 1, 4, 0, 0, 0, 0, .. Frames.IcmpV6(Local6, All6, 134, [64, 0, 7, 8, .. new byte[8]])], 255) },
            { "router advertisement behind nine headers", Frames.Out(Local6, All6, 60,
                [.. Enumerable.Repeat<byte[]>([60, 0, 1, 4, 0, 0, 0, 0], 8).SelectMany(x => x), 58, 0, 1, 4, 0, 0, 0, 0, .. Frames.IcmpV6(Local6, All6, 134, [64, 0, 7, 8, .. new byte[8]])], 255) },
            { "router advertisement in a whole fragment", Frames.Out(Local6, All6, 44, [58, 0, 0, 0, 0, 0, 0, 1, .. Frames.IcmpV6(Local6, All6, 134, [64, 0, 7, 8, .. new byte[8]])], 255) },
            { "router advertisement in a first fragment", Frames.Out(Local6, All6, 44, [58, 0, 0, 1, 0, 0, 0, 1, .. Frames.IcmpV6(Local6, All6, 134, [64, 0, 7, 8, .. new byte[8]])], 255) },
            { "router advertisement pushed into the second fragment", Frames.Out(Local6, All6, 44, [60, 0, 0, 1, 0, 0, 0, 1, 58, 3, 1, 4, 0, 0, 0, 0], 255) },
            { "neighbor advertisement in a whole fragment", Frames.Out(Local6, All6, 44, [58, 0, 0, 0, 0, 0, 0, 1, .. Frames.IcmpV6(Local6, All6, 136, [0x60, 0, 0, 0, .. A6(Own6)])], 255) },
            { "two fragment headers", Frames.Out(Local6, All6, 44, [44, 0, 0, 1, 0, 0, 0, 1, 58, 0, 0, 0, 0, 0, 0, 1, .. Frames.IcmpV6(Local6, All6, 134, new byte[12])], 255) },
            { "neighbor advertisement for another's address", Neighbor(136, Local6, "2001:db8::1", Frames.Guest) },
            { "neighbor advertisement with another's MAC", Neighbor(136, Local6, Own6, Frames.Other) },
            { "neighbor solicitation with another's MAC", Neighbor(135, Local6, "fd00::1", Frames.Other) },
            { "neighbor solicitation with two MACs", Icmp6(Local6, All6, 135, [0, 0, 0, 0, .. A6(Own6), 1, 1, .. Frames.Guest, 1, 1, .. Frames.Other]) },
            { "neighbor solicitation with an empty option", Icmp6(Local6, All6, 135, [0, 0, 0, 0, .. A6(Own6), 1, 0, 0, 0, 0, 0, 0, 0]) },
            { "address detection that takes an address away", Neighbor(135, "::", "2001:db8::1", null) },
            { "address detection with a MAC", Neighbor(135, "::", Own6, Frames.Guest) },
            { "neighbor advertisement from afar", Neighbor(136, Local6, Own6, Frames.Guest, 64) },
            { "neighbor advertisement cut off", Icmp6(Local6, All6, 136, [0x60, 0, 0, 0, 1, 2]) },
            { "router solicitation with another's MAC", Icmp6(Local6, "ff02::2", 133, [0, 0, 0, 0, 1, 1, .. Frames.Other]) },
            { "IPv6 redirect", Icmp6(Local6, Own6, 137, [0, 0, 0, 0, .. A6(Own6), .. A6(Own6)]) },
            { "multicast listener query", Icmp6(Local6, All6, 130, new byte[20], 1) },
            { "DHCPv6 server's answer", Frames.Out(Local6, "fe80::7", 17, Frames.Udp(Local6, "fe80::7", 547, 546)) },
            { "DHCPv6 server's answer behind options", Frames.Out(Local6, "fe80::7", 60, [17, 0, 1, 4, 0, 0, 0, 0, .. Frames.Udp(Local6, "fe80::7", 547, 546)]) },
            { "routing header 0", Frames.Out(Own6, "fd00::1", 43, [17, 2, 0, 1, 0, 0, 0, 0, .. A6("fd00::7"), .. udp6]) },
            { "routing header with segments left", Frames.Out(Own6, "fd00::1", 43, [17, 2, 2, 1, 0, 0, 0, 0, .. A6("fd00::7"), .. udp6]) },
            { "home address option", Frames.Out(Own6, "fd00::1", 60, [17, 2, 1, 2, 0, 0, 0xC9, 16, .. A6("2001:db8::1"), .. udp6]) },
            { "jumbogram", Frames.Out(Own6, "fd00::1", 0, [17, 0, 0xC2, 4, 0, 1, 0, 0, .. udp6]) },
            { "IPv6 cut off", Frames.Out(Own6, "fd00::1", 17, udp6)[..^1] },
            { "empty frame", [] },
            { "short frame", good[..13] },
        };
    }

    [Theory]
    [MemberData(nameof(Tricks))]
    public void A_known_trick_does_not_pass(string trick, byte[] frame) => Assert.False(Passes(Fixed, frame), trick);

    public static TheoryData<string, byte[]> Honest() => new()
    {
        { "UDP", Frames.Out(Own, Gateway, 17, Frames.Udp(Own, Gateway, 1000, 53)) },
        { "TCP", Frames.Out(Own, "1.2.3.4", 6, Frames.Tcp(Own, "1.2.3.4", 1000, 443, TcpFlags.Syn)) },
        { "ping", Frames.Out(Own, "1.2.3.4", 1, Frames.Icmp(8, 0, 1, 0, 1)) },
        { "padded", [.. Frames.Out(Own, Gateway, 17, Frames.Udp(Own, Gateway, 1000, 53)), 0, 0, 0, 0] },
        { "fragment", Frames.Ip(Frames.Guest, Frames.Other, Own, Gateway, 17, new byte[16], fragment: 2) },
        { "router alert", Frames.Ip(Frames.Guest, Frames.Other, Own, "224.0.0.22", 2, [0x22, 0, 0, 0, 0, 0, 0, 0], options: [148, 4, 0, 0]) },
        { "ARP request", Frames.Arp(Frames.Guest, Own, Gateway) },
        { "ARP reply", Frames.Arp(Frames.Guest, Own, Gateway, 2) },
        { "gratuitous ARP", Frames.Arp(Frames.Guest, Own, Own) },
        { "ARP probe", Frames.Arp(Frames.Guest, "0.0.0.0", Own) },
        { "DHCP discover", DhcpOut(Frames.Dhcp(1, 1, Frames.Guest)) },
        { "DHCP renewal", DhcpOut(Frames.Dhcp(1, 3, Frames.Guest), Own, Gateway) },
        { "IPv6 of the prefix", Frames.Out("fd00::1234:5678", "fd00::1", 17, Frames.Udp("fd00::1234:5678", "fd00::1", 1, 2)) },
        { "IPv6 link-local", Frames.Out(Local6, Router6, 17, Frames.Udp(Local6, Router6, 1, 2)) },
        { "address detection", Neighbor(135, "::", Local6, null) },
        { "neighbor solicitation", Neighbor(135, Own6, "fd00::1", Frames.Guest) },
        { "neighbor advertisement", Neighbor(136, Own6, Own6, Frames.Guest) },
        { "router solicitation", Icmp6(Local6, "ff02::2", 133, [0, 0, 0, 0, 1, 1, .. Frames.Guest]) },
        { "router solicitation without address", Icmp6("::", "ff02::2", 133, [0, 0, 0, 0]) },
        { "multicast report", Frames.Out("::", "ff02::16", 0, [58, 0, 5, 2, 0, 0, 1, 0, .. Frames.IcmpV6("::", "ff02::16", 143, new byte[24])], 1) },
        { "ping 6", Icmp6(Own6, "2001:db8::1", 128, [0, 1, 0, 1], 64) },
        { "DHCPv6", Frames.Out(Local6, "ff02::1:2", 17, Frames.Udp(Local6, "ff02::1:2", 546, 547)) },
    };

    [Theory]
    [MemberData(nameof(Honest))]
    public void What_an_honest_guest_sends_passes(string what, byte[] frame) => Assert.True(Passes(Fixed, frame), what);

    [Fact]
    public void A_checksum_cannot_be_written_into_an_address()
    {
        byte[] tcp = Frames.Out(Own, Gateway, 6, Frames.Tcp(Own, Gateway, 1000, 53, TcpFlags.Ack, new byte[3000]));
        byte[] udp = Frames.Out(Own, Gateway, 17, Frames.Udp(Own, Gateway, 1000, 4789, new byte[100]));
        static FrameOffload At(int start, int offset) => new() { NeedsChecksum = true, ChecksumStart = (ushort)start, ChecksumOffset = (ushort)offset };
        Assert.True(Passes(Fixed, tcp, At(34, 16)));
        Assert.True(Passes(Fixed, udp, At(34, 6)));
        Assert.True(Passes(Fixed, udp, At(80, 6)));          // inside of a tunnel
        (byte[], int, int)[] tricks = [(tcp, 0, 8), (tcp, 14, 12), (tcp, 34, 0), (tcp, 34, 6), (udp, 34, 16), (tcp, 54, 0), (udp, 41, 0), (tcp, 3052, 1), (tcp, 65535, 65535)];
        foreach (var (frame, start, offset) in tricks)
        {
            Assert.False(Passes(Fixed, frame, At(start, offset)), $"{start}+{offset}");
        }
        Assert.False(Passes(Fixed, Frames.Arp(Frames.Guest, Own, Gateway), At(14, 14)));
        Assert.False(Passes(Fixed, DhcpOut(Frames.Dhcp(1, 1, Frames.Guest)), At(42, 28)));
        Assert.False(Passes(Fixed, Neighbor(136, Own6, Own6, Frames.Guest), At(54, 26)));
        Assert.True(Passes(Fixed, Neighbor(136, Own6, Own6, Frames.Guest), At(54, 2)));
        Assert.True(Passes(Fixed, tcp, At(34, 16) with { Segmentation = FrameSegmentation.TcpV4, SegmentSize = 1000 }));
        Assert.False(Passes(Fixed, tcp, At(34, 16) with { Segmentation = FrameSegmentation.TcpV6, SegmentSize = 1000 }));
        Assert.False(Passes(Fixed, tcp, At(34, 16) with { Segmentation = FrameSegmentation.Udp, SegmentSize = 1000 }));
    }

    [Fact]
    public void What_the_user_allows_passes_and_is_checked_behind_tags()
    {
        var options = Fixed with { EtherTypes = [(EtherType)0x88CC], AllowsTags = true };
        byte[] good = Frames.Out(Own, Gateway, 17, Frames.Udp(Own, Gateway, 1000, 53));
        byte[] bad = Frames.Out(Peer, Gateway, 17, Frames.Udp(Peer, Gateway, 1000, 53));
        Assert.True(Passes(options, Frames.Ethernet(Frames.Guest, Frames.Other, 0x88CC, 1, 2, 3)));
        Assert.True(Passes(options, Frames.Tagged(good, 0x8100, 7)));
        Assert.True(Passes(options, Frames.Tagged(Frames.Tagged(good, 0x8100, 7), 0x88A8, 7)));
        Assert.False(Passes(options, Frames.Tagged(bad, 0x8100, 7)));
        Assert.False(Passes(options, Frames.Tagged(Frames.Arp(Frames.Guest, Peer, Gateway), 0x8100, 7)));
        Assert.False(Passes(options, Frames.Tagged(Frames.Tagged(Frames.Tagged(good, 0x8100, 7), 0x8100, 7), 0x8100, 7)));
        Assert.False(Passes(options with { EtherTypes = [EtherType.Vlan] }, Frames.Tagged(Frames.Tagged(Frames.Tagged(good, 0x8100, 7), 0x8100, 7), 0x8100, 7)));
        Assert.False(Passes(Fixed with { AllowsAnyLinkLocal = false }, Frames.Out(Local6, Router6, 17, Frames.Udp(Local6, Router6, 1, 2))));
        Assert.True(Passes(Fixed with { AllowsAnyLinkLocal = false }, Frames.Out("fe80::5054:ff:fe01:203", Router6, 17, Frames.Udp("fe80::5054:ff:fe01:203", Router6, 1, 2))));
        Assert.True(Passes(Fixed with { BlocksSpoofing = false }, bad));
    }

    private sealed class Bench : IDisposable
    {
        private readonly QueueLink _inner = new();
        private readonly FilteredLink _link;

        public Bench(FilterOptions options) => _link = new FilteredLink(_inner, options, Time);

        public ManualTime Time { get; } = new();

        public bool Send(byte[] frame)
        {
            _inner.Sent.Clear();
            Assert.True(_link.TrySend(frame, default));
            return _inner.Sent.Count == 1;
        }

        public void Receive(byte[] frame)
        {
            _inner.Incoming.Enqueue((frame, default));
            Assert.Equal(frame.Length, _link.TryReceive(new byte[66000], out _));
        }

        public void Dispose() => _link.Dispose();
    }

    private static readonly FilterOptions Learning = new() { Address = Frames.GuestMac };
    private static readonly byte[] FromOwn = Frames.Out(Own, Gateway, 17, Frames.Udp(Own, Gateway, 1000, 53));

    [Fact]
    public void An_address_from_a_DHCP_server_may_be_used_while_the_lease_lasts()
    {
        using var bench = new Bench(Learning);
        Assert.False(bench.Send(FromOwn));
        Assert.True(bench.Send(DhcpOut(Frames.Dhcp(1, 3, Frames.Guest))));
        Assert.False(bench.Send(FromOwn));
        bench.Receive(DhcpIn(Frames.Dhcp(2, 2, Frames.Guest, Own)));                             // an offer only
        bench.Receive(DhcpIn(Frames.Dhcp(2, 5, Frames.Guest, Own, transaction: 99)));             // not asked for
        bench.Receive(DhcpIn(Frames.Dhcp(2, 5, Frames.Other, Own)));                              // for somebody else
        bench.Receive(DhcpIn(Frames.Dhcp(2, 5, Frames.Guest, Gateway)));                          // the server's own
        bench.Receive(DhcpIn(Frames.Dhcp(2, 5, Frames.Guest, "255.255.255.255")));
        Assert.False(bench.Send(FromOwn));
        bench.Receive(DhcpIn(Frames.Dhcp(2, 5, Frames.Guest, Own)));
        Assert.True(bench.Send(FromOwn));
        Assert.True(bench.Send(Frames.Arp(Frames.Guest, Own, Gateway)));
        Assert.False(bench.Send(Frames.Arp(Frames.Guest, Gateway, Peer)));
        bench.Time.Advance(TimeSpan.FromSeconds(3600));
        Assert.True(bench.Send(FromOwn));
        bench.Time.Advance(TimeSpan.FromSeconds(61));
        Assert.False(bench.Send(FromOwn));
    }

    [Fact]
    public void Only_the_named_DHCP_servers_are_believed()
    {
        using var bench = new Bench(Learning with { DhcpServers = [Prefix(Gateway)] });
        bench.Send(DhcpOut(Frames.Dhcp(1, 3, Frames.Guest)));
        bench.Receive(DhcpIn(Frames.Dhcp(2, 5, Frames.Guest, Own), "6.6.6.6"));
        Assert.False(bench.Send(FromOwn));
        bench.Receive(DhcpIn(Frames.Dhcp(2, 5, Frames.Guest, Own)));
        Assert.True(bench.Send(FromOwn));
        using var none = new Bench(Learning with { LearnsAddresses = false });
        none.Send(DhcpOut(Frames.Dhcp(1, 3, Frames.Guest)));
        none.Receive(DhcpIn(Frames.Dhcp(2, 5, Frames.Guest, Own)));
        Assert.False(none.Send(FromOwn));
    }

    [Fact]
    public void A_prefix_from_a_router_may_be_used_and_the_router_not_be_played()
    {
        byte[] fromOwn = Frames.Out(Own6, "2001:db8::1", 17, Frames.Udp(Own6, "2001:db8::1", 1, 2));
        byte[] advertisement = [64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xC0, 0, 0, 0, 100, 0, 0, 0, 100, 0, 0, 0, 0, .. A6("fd00::")];
        using var bench = new Bench(Learning);
        Assert.False(bench.Send(fromOwn));
        Assert.True(bench.Send(Frames.Out(Router6, All6, 17, Frames.Udp(Router6, All6, 1, 2))));
        bench.Receive(Icmp6(Router6, All6, 134, advertisement, 64, Frames.Other));               // passed a router
        bench.Receive(Icmp6("2001:db8::6", All6, 134, advertisement, 255, Frames.Other));        // not link-local
        byte[] everything = [.. advertisement];
        everything[14] = 0;
        bench.Receive(Icmp6("fe80::2", All6, 134, everything, 255, Frames.Other));               // ::/0
        Assert.False(bench.Send(fromOwn));
        bench.Receive(Icmp6(Router6, All6, 134, advertisement, 255, Frames.Other));
        Assert.True(bench.Send(fromOwn));
        Assert.False(bench.Send(Frames.Out(Router6, All6, 17, Frames.Udp(Router6, All6, 1, 2))));
        Assert.False(bench.Send(Neighbor(136, Local6, Router6, Frames.Guest)));
        bench.Time.Advance(TimeSpan.FromSeconds(101));
        Assert.False(bench.Send(fromOwn));
    }

    [Fact]
    public void What_was_learned_is_kept_over_a_restart()
    {
        var inner = new QueueLink();
        using var link = new FilteredLink(inner, Learning, new ManualTime());
        link.Learn(Prefix(Own), TimeSpan.FromHours(1));
        link.Learn(Prefix("fd00::/64"), TimeSpan.FromHours(1));
        link.TrySend(FromOwn, default);
        Assert.Single(inner.Sent);
        Assert.Equal([Prefix(Own), Prefix("fd00::/64")], link.LearnedAddresses);
    }
}
