using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using System.Text;
using Lodge.Network.Packets;
using Lodge.Network.User;
using Xunit;

namespace Lodge.Network.Tests;

/// <summary>The user-mode network, seen from a guest that is written here.</summary>
public sealed class UserNetworkTests : IDisposable
{
    private readonly List<UserLink> _links = [];

    public void Dispose() => _links.ForEach(l => l.Dispose());

    private FrameGuest Open(UserNetworkOptions? options = null)
    {
        Assert.SkipWhen(UserNetwork.Problem is not null, UserNetwork.Problem ?? "");
        UserLink link = UserNetwork.Open(options ?? new UserNetworkOptions());
        _links.Add(link);
        return new FrameGuest(link);
    }

    [Theory]
    [InlineData("10.0.2.0/24", "10.0.2.15", "10.0.2.2", "10.0.2.3")]
    [InlineData("192.168.5.128/29", "192.168.5.132", "192.168.5.130", "192.168.5.131")]
    public void DHCP_gives_the_guests_address_the_gateway_and_the_name_server(string network, string guest, string host, string nameServer)
    {
        FrameGuest client = Open(new UserNetworkOptions { Network = IPNetwork.Parse(network), HostName = "box" });
        byte[] reply = client.Dhcp();
        Assert.Equal(IPAddress.Parse(guest), new IPAddress(reply.AsSpan(16, 4)));
        Dictionary<byte, byte[]> options = FrameGuest.DhcpOptions(reply);
        Assert.Equal(IPAddress.Parse(host), new IPAddress(options[3]));
        Assert.Equal(IPAddress.Parse(nameServer), new IPAddress(options[6]));
        Assert.Equal("box", Encoding.ASCII.GetString(options[12]));
    }

    [Fact]
    public void A_datagram_reaches_the_hosts_loopback_and_the_answer_comes_back()
    {
        FrameGuest guest = Open();
        using Socket server = Bound(ProtocolType.Udp);
        guest.SendUdp(IPAddress.Parse("10.0.2.2"), 4000, Port(server), "ping"u8);
        byte[] buffer = new byte[64];
        EndPoint from = new IPEndPoint(IPAddress.Any, 0);
        int length = server.ReceiveFrom(buffer, ref from);
        Assert.Equal("ping", Encoding.ASCII.GetString(buffer, 0, length));
        server.SendTo("pong"u8, from);
        byte[] packet = guest.WaitForIpv4(17);
        Assert.Equal(IPAddress.Parse("10.0.2.2"), new IPAddress(packet.AsSpan(12, 4)));
        Assert.Equal(4000, BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(22)));
        Assert.Equal("pong", Encoding.ASCII.GetString(packet, 28, packet.Length - 28));
    }

    [Theory]
    [InlineData(false, false)]
    [InlineData(true, true)]
    public void The_hosts_loopback_and_everything_else_can_be_closed(bool hostLoopback, bool restricted)
    {
        FrameGuest guest = Open(new UserNetworkOptions { HostLoopback = hostLoopback, Restricted = restricted });
        using Socket closed = Bound(ProtocolType.Udp), open = Bound(ProtocolType.Udp);
        guest.SendUdp(IPAddress.Parse("10.0.2.2"), 4000, Port(closed), "ping"u8);
        guest.Dhcp(); // what comes later was handled later
        Assert.False(closed.Poll(TimeSpan.FromMilliseconds(50), SelectMode.SelectRead));
        guest = Open();
        guest.SendUdp(IPAddress.Parse("10.0.2.2"), 4000, Port(open), "ping"u8);
        Assert.True(open.Poll(TimeSpan.FromSeconds(20), SelectMode.SelectRead));
    }

    [Fact]
    public void A_published_TCP_port_leads_to_the_guest()
    {
        FrameGuest guest = Open(new UserNetworkOptions { Forwards = PortForward.Parse("0:80") });
        PortForward forward = Assert.Single(guest.Link.Forwards);
        Assert.Equal((IPAddress.Loopback, 80), (forward.Host, forward.GuestPort));
        using Socket client = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        client.Connect(forward.Host, forward.HostPort);
        byte[] packet = guest.WaitForIpv4(6);
        Assert.Equal(FrameGuest.Address, new IPAddress(packet.AsSpan(16, 4)));
        Assert.Equal(80, BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(22)));
        Assert.Equal(2, packet[33] & 0x3F); // SYN
    }

    [Fact]
    public void Published_UDP_ports_lead_to_the_guest_and_answers_back()
    {
        FrameGuest guest = Open(new UserNetworkOptions { Forwards = PortForward.Parse("0:1000-1002/udp") });
        Assert.Equal([1000, 1001, 1002], guest.Link.Forwards.Select(f => (int)f.GuestPort));
        Assert.Equal(3, guest.Link.Forwards.Select(f => f.HostPort).Distinct().Count());
        PortForward forward = guest.Link.Forwards[1];
        using Socket client = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        client.ReceiveTimeout = 20000;
        client.Connect(forward.Host, forward.HostPort);
        client.Send("query"u8);
        byte[] packet = guest.WaitForIpv4(17);
        Assert.Equal(1001, BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(22)));
        Assert.Equal("query", Encoding.ASCII.GetString(packet, 28, 5));
        guest.SendUdp(new IPAddress(packet.AsSpan(12, 4)), 1001, BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(20)), "reply"u8);
        byte[] buffer = new byte[16];
        Assert.Equal(5, client.Receive(buffer));
        Assert.Equal("reply", Encoding.ASCII.GetString(buffer, 0, 5));
    }

    [Fact]
    public async Task A_port_of_the_hosts_IPv6_leads_to_the_guests_address_by_its_MAC()
    {
        UserNetworkOptions options = new() { GuestMac = FrameGuest.Mac, Forwards = PortForward.Parse("[::1]:0:80") };
        Assert.Equal(IPAddress.Parse("fec0::5054:ff:fe12:3456"), options.Guest6);
        Assert.SkipWhen(!Socket.OSSupportsIPv6, "this host has no IPv6");
        FrameGuest guest = Open(options);
        using Socket client = new(AddressFamily.InterNetworkV6, SocketType.Stream, ProtocolType.Tcp);
        Task connected = client.ConnectAsync(IPAddress.IPv6Loopback, guest.Link.Forwards[0].HostPort);
        byte[] packet = guest.WaitForIpv6(58, type: 135); // the stack looks for the guest (neighbor solicitation)
        Assert.Equal(options.Guest6, new IPAddress(packet.AsSpan(48, 16)));
        await connected.WaitAsync(TimeSpan.FromSeconds(20));
    }

    [Theory]
    [InlineData(ProtocolType.Tcp)]
    [InlineData(ProtocolType.Udp)]
    public void A_port_in_use_is_named(ProtocolType protocol)
    {
        using Socket other = Bound(protocol);
        if (protocol == ProtocolType.Tcp)
        {
            other.Listen();
        }
        PortForward forward = new(IPAddress.Loopback, Port(other), 80, protocol);
        NetworkException e = Assert.Throws<NetworkException>(() => Open(new UserNetworkOptions { Forwards = [forward] }));
        Assert.Contains($"127.0.0.1:{Port(other)} of the host is in use", e.Message);
    }

    [Fact]
    public void An_address_that_the_host_lacks_is_named()
    {
        NetworkException e = Assert.Throws<NetworkException>(() => Open(new UserNetworkOptions { Forwards = PortForward.Parse("198.51.100.7:8080:80") }));
        Assert.Contains("198.51.100.7:8080", e.Message);
        Assert.Contains("no such address", e.Message);
    }

    [Fact]
    public void The_router_advertises_the_IPv6_network()
    {
        FrameGuest guest = Open();
        guest.Send(FrameGuest.RouterSolicitation(), default);
        byte[] packet = guest.WaitForIpv6(58, type: 134); // router advertisement
        Assert.Contains("FEC00000000000000000000000000000", Convert.ToHexString(packet));
    }

    [Fact]
    public void A_partial_checksum_is_completed()
    {
        FrameGuest guest = Open();
        using Socket server = Bound(ProtocolType.Udp);
        byte[] frame = FrameGuest.UdpFrame(IPAddress.Parse("10.0.2.2"), 4000, Port(server), "odd"u8, partialChecksum: true);
        guest.Send(frame, new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 6 });
        Assert.True(server.Poll(TimeSpan.FromSeconds(20), SelectMode.SelectRead));
        // The same without the completion is wrong and dropped.
        server.Receive(new byte[8]);
        guest.Send(frame, default);
        guest.Dhcp();
        Assert.False(server.Poll(TimeSpan.FromMilliseconds(50), SelectMode.SelectRead));
    }

    [Theory]
    [InlineData(1500)]
    [InlineData(UserNetworkOptions.MaximumMtu)]
    public void A_datagram_longer_than_what_every_guest_takes_comes_in_fragments(int mtu)
    {
        FrameGuest guest = Open(new UserNetworkOptions { Mtu = mtu });
        using Socket server = Bound(ProtocolType.Udp);
        guest.SendUdp(IPAddress.Parse("10.0.2.2"), 4000, Port(server), "give"u8);
        EndPoint from = new IPEndPoint(IPAddress.Any, 0);
        server.ReceiveFrom(new byte[16], ref from);
        byte[] data = new byte[9001];
        new Random(1).NextBytes(data);
        server.SendTo(data, from);
        byte[] whole = new byte[9009];
        for (int got = 0; got < whole.Length;)
        {
            byte[] packet = guest.WaitForIpv4(17);
            Assert.True(packet.Length <= 1500);
            Assert.Equal(0xFFFF, FrameGuest.Sum(packet.AsSpan(0, 20)));
            ushort word = BinaryPrimitives.ReadUInt16BigEndian(packet.AsSpan(6));
            packet.AsSpan(20).CopyTo(whole.AsSpan((word & 0x1FFF) * 8));
            got += packet.Length - 20;
            Assert.Equal(got < whole.Length, (word & 0x2000) != 0);
        }
        Assert.Equal(data, whole[8..]);
    }

    [Theory]
    [InlineData(1500, false)]
    [InlineData(576, true)]
    public void Fragments_of_the_guest_are_put_together_in_any_order(int mtu, bool backwards)
    {
        FrameGuest guest = Open();
        using Socket server = Bound(ProtocolType.Udp);
        byte[] data = new byte[20_001];
        new Random(2).NextBytes(data);
        List<byte[]> frames = [];
        Ipv4Fragments.Split(FrameGuest.UdpFrame(IPAddress.Parse("10.0.2.2"), 4000, Port(server), data, false), mtu, f => frames.Add(f.ToArray()));
        Assert.True(frames.Count > 10);
        if (backwards)
        {
            frames.Reverse();
        }
        frames.ForEach(f => guest.Send(f, default));
        byte[] buffer = new byte[30_000];
        Assert.Equal(data.Length, server.Receive(buffer));
        Assert.Equal(data, buffer[..data.Length]);
    }

    [Fact]
    public void Fragments_that_overlap_or_never_end_are_dropped()
    {
        FrameGuest guest = Open();
        using Socket server = Bound(ProtocolType.Udp);
        List<byte[]> frames = [];
        byte[] whole = FrameGuest.UdpFrame(IPAddress.Parse("10.0.2.2"), 4000, Port(server), new byte[4000], false);
        Ipv4Fragments.Split(whole, 1500, f => frames.Add(f.ToArray()));
        foreach (int i in (int[])[0, 1, 1, 2])
        {
            guest.Send(frames[i], default);
        }
        for (int id = 0; id < 100; id++)
        {
            byte[] first = [.. frames[0]];
            first[18] = (byte)id;
            first.AsSpan(24, 2).Clear();
            BinaryPrimitives.WriteUInt16BigEndian(first.AsSpan(24), InternetChecksum.Compute(first.AsSpan(14, 20)));
            guest.Send(first, default);
        }
        guest.Dhcp();
        Assert.False(server.Poll(TimeSpan.FromMilliseconds(50), SelectMode.SelectRead));
        frames.ForEach(f => guest.Send(f, default));
        Assert.Equal(4000, server.Receive(new byte[5000]));
    }

    [Fact]
    public void A_guest_that_takes_no_frames_only_loses_them()
    {
        FrameGuest guest = Open();
        byte[] request = FrameGuest.ArpRequest(IPAddress.Parse("10.0.2.2"));
        for (int i = 0; i < 100_000; i++)
        {
            guest.Send(request, default);
        }
        SpinWait.SpinUntil(() => guest.Link.DropsToGuest != 0, TimeSpan.FromSeconds(20));
        Assert.NotEqual(0, guest.Link.DropsToGuest);
        guest.Drain();
        guest.Dhcp();
    }

    [Fact]
    public void Random_frames_do_no_harm()
    {
        int cases = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out int more) ? more : 50_000;
        FrameGuest guest = Open(new UserNetworkOptions { Restricted = true });
        Random random = new(7);
        byte[] buffer = new byte[65562];
        byte[][] seeds = [FrameGuest.ArpRequest(FrameGuest.Address), FrameGuest.UdpFrame(IPAddress.Parse("10.0.2.2"), 68, 67, new byte[300], false), FrameGuest.UdpFrame(IPAddress.Parse("10.0.2.3"), 68, 53, new byte[40], true), FrameGuest.RouterSolicitation(), FrameGuest.TcpSyn()];
        for (int i = 0; i < cases; i++)
        {
            byte[] frame;
            if (random.Next(4) == 0)
            {
                frame = new byte[random.Next(0, random.Next(8) == 0 ? 66000 : 200)];
                random.NextBytes(frame);
            }
            else
            {
                frame = [.. seeds[random.Next(seeds.Length)]];
                for (int flips = random.Next(1, 6); flips > 0; flips--)
                {
                    frame[random.Next(12, frame.Length)] ^= (byte)(1 << random.Next(8));
                }
            }
            if (frame.Length > 14 && random.Next(3) != 0)
            {
                ReadOnlySpan<ushort> types = [0x0800, 0x86DD, 0x0806];
                BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), types[random.Next(3)]);
            }
            guest.Send(frame, new FrameOffload
            {
                NeedsChecksum = random.Next(2) == 0,
                ChecksumStart = (ushort)random.Next(65536),
                ChecksumOffset = (ushort)random.Next(random.Next(2) == 0 ? 64 : 65536),
                Segmentation = (FrameSegmentation)random.Next(4),
                SegmentSize = (ushort)random.Next(65536),
            });
            while (guest.Link.TryReceive(buffer, out _) > 0)
            {
            }
        }
        guest.Drain();
        guest.Dhcp();
    }

    [Fact]
    public void Random_segments_of_an_open_connection_do_no_harm()
    {
        int cases = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out int more) ? more : 30_000;
        FrameGuest guest = Open(new UserNetworkOptions { Forwards = PortForward.Parse("0:80") });
        Random random = new(11);
        byte[] buffer = new byte[65562], host = new byte[65536];
        for (int done = 0; done < cases;)
        {
            using Socket client = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
            client.Connect(IPAddress.Loopback, guest.Link.Forwards[0].HostPort);
            byte[] syn = guest.WaitForIpv4(6, p => p[33] == 2);
            byte[] reply = guest.TcpReply(syn, acknowledge: 1, sequence: 5000, flags: 0x12);
            guest.Send(reply, Segment);
            client.Blocking = false;
            for (int i = 0; i < 500; i++, done++)
            {
                byte[] frame = [.. guest.TcpReply(syn, acknowledge: 1, sequence: 5001, flags: (byte)(random.Next(3) == 0 ? random.Next(256) : 0x10)), .. new byte[random.Next(10) == 0 ? random.Next(60000) : random.Next(100)]];
                random.NextBytes(frame.AsSpan(54));
                for (int flips = random.Next(4); flips > 0; flips--)
                {
                    frame[random.Next(38, 54)] ^= (byte)(1 << random.Next(8)); // sequence, acknowledgement, header length, flags, window, urgent pointer
                }
                guest.Send(frame, Segment); // lengths and checksum are set on the way
                if (random.Next(4) == 0)
                {
                    client.Send(host.AsSpan(0, random.Next(host.Length)), SocketFlags.None, out _);
                    client.Receive(host, SocketFlags.None, out _);
                }
                while (guest.Link.TryReceive(buffer, out _) > 0)
                {
                }
            }
        }
        guest.Drain();
        guest.Dhcp();
    }

    private static FrameOffload Segment => new() { NeedsChecksum = true, Segmentation = FrameSegmentation.TcpV4, SegmentSize = 1460 };

    private static Socket Bound(ProtocolType protocol)
    {
        Socket socket = new(AddressFamily.InterNetwork, protocol == ProtocolType.Udp ? SocketType.Dgram : SocketType.Stream, protocol) { ReceiveTimeout = 20000 };
        socket.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        return socket;
    }

    private static ushort Port(Socket socket) => (ushort)((IPEndPoint)socket.LocalEndPoint!).Port;
}
