using Lodge.Network.Filters;
using Lodge.Network.Packets;
using Lodge.Network.Tests.Harness;
using Xunit;

namespace Lodge.Network.Tests.Filters;

public class FilterRulesTests
{
    private const string Own = "10.0.0.5", Server = "1.2.3.4", Own6 = "fd00::5", Server6 = "2001:db8::1";

    private static readonly FilterOptions Open = new() { Address = Frames.GuestMac, BlocksSpoofing = false };

    [Theory]
    [InlineData("deny out 10.0.0.0/8")]
    [InlineData("allow out tcp 1.2.3.4 443")]
    [InlineData("deny in")]
    [InlineData("allow in tcp 22,80,8000-8080")]
    [InlineData("allow in udp fd00::/8 53")]
    [InlineData("deny out icmpv6 fe80::1")]
    [InlineData("allow out 47 0.0.0.0/0")]
    [InlineData("allow out icmp; deny out ::/0; deny in; default deny out")]
    public void Rules_are_parsed_and_shown(string text) => Assert.Equal(text, FilterRules.Parse(text).ToString());

    [Theory]
    [InlineData("allow out tcp any 443", "allow out tcp 443")]
    [InlineData("  allow   out\tany any # all\n\n deny in;; ", "allow out; deny in")]
    [InlineData("allow out tcp 1.2.3.4/32 443", "allow out tcp 1.2.3.4 443")]
    [InlineData("default allow in", "")]
    public void Other_forms_of_the_same(string text, string shown) => Assert.Equal(shown, FilterRules.Parse(text).ToString());

    [Theory]
    [InlineData("permit out", "'permit' is neither 'allow' nor 'deny'")]
    [InlineData("deny", "'' is neither 'in' nor 'out'")]
    [InlineData("deny both", "'both' is neither 'in' nor 'out'")]
    [InlineData("deny out 300", "'300' is no protocol")]
    [InlineData("deny out 10.0.0.1/8", "'10.0.0.1/8' is no address or prefix")]
    [InlineData("deny out 10.0.0.0/33", "'10.0.0.0/33'")]
    [InlineData("deny out 10.0/8", "'10.0/8'")]
    [InlineData("deny out 010.0.0.1", "'010.0.0.1'")]
    [InlineData("deny out fe80::1%eth0", "'fe80::1%eth0'")]
    [InlineData("deny out sctp", "'sctp' is not understood")]
    [InlineData("deny out tcp example", "'example' is not understood")]
    [InlineData("deny out tcp 70000", "'70000' is no port")]
    [InlineData("deny out tcp 90-80", "'90-80' is no port")]
    [InlineData("deny out tcp 80,", "'' is no port")]
    [InlineData("deny out any 1.2.3.4 80", "the ports '80' need the protocol tcp or udp")]
    [InlineData("deny out icmp 1.2.3.4 80", "the ports '80' need")]
    [InlineData("deny out icmp fd00::1", "'fd00::1' is not of the protocol's family")]
    [InlineData("deny out tcp 1.2.3.4 80 81", "'81' is not understood")]
    [InlineData("default deny in tcp", "a default is for all packets")]
    public void What_is_no_rule_is_told_in_one_line(string text, string message)
    {
        string line = Assert.Throws<NetworkException>(() => FilterRules.Parse("allow in; " + text)).Message;
        Assert.Contains(message, line);
        Assert.Contains("filter rule '", line);
        Assert.DoesNotContain('\n', line);
    }

    private sealed class Bench : IDisposable
    {
        private readonly QueueLink _inner = new();
        private readonly byte[] _buffer = new byte[66000];

        public Bench(string rules, int connections = 8192, FilterOptions? options = null) =>
            Link = new FilteredLink(_inner, (options ?? Open) with { Rules = FilterRules.Parse(rules), MaximumConnections = connections }, Time);

        public ManualTime Time { get; } = new();

        public FilteredLink Link { get; }

        public bool Send(byte[] frame)
        {
            _inner.Sent.Clear();
            Assert.True(Link.TrySend(frame, default));
            return _inner.Sent.Count == 1;
        }

        public bool Receive(byte[] frame)
        {
            _inner.Incoming.Enqueue((frame, default));
            return Link.TryReceive(_buffer, out _) == frame.Length;
        }

        public void Dispose() => Link.Dispose();
    }

    private static byte[] TcpOut(int port, TcpFlags flags = TcpFlags.Syn, string to = Server, int local = 40000) => Frames.Out(Own, to, 6, Frames.Tcp(Own, to, local, port, flags));

    private static byte[] TcpIn(int port, TcpFlags flags = TcpFlags.Syn, string from = Server, int remote = 40000) => Frames.In(from, Own, 6, Frames.Tcp(from, Own, remote, port, flags));

    private static byte[] UdpOut(int port, string to = Server, int local = 40000) => Frames.Out(Own, to, 17, Frames.Udp(Own, to, local, port));

    private static byte[] UdpIn(int port, string from = Server, int remote = 40000) => Frames.In(from, Own, 17, Frames.Udp(from, Own, remote, port));

    [Fact]
    public void The_first_match_decides()
    {
        using var bench = new Bench("allow out tcp 10.1.2.3 443; deny out 10.0.0.0/8; deny out udp 53,5000-5010; deny out icmp; deny out 2001:db8::/32");
        Assert.True(bench.Send(TcpOut(443, to: "10.1.2.3")));
        Assert.False(bench.Send(TcpOut(80, to: "10.1.2.3")));
        Assert.False(bench.Send(UdpOut(443, to: "10.255.0.1")));
        Assert.True(bench.Send(TcpOut(443)));
        Assert.False(bench.Send(UdpOut(53)));
        Assert.False(bench.Send(UdpOut(5005)));
        Assert.True(bench.Send(UdpOut(5011)));
        Assert.False(bench.Send(Frames.Out(Own, Server, 1, Frames.Icmp(8, 0, 1, 0, 1))));
        Assert.False(bench.Send(Frames.Out(Own6, Server6, 17, Frames.Udp(Own6, Server6, 1, 2))));
        Assert.True(bench.Send(Frames.Out(Own6, "2001:db9::1", 17, Frames.Udp(Own6, "2001:db9::1", 1, 2))));
        Assert.True(bench.Receive(TcpIn(22)));
        Assert.Equal(6, bench.Link.Counters.SentDrops);
    }

    [Fact]
    public void Answers_pass_where_nothing_else_comes_in()
    {
        using var bench = new Bench("deny in");
        Assert.False(bench.Receive(TcpIn(40000, TcpFlags.Syn | TcpFlags.Ack, remote: 443)));
        Assert.True(bench.Send(TcpOut(443)));
        Assert.True(bench.Receive(TcpIn(40000, TcpFlags.Syn | TcpFlags.Ack, remote: 443)));
        Assert.True(bench.Receive(TcpIn(40000, TcpFlags.Ack, remote: 443)));
        Assert.False(bench.Receive(TcpIn(40000, TcpFlags.Syn, remote: 443)));                   // a new connection back
        Assert.False(bench.Receive(TcpIn(40001, TcpFlags.Ack, remote: 443)));
        Assert.False(bench.Receive(TcpIn(40000, TcpFlags.Ack, remote: 444)));
        Assert.False(bench.Receive(TcpIn(40000, TcpFlags.Ack, "1.2.3.5", 443)));
        Assert.False(bench.Receive(UdpIn(40000, remote: 443)));
        Assert.True(bench.Send(UdpOut(53)));
        Assert.True(bench.Receive(UdpIn(40000, remote: 53)));
        Assert.False(bench.Receive(UdpIn(40000, "1.2.3.5", 53)));
        Assert.True(bench.Send(Frames.Out(Own, Server, 1, Frames.Icmp(8, 0, 7, 0, 1))));
        Assert.True(bench.Receive(Frames.In(Server, Own, 1, Frames.Icmp(0, 0, 7, 0, 1))));
        Assert.False(bench.Receive(Frames.In(Server, Own, 1, Frames.Icmp(0, 0, 8, 0, 1))));
        Assert.False(bench.Receive(Frames.In(Server, Own, 1, Frames.Icmp(8, 0, 7, 0, 1))));
        Assert.False(bench.Receive(Frames.In(Server, Own, 1, Frames.Icmp(5, [10, 0, 0, 1, .. new byte[28]]))));
        Assert.True(bench.Send(Frames.Out(Own, Server, 47, new byte[8])));
        Assert.True(bench.Receive(Frames.In(Server, Own, 47, new byte[8])));
        Assert.False(bench.Receive(Frames.In(Server, Own, 50, new byte[8])));
    }

    [Fact]
    public void A_published_service_answers_where_nothing_else_goes_out()
    {
        using var bench = new Bench("allow in tcp 192.168.0.0/16 80; deny in; deny out");
        Assert.False(bench.Receive(TcpIn(80)));
        Assert.False(bench.Receive(TcpIn(81, from: "192.168.1.1")));
        Assert.True(bench.Receive(TcpIn(80, from: "192.168.1.1")));
        Assert.True(bench.Send(TcpOut(40000, TcpFlags.Syn | TcpFlags.Ack, "192.168.1.1", 80)));
        Assert.False(bench.Send(TcpOut(40001, TcpFlags.Ack, "192.168.1.1", 80)));
        Assert.False(bench.Send(TcpOut(40000, TcpFlags.Syn, "192.168.1.1", 80)));
        Assert.False(bench.Send(TcpOut(443)));
    }

    [Fact]
    public void An_error_about_a_connection_passes()
    {
        using var bench = new Bench("deny in");
        Assert.True(bench.Send(UdpOut(5000)));
        byte[] about = UdpOut(5000)[14..42], other = UdpOut(5001)[14..42];
        Assert.True(bench.Receive(Frames.In("9.9.9.9", Own, 1, Frames.Icmp(3, [0, 0, 0, 0, .. about]))));
        Assert.True(bench.Receive(Frames.In("9.9.9.9", Own, 1, Frames.Icmp(11, [0, 0, 0, 0, .. about]))));
        Assert.False(bench.Receive(Frames.In("9.9.9.9", Own, 1, Frames.Icmp(3, [0, 0, 0, 0, .. other]))));
        Assert.False(bench.Receive(Frames.In("9.9.9.9", Own, 1, Frames.Icmp(5, [0, 0, 0, 0, .. about]))));
        Assert.False(bench.Receive(Frames.In("9.9.9.9", Own, 1, Frames.Icmp(3, [0, 0, 0, 0, .. about[..20]]))));
        Assert.False(bench.Receive(Frames.In("9.9.9.9", "10.0.0.6", 1, Frames.Icmp(3, [0, 0, 0, 0, .. about]))));
        Assert.True(bench.Send(Frames.Out(Own6, Server6, 6, Frames.Tcp(Own6, Server6, 1, 2, TcpFlags.Syn))));
        byte[] about6 = Frames.Out(Own6, Server6, 6, Frames.Tcp(Own6, Server6, 1, 2, TcpFlags.Syn))[14..];
        Assert.True(bench.Receive(Frames.In("2001:db8::9", Own6, 58, Frames.IcmpV6("2001:db8::9", Own6, 2, [0, 0, 5, 0, .. about6]))));
    }

    [Fact]
    public void Connections_end_by_silence_and_sooner_when_closed()
    {
        using var bench = new Bench("deny in");
        bool Answer(int remote, TcpFlags flags = TcpFlags.Ack) => bench.Receive(TcpIn(40000, flags, remote: remote));
        bench.Send(UdpOut(53));
        bench.Time.Advance(TimeSpan.FromSeconds(59));
        Assert.True(bench.Receive(UdpIn(40000, remote: 53)));
        bench.Time.Advance(TimeSpan.FromSeconds(179));
        Assert.True(bench.Receive(UdpIn(40000, remote: 53)));
        bench.Time.Advance(TimeSpan.FromSeconds(181));
        Assert.False(bench.Receive(UdpIn(40000, remote: 53)));

        bench.Send(TcpOut(1));
        bench.Send(TcpOut(2));
        bench.Send(TcpOut(3));
        Assert.True(Answer(1, TcpFlags.Syn | TcpFlags.Ack) && Answer(2, TcpFlags.Syn | TcpFlags.Ack));
        bench.Time.Advance(TimeSpan.FromSeconds(121));
        Assert.False(Answer(3, TcpFlags.Syn | TcpFlags.Ack));
        bench.Time.Advance(TimeSpan.FromHours(23));
        Assert.True(Answer(1) && Answer(2));
        Assert.True(Answer(1, TcpFlags.Fin | TcpFlags.Ack) && Answer(2, TcpFlags.Rst));
        bench.Time.Advance(TimeSpan.FromSeconds(31));
        Assert.True(Answer(1));                                                                 // half closed
        Assert.False(Answer(2));
        bench.Send(TcpOut(1, TcpFlags.Fin | TcpFlags.Ack));
        bench.Time.Advance(TimeSpan.FromSeconds(31));
        Assert.False(Answer(1));
    }

    [Fact]
    public void The_table_is_bounded_and_keeps_what_was_answered()
    {
        using var bench = new Bench("deny in", connections: 16);
        bench.Send(UdpOut(9));
        Assert.True(bench.Receive(UdpIn(40000, remote: 9)));
        for (int port = 1000; port < 5000; port++)
        {
            bench.Send(UdpOut(port));
            if (port % 10 == 0)
            {
                Assert.True(bench.Receive(UdpIn(40000, remote: 9)));
            }
        }
        Assert.True(bench.Receive(UdpIn(40000, remote: 4999)));
        Assert.False(bench.Receive(UdpIn(40000, remote: 4900)));
    }

    [Fact]
    public void The_table_is_a_map_with_the_newest_connections()
    {
        var time = new ManualTime();
        var table = new ConnectionTable(100, time);
        var model = new LinkedList<int>();
        var random = new Random(1);
        for (int i = 0; i < 20_000; i++)
        {
            int port = random.Next(1, 300);
            byte[] frame = UdpOut(port);
            FrameLayout.Parse(frame, out var layout);
            Assert.True(PacketFlow.TryRead(frame, layout, true, out var flow));
            bool isKnown = model.Remove(port);
            Assert.Equal(isKnown, table.Contains(flow.Key));
            if (isKnown && random.Next(2) == 0)
            {
                Assert.True(table.TryPass(flow));
            }
            else
            {
                table.Add(flow);
            }
            model.AddLast(port);
            if (model.Count > 100)
            {
                model.RemoveFirst();
            }
            Assert.Equal(model.Count, table.Count);
        }
    }

    [Fact]
    public void Fragments_pass_after_their_first_and_only_then()
    {
        using var bench = new Bench("allow out udp 53; deny out; default deny in");
        byte[] First(int port, int id) => Frames.Ip(Frames.Guest, Frames.Other, Own, Server, 17, [.. Frames.Udp(Own, Server, 9, port, new byte[24])], id: id, fragment: 0x2000);
        byte[] Later(int id, int fragment = 4) => Frames.Ip(Frames.Guest, Frames.Other, Own, Server, 17, new byte[16], id: id, fragment: fragment);
        Assert.False(bench.Send(Later(1)));
        Assert.True(bench.Send(First(53, 1)));
        Assert.True(bench.Send(Later(1)));
        Assert.False(bench.Send(Later(1, 1)));                                                  // overlaps the first
        Assert.False(bench.Send(Later(2)));
        Assert.False(bench.Send(First(54, 2)));
        Assert.False(bench.Send(Later(2)));
        Assert.False(bench.Send(Frames.Ip(Frames.Guest, Frames.Other, Own, Server, 6, Frames.Tcp(Own, Server, 9, 80, TcpFlags.Syn)[..8], id: 3, fragment: 0x2000)));
        bench.Time.Advance(TimeSpan.FromSeconds(31));
        Assert.False(bench.Send(Later(1)));

        byte[] first6 = Frames.Out(Own6, Server6, 44, [60, 0, 0, 1, 0, 0, 0, 9, 17, 1, 1, 12, .. new byte[12], .. Frames.Udp(Own6, Server6, 9, 53, new byte[24])]);
        byte[] Later6(int offset) => Frames.Out(Own6, Server6, 44, [60, 0, 0, (byte)offset, 0, 0, 0, 9, .. new byte[16]]);
        Assert.False(bench.Send(Later6(48)));
        Assert.True(bench.Send(first6));
        Assert.True(bench.Send(Later6(48)));
        Assert.False(bench.Send(Later6(40)));
        Assert.False(bench.Send(Later6(16)));
    }

    [Fact]
    public void What_the_link_needs_passes_all_rules()
    {
        using var bench = new Bench("deny in; deny out", options: Open with { Addresses = [IpPrefix.Ipv6((UInt128)0xFD00 << 112, 64)] });
        const string local = "fe80::5", router = "fe80::1";
        byte[] Solicit(string to, string target, int hops = 255) => Frames.Out(local, to, 58, Frames.IcmpV6(local, to, 135, [0, 0, 0, 0, .. System.Net.IPAddress.Parse(target).GetAddressBytes()]), hops);
        Assert.True(bench.Send(Frames.Arp(Frames.Guest, Own, "10.0.0.1")));
        Assert.True(bench.Receive(Frames.Arp(Frames.Other, "10.0.0.1", Own, 2)));
        Assert.True(bench.Send(Solicit("ff02::1:ff00:1", router)));
        Assert.True(bench.Send(Solicit(router, router)));
        Assert.True(bench.Send(Solicit("fd00::7", "fd00::7")));
        Assert.False(bench.Send(Solicit(Server6, Server6)));                                    // a way out
        Assert.False(bench.Send(Solicit(router, router, 64)));
        Assert.True(bench.Receive(Frames.In(router, local, 58, Frames.IcmpV6(router, local, 136, [0x60, 0, 0, 0, .. new byte[16]]), 255)));
        Assert.False(bench.Receive(Frames.In(router, local, 58, Frames.IcmpV6(router, local, 136, [0x60, 0, 0, 0, .. new byte[16]]), 64)));
        Assert.False(bench.Receive(Frames.In(router, local, 58, Frames.IcmpV6(router, local, 128, [0, 1, 0, 1]), 255)));

        byte[] Ask(string to) => Frames.Ip(Frames.Guest, Frames.Other, "0.0.0.0", to, 17, Frames.Udp("0.0.0.0", to, 68, 67, Frames.Dhcp(1, 3, Frames.Guest)));
        byte[] Answer(uint transaction) => Frames.In("10.0.0.1", Own, 17, Frames.Udp("10.0.0.1", Own, 67, 68, Frames.Dhcp(2, 5, Frames.Guest, Own, transaction)));
        Assert.False(bench.Receive(Answer(0x1234)));
        Assert.True(bench.Send(Ask("255.255.255.255")));
        Assert.False(bench.Receive(Answer(0x1235)));
        Assert.True(bench.Receive(Answer(0x1234)));
        Assert.True(bench.Send(Ask("10.0.0.1")));
        Assert.False(bench.Send(Ask("10.0.0.2")));
        Assert.True(bench.Send(Frames.Out(local, "ff02::1:2", 17, Frames.Udp(local, "ff02::1:2", 546, 547))));
        Assert.False(bench.Send(Frames.Out(local, Server6, 17, Frames.Udp(local, Server6, 546, 547))));
        Assert.True(bench.Receive(Frames.In(router, local, 17, Frames.Udp(router, local, 547, 546))));
        Assert.False(bench.Receive(Frames.In(Server6, local, 17, Frames.Udp(Server6, local, 547, 546))));
    }

    [Fact]
    public void What_rules_cannot_see_through_does_not_pass_them()
    {
        using var bench = new Bench("deny out 10.0.0.0/8; deny in 10.0.0.0/8");
        byte[] good = TcpOut(443);
        Assert.True(bench.Send(good));
        Assert.False(bench.Send(Frames.Tagged(TcpOut(443, to: "10.0.0.9"), 0x8100, 5)));
        Assert.False(bench.Send(Frames.Ethernet(Frames.Guest, Frames.Other, 0x8864, [0x11, 0, 0, 1, 0, 60, 0, 0x21, .. good[14..]])));
        Assert.False(bench.Send(Frames.Ip(Frames.Guest, Frames.Other, Own, Server, 6, Frames.Tcp(Own, Server, 1, 2, TcpFlags.Syn), options: [131, 7, 4, 10, 0, 0, 9, 0])));
        Assert.False(bench.Send(Frames.Out(Own6, "::ffff:10.0.0.9".Replace("10.0.0.9", "a00:9"), 6, [])));
        Assert.False(bench.Send(good[..40]));
        Assert.False(bench.Receive(Frames.Tagged(TcpIn(22), 0x8100, 5)));
    }

    [Fact]
    public void New_rules_hold_for_old_connections()
    {
        using var bench = new Bench("deny in");
        bench.Send(TcpOut(443));
        Assert.True(bench.Receive(TcpIn(40000, TcpFlags.Ack, remote: 443)));
        bench.Link.Rules = FilterRules.Parse("deny out 1.2.3.4; deny in");
        Assert.False(bench.Send(TcpOut(443, TcpFlags.Ack)));
        Assert.False(bench.Receive(TcpIn(40000, TcpFlags.Ack, remote: 443)));
        bench.Link.Rules = FilterRules.None;
        Assert.True(bench.Receive(TcpIn(40000, TcpFlags.Ack, remote: 443)));
    }

    [Fact]
    public void A_flood_of_denied_frames_does_not_hold_the_card()
    {
        var inner = new QueueLink();
        using var link = new FilteredLink(inner, Open with { Rules = FilterRules.Parse("deny in") });
        int woken = 0;
        link.Connect(() => woken++);
        for (int i = 0; i < 100; i++)
        {
            inner.Incoming.Enqueue((TcpIn(22), default));
        }
        Assert.Equal(0, link.TryReceive(new byte[66000], out _));
        Assert.Equal((1, 36), (woken, inner.Incoming.Count));
        Assert.Equal(0, link.TryReceive(new byte[66000], out _));
        Assert.Equal((1, 100L), (woken, link.Counters.ReceivedDrops));
    }

    [Fact]
    public void Nothing_is_allocated_per_frame()
    {
        var inner = new QueueLink { Forgets = true };
        using var link = new FilteredLink(inner, new()
        {
            Address = Frames.GuestMac,
            Addresses = [IpPrefix.Ipv4(0x0A000005)],
            Rules = FilterRules.Parse("deny out 9.0.0.0/8; allow out tcp 1-1000; deny in"),
            MaximumConnections = 100
        });
        byte[][] frames = [.. Enumerable.Range(1, 500).Select(port => TcpOut(port)), UdpOut(5), Frames.Arp(Frames.Guest, Own, Server), TcpOut(5, to: "9.1.1.1")];
        void Run()
        {
            foreach (byte[] frame in frames)
            {
                link.TrySend(frame, default);
            }
        }
        Run();
        long before = GC.GetAllocatedBytesForCurrentThread();
        Run();
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }
}
