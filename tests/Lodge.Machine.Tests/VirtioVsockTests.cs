using System.Net.Sockets;
using System.Text;
using Lodge.Machine.Devices.Virtio.Vsock;
using Lodge.Machine.Virtio;
using Lodge.Machine.Virtio.Transport;
using Lodge.Network.Vsock;
using Xunit;

namespace Lodge.Machine.Tests;

public sealed class VirtioVsockTests : IDisposable
{
    private const uint GuestPort = 5000;
    private const int BufferLength = 4096;
    private readonly string _folder = Directory.CreateTempSubdirectory("vsock").FullName;
    private readonly UnixVsockHost _host;
    private readonly VirtioMachine _machine;
    private readonly VirtioGuestDriver _driver;
    private readonly GuestRing _receive, _transmit, _events;
    private readonly ulong _out, _in;

    public VirtioVsockTests()
    {
        _host = new UnixVsockHost(SocketPath);
        _machine = new VirtioMachine(memory => new VirtioVsock(memory, new VirtioVsockConfiguration(_host) { GuestCid = 7, MaximumStreams = 4 }));
        _machine.Function.Start();
        _driver = new VirtioGuestDriver(_machine);
        Assert.True(_driver.Negotiate(ulong.MaxValue));
        _receive = _driver.SetUpQueue(0, 128);
        _transmit = _driver.SetUpQueue(1, 128);
        _events = _driver.SetUpQueue(2, 16);
        _out = _driver.Allocate(1 << 16);
        _in = _driver.Allocate(64 * BufferLength);
        _driver.DriverOk();
        for (int i = 0; i < 64; i++)
        {
            _receive.Add((_in + (ulong)(i * BufferLength), BufferLength, true));
        }
    }

    private string SocketPath => Path.Combine(_folder, "v");

    public void Dispose()
    {
        _machine.Dispose();
        _host.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public void The_guest_reads_its_context_identifier() => Assert.Equal(7UL, BitConverter.ToUInt64(_driver.DeviceConfig(0, 8)));

    [Fact]
    public void The_guest_connects_to_a_program_of_the_host()
    {
        using Socket listener = Listen(1234);
        Send(VsockOperation.Request, 1234);
        VsockPacket answer = Next(out _);
        Assert.Equal(VsockOperation.Response, answer.Operation);
        Assert.Equal((2UL, 7UL, 1234U, GuestPort), (answer.SourceCid, answer.DestinationCid, answer.SourcePort, answer.DestinationPort));
        Assert.NotEqual(0U, answer.BufferSize);
        using Socket peer = listener.Accept();

        Send(VsockOperation.Data, 1234, "hello"u8);
        Assert.Equal("hello", Receive(peer, 5));
        peer.Send("world"u8);
        Assert.Equal(VsockOperation.Data, Next(out byte[] data).Operation);
        Assert.Equal("world", Encoding.ASCII.GetString(data));

        peer.Shutdown(SocketShutdown.Send);
        VsockPacket end = Next(out _);
        Assert.Equal((VsockOperation.Shutdown, VsockPacket.ShutdownSend), (end.Operation, end.Flags));
        Send(VsockOperation.Data, 1234, "still"u8);        // half closed
        Assert.Equal("still", Receive(peer, 5));
        Send(VsockOperation.Shutdown, 1234, flags: 3);
        Assert.Equal(VsockOperation.Reset, Next(out _).Operation);
        Assert.Equal("", Receive(peer, 1));
    }

    [Fact]
    public void A_program_of_the_host_connects_to_the_guest()
    {
        using Socket client = Connect();
        client.Send("CONNECT 99\n"u8);
        VsockPacket request = Next(out _);
        Assert.Equal((VsockOperation.Request, 99U), (request.Operation, request.DestinationPort));
        Send(VsockOperation.Response, request.SourcePort, guestPort: 99);
        Assert.Equal($"OK {request.SourcePort}\n", Receive(client, $"OK {request.SourcePort}\n".Length));
        client.Send("abc"u8);
        Assert.Equal(VsockOperation.Data, Next(out byte[] data).Operation);
        Assert.Equal("abc", Encoding.ASCII.GetString(data));
        Send(VsockOperation.Data, request.SourcePort, "xyz"u8, guestPort: 99);
        Assert.Equal("xyz", Receive(client, 3));
    }

    [Fact]
    public void A_refusal_closes_the_hosts_connection()
    {
        using Socket client = Connect();
        client.Send("CONNECT 99\n"u8);
        VsockPacket request = Next(out _);
        Send(VsockOperation.Reset, request.SourcePort, guestPort: 99);
        Assert.Equal("", Receive(client, 1));
    }

    [Theory]
    [InlineData("CONNECT\n")]
    [InlineData("CONNECT -1\n")]
    [InlineData("CONNECT 4294967296\n")]
    [InlineData("GET / HTTP/1.1\r\n")]
    [InlineData("CONNECT 00000000000000000000000000000000000000001\n")]
    public void What_is_no_request_is_hung_up_on(string line)
    {
        using Socket client = Connect();
        client.Send(Encoding.ASCII.GetBytes(line));
        Assert.Equal("", Receive(client, 1));
    }

    [Fact]
    public void Where_nobody_answers_the_guest_gets_a_reset()
    {
        Send(VsockOperation.Request, 4321);
        VsockPacket answer = Next(out _);
        Assert.Equal((VsockOperation.Reset, 4321U, GuestPort), (answer.Operation, answer.SourcePort, answer.DestinationPort));
        Send(VsockOperation.Data, 4321, "x"u8);        // a stream that is not there
        Assert.Equal(VsockOperation.Reset, Next(out _).Operation);
    }

    [Fact]
    public void Streams_are_limited()
    {
        using Socket listener = Listen(1);
        for (uint port = 0; port < 5; port++)
        {
            Send(VsockOperation.Request, 1, guestPort: port);
            Assert.Equal(port < 4 ? VsockOperation.Response : VsockOperation.Reset, Next(out _).Operation);
        }
    }

    [Fact]
    public void The_host_sends_no_more_than_the_guests_credit()
    {
        using Socket listener = Listen(1);
        Send(VsockOperation.Request, 1, buffer: 10);
        Next(out _);
        using Socket peer = listener.Accept();
        peer.Send(new byte[25]);
        Assert.Equal(VsockOperation.Data, Next(out byte[] first).Operation);
        Assert.Equal(10, first.Length);
        Assert.False(_receive.TryTakeUsed(out _, out _));
        Send(VsockOperation.CreditUpdate, 1, buffer: 10, forwarded: 10);
        Assert.Equal(VsockOperation.Data, Next(out byte[] second).Operation);
        Assert.Equal(10, second.Length);
        Send(VsockOperation.CreditUpdate, 1, buffer: 100, forwarded: 20);
        Next(out byte[] third);
        Assert.Equal(5, third.Length);
    }

    [Fact]
    public void A_guest_that_ignores_its_credit_loses_the_stream()
    {
        using Socket listener = Listen(1);
        Send(VsockOperation.Request, 1);
        uint credit = Next(out _).BufferSize;
        using Socket peer = listener.Accept();
        peer.ReceiveBufferSize = 4096;
        byte[] data = new byte[32 << 10];
        VsockOperation got = VsockOperation.Invalid;
        for (uint sent = 0; sent < 64 * credit && got != VsockOperation.Reset; sent += (uint)data.Length)
        {
            Send(VsockOperation.Data, 1, data);
            while (TryNext(out VsockPacket packet, out _))
            {
                got = packet.Operation;
            }
        }
        Assert.Equal(VsockOperation.Reset, got);
    }

    [Fact]
    public async Task Much_data_passes_both_ways()
    {
        using Socket listener = Listen(1);
        Send(VsockOperation.Request, 1, buffer: 1 << 20);
        uint credit = Next(out _).BufferSize;
        using Socket peer = listener.Accept();
        byte[] data = new byte[3_000_000];
        new Random(1).NextBytes(data);
        Task<byte[]> echoed = Task.Run(() =>
        {
            byte[] all = new byte[data.Length];
            for (int have = 0; have < all.Length;)
            {
                int count = peer.Receive(all, have, Math.Min(20_000, all.Length - have), SocketFlags.None);
                peer.Send(all, have, count, SocketFlags.None);
                have += count;
            }
            return all;
        });
        List<byte> back = [];
        uint sent = 0, forwarded = 0;
        Wait.Until(() =>
        {
            while (sent < data.Length && sent - forwarded + 8192 <= credit)
            {
                int step = (int)Math.Min(8192, data.Length - sent);
                Send(VsockOperation.Data, 1, data.AsSpan((int)sent, step), buffer: 1 << 20, forwarded: (uint)back.Count);
                sent += (uint)step;
            }
            while (TryNext(out VsockPacket packet, out byte[] part))
            {
                Assert.NotEqual(VsockOperation.Reset, packet.Operation);
                forwarded = packet.Forwarded;
                back.AddRange(part);
            }
            Send(VsockOperation.CreditUpdate, 1, buffer: 1 << 20, forwarded: (uint)back.Count);
            return back.Count == data.Length;
        });
        Assert.Equal(data, back);
        Assert.Equal(data, await echoed);
    }

    [Fact]
    public void A_restored_guest_is_told_that_its_streams_are_gone()
    {
        using Socket listener = Listen(1);
        Send(VsockOperation.Request, 1);
        Next(out _);
        using Socket peer = listener.Accept();
        ulong buffer = _driver.Allocate(16);
        _events.Add((buffer, 8, true));
        _machine.Function.Stop();
        byte[] state = _machine.Save();
        _machine.Restore(state);
        _machine.Function.Start();
        Assert.Equal(4U, _events.TakeUsed().Length);
        _machine.Memory.TryRead(buffer, out uint id);
        Assert.Equal(0U, id);
        Assert.Equal("", Receive(peer, 1));
    }

    [Fact]
    public void A_reset_drops_all_streams()
    {
        using Socket listener = Listen(1);
        Send(VsockOperation.Request, 1);
        Next(out _);
        using Socket peer = listener.Accept();
        _driver.Reset();
        Assert.Equal("", Receive(peer, 1));
    }

    [Fact]
    public void A_socket_left_behind_is_taken_over_but_nothing_else()
    {
        string path = Path.Combine(_folder, "left");
        using (var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            socket.Bind(new UnixDomainSocketEndPoint(path + ".bound"));
            using var link = System.Diagnostics.Process.Start("ln", [path + ".bound", path]);      // disposing removes the bound name only
            link.WaitForExit();
        }
        Assert.True(File.Exists(path));
        new UnixVsockHost(path).Dispose();
        Assert.False(File.Exists(path));
        File.WriteAllText(path, "text");
        Assert.Throws<Network.NetworkException>(() => new UnixVsockHost(path));
        Assert.Equal("text", File.ReadAllText(path));
        Assert.Contains("there is no folder", Assert.Throws<Network.NetworkException>(() => new UnixVsockHost(Path.Combine(_folder, "none", "v"))).Message);
        Assert.Contains("in use", Assert.Throws<Network.NetworkException>(() => new UnixVsockHost(SocketPath)).Message);
    }

    private Socket Listen(uint port)
    {
        var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint($"{SocketPath}_{port}"));
        listener.Listen(8);
        return listener;
    }

    private Socket Connect()
    {
        var client = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        client.Connect(new UnixDomainSocketEndPoint(SocketPath));
        return client;
    }

    private static string Receive(Socket socket, int count)
    {
        byte[] data = new byte[count];
        int have = 0;
        socket.ReceiveTimeout = 30_000;
        while (have < count && socket.Receive(data, have, count - have, SocketFlags.None, out _) is > 0 and var got)
        {
            have += got;
        }
        return Encoding.ASCII.GetString(data, 0, have);
    }

    private void Send(VsockOperation operation, uint hostPort, ReadOnlySpan<byte> data = default, uint guestPort = GuestPort, uint flags = 0, uint buffer = 65536, uint forwarded = 0)
    {
        byte[] bytes = new byte[VsockPacket.Length + data.Length];
        new VsockPacket
        {
            SourceCid = 7,
            DestinationCid = 2,
            SourcePort = guestPort,
            DestinationPort = hostPort,
            DataLength = (uint)data.Length,
            Type = VsockPacket.TypeStream,
            Operation = operation,
            Flags = flags,
            BufferSize = buffer,
            Forwarded = forwarded,
        }.Write(bytes);
        data.CopyTo(bytes.AsSpan(VsockPacket.Length));
        _machine.Memory.TryWrite(_out, bytes);
        _transmit.Add((_out, (uint)bytes.Length, false));
        _transmit.TakeUsed();
    }

    private VsockPacket Next(out byte[] data)
    {
        VsockPacket packet = default;
        byte[] found = [];
        Wait.Until(() => TryNext(out packet, out found), "packet");
        data = found;
        return packet;
    }

    private bool TryNext(out VsockPacket packet, out byte[] data)
    {
        packet = default;
        data = [];
        if (!_receive.TryTakeUsed(out uint head, out uint length))
        {
            return false;
        }
        _machine.Memory.TryRead(_receive.Descriptors + (16 * head), out ulong at);
        byte[] bytes = new byte[length];
        _machine.Memory.TryRead(at, bytes);
        packet = VsockPacket.Read(bytes);
        Assert.Equal(length - VsockPacket.Length, packet.DataLength);
        data = bytes[VsockPacket.Length..];
        _receive.Add((at, BufferLength, true));
        return true;
    }
}
