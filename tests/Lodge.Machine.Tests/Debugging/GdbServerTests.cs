using System.Net;
using System.Net.Sockets;
using System.Text;
using Lodge.Engine;
using Lodge.Machine.Debugging;
using Xunit;

namespace Lodge.Machine.Tests.Debugging;

public sealed class GdbServerTests : IDisposable
{
    private readonly FakeDebugTarget _target = new();
    private readonly GdbServer _server;

    public GdbServerTests()
    {
        _server = new GdbServer(_target, new IPEndPoint(IPAddress.Loopback, 0));
    }

    public void Dispose()
    {
        _server.Dispose();
        _target.Dispose();
    }

    private static Socket Connect(EndPoint address)
    {
        var socket = new Socket(address.AddressFamily, SocketType.Stream, address is IPEndPoint ? ProtocolType.Tcp : ProtocolType.Unspecified) { ReceiveTimeout = 60_000 };
        socket.Connect(address);
        return socket;
    }

    private static string Receive(Socket socket, int length)
    {
        byte[] data = new byte[length];
        int done = 0;
        while (done < length && socket.Receive(data.AsSpan(done)) is var count and > 0)
        {
            done += count;
        }
        return Encoding.Latin1.GetString(data, 0, done);
    }

    private static string Ask(Socket socket, string sent, string expected)
    {
        socket.Send(Encoding.Latin1.GetBytes(sent));
        return Receive(socket, expected.Length);
    }

    private static void Expect(Socket socket, string sent, string expected) => Assert.Equal(expected, Ask(socket, sent, expected));

    [Fact]
    public void Packets_are_acknowledged_until_the_client_wants_it_no_more()
    {
        Assert.StartsWith("target remote 127.0.0.1:", _server.Command, StringComparison.Ordinal);
        using Socket client = Connect(_server.Address);
        Expect(client, "+$qC#b4", "+$QC1#c5");
        Expect(client, "-", "$QC1#c5"); // once more, please
        Expect(client, "+$qC#b5", "-");
        Expect(client, "$QStartNoAckMode#b0", "+$OK#9a");
        Expect(client, "+$qC#b4", "$QC1#c5");
    }

    [Fact]
    public async Task Stops_and_interrupts_reach_the_client_and_the_next_one_is_served()
    {
        using (Socket client = Connect(_server.Address))
        {
            Expect(client, "+$?#3f", "+$T05thread:1;#d7");
            Task resuming = _target.Resuming.Task;
            Expect(client, "+$c#63", "+");
            await resuming.WaitAsync(TimeSpan.FromMinutes(1));
            _target.Stop((1, new DebugEvent(DebugEventKind.Step, 0, false)));
            Assert.Equal("$T05thread:2;#d8", Receive(client, 16));
            Expect(client, "+$c#63", "+");
            Expect(client, "\x3", "$T02thread:2;#d5");
            Assert.False(_target.Running);
            resuming = _target.Resuming.Task;
            client.Close();
            await resuming.WaitAsync(TimeSpan.FromMinutes(1)); // it goes on without its debugger
        }
        using Socket second = Connect(_server.Address);
        Expect(second, "+$?#3f", "+$T05thread:1;#d7");
        Assert.False(_target.Running);
    }

    [Fact]
    public async Task The_client_hears_of_the_machines_end_even_when_the_server_goes_at_once()
    {
        using Socket client = Connect(_server.Address);
        Task resuming = _target.Resuming.Task;
        Expect(client, "+$c#63", "+");
        await resuming.WaitAsync(TimeSpan.FromMinutes(1));
        _target.Complete();
        _server.Dispose();
        Assert.Equal("$W00#b7", Receive(client, 7));
        Assert.Equal("", Receive(client, 1));
    }

    [Fact]
    public void A_client_that_floods_is_dropped()
    {
        using Socket client = Connect(_server.Address);
        byte[] flood = Encoding.ASCII.GetBytes(string.Concat(Enumerable.Repeat("+$c#63", 2000)));
        try
        {
            client.Send(flood);
            while (client.Receive(new byte[4096]) > 0)
            {
            }
        }
        catch (SocketException)
        {
            // Reset rather than closed.
        }
        using Socket second = Connect(_server.Address);
        Expect(second, "+$qC#b4", "+$QC1#c5");
    }

    [Fact]
    public void A_unix_socket_is_its_owners_and_goes_with_the_server()
    {
        string directory = Directory.CreateTempSubdirectory("lodge-gdb-").FullName;
        string path = Path.Combine(directory, "gdb");
        using (var server = new GdbServer(_target, new UnixDomainSocketEndPoint(path)))
        {
            Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(path));
            Assert.Equal($"target remote {path}", server.Command);
            using Socket client = Connect(new UnixDomainSocketEndPoint(path));
            Expect(client, "+$qC#b4", "+$QC1#c5");
        }
        Assert.False(File.Exists(path));
        Directory.Delete(directory);
    }

    [Fact]
    public void An_address_in_use_is_told() => Assert.Throws<SocketException>(() => new GdbServer(_target, _server.Address));
}
