using System.Net;
using System.Net.Sockets;
using Lodge.Network.User;
using Xunit;

namespace Lodge.Network.Tests;

/// <summary>libslirp's clock, which all stacks of the process have in common.</summary>
public sealed class SlirpStackTests : IFrameSink, IDisposable
{
    private readonly string _copy = Path.GetTempFileName();
    private readonly List<byte[]> _frames = [];

    public void Dispose() => File.Delete(_copy);

    void IFrameSink.Deliver(ReadOnlySpan<byte> frame) => _frames.Add(frame.ToArray());

    /// <summary>What the guest sent before the stack waited for the first time, with a library that no other stack has used.</summary>
    [Fact]
    public void The_first_datagram_of_the_process_is_answered()
    {
        Assert.SkipWhen(UserNetwork.Problem is not null, UserNetwork.Problem ?? "");
        string loaded = File.ReadLines("/proc/self/maps").First(l => l.Contains("/libslirp.so", StringComparison.Ordinal));
        File.Copy(loaded[loaded.IndexOf('/', StringComparison.Ordinal)..], _copy, true);
        SlirpLibrary library = SlirpLibrary.Load(_copy).Library!;
        using SlirpStack stack = new(library, new UserNetworkOptions(), this);
        using Socket server = new(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp) { ReceiveTimeout = 20000 };
        server.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        stack.Input(FrameGuest.Announcement());
        stack.Input(FrameGuest.UdpFrame(IPAddress.Parse("10.0.2.2"), 4000, (ushort)((IPEndPoint)server.LocalEndPoint!).Port, "ping"u8, false));
        EndPoint from = new IPEndPoint(IPAddress.Any, 0);
        server.ReceiveFrom(new byte[16], ref from);
        stack.Act();
        stack.Fill(-1, reading: true); // closes sockets that expired
        server.SendTo("pong"u8, from);
        for (int turn = 0; turn < 20 && _frames.Count == 0; turn++)
        {
            stack.Wait(1_000_000_000);
            stack.Act();
            stack.Fill(-1, reading: true);
        }
        Assert.Equal("pong"u8, Assert.Single(_frames).AsSpan(42));
    }

    /// <summary>The library has words of 32 bits for milliseconds, and compares them.</summary>
    [Fact]
    public void A_socket_never_ends_beyond_the_span_of_the_librarys_clock()
    {
        const long Life = 240_000, Day = 86_400_000;
        long last = -1;
        for (long elapsed = 0; elapsed < 120 * Day; elapsed += 60_000)
        {
            long now = SlirpStack.Clock(elapsed * 1_000_000) / 1_000_000;
            Assert.True(now > last && now - elapsed < Day);
            Assert.True((uint)now < (uint)(now + Life));
            last = now;
        }
    }
}
