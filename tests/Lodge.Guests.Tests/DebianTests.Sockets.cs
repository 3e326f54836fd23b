using System.Net.Sockets;
using System.Text;
using Xunit;

namespace Lodge.Guests.Tests;

public sealed partial class DebianTests
{
    /// <summary>A program of the host reaches one of the guest through vsock, and systemd tells through it that the system is up.</summary>
    [Fact]
    public async Task TheHostReachesAServiceOfTheGuestOverVsock()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        string path = Path.Combine(image.Folder, "vsock");
        const string Service = "systemctl is-system-running --wait >/dev/null; systemd-socket-activate --accept -l vsock::1024 --inetd sh -c 'cat; touch /run/seen' 2>/dev/null & while [ ! -e /run/seen ]; do sleep 0.2; done; kill $!";
        Task<(int Status, string Output, string Error)> run = Task.Run(() => image.Run("run", "debian", "--net", "none", "--verbose", "--vsock", path, "--", "sh", "-c", Service));
        byte[] sent = new byte[300_000];
        new Random(5).NextBytes(sent);
        Socket? stream = null;
        while (stream is null && !run.IsCompleted)
        {
            stream = TryReach(path, 1024);
            await Task.Delay(200);
        }
        byte[] echoed = new byte[sent.Length];
        if (stream is not null)
        {
            Task sending = Task.Run(() => stream.Send(sent));
            for (int have = 0; have < echoed.Length && stream.Receive(echoed, have, echoed.Length - have, SocketFlags.None) is > 0 and var got;)
            {
                have += got;
            }
            await sending;
            stream.Shutdown(SocketShutdown.Both);
            stream.Dispose();
        }
        (int status, string output, string error) = await run;
        Assert.True(status == 0, $"status {status}: {output}{error}");
        Assert.Equal(sent, echoed);
        Assert.Contains("lodge: the guest's system is up after ", error);
    }

    private static Socket? TryReach(string path, uint port)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 60_000 };
        byte[] answer = new byte[64];
        try
        {
            socket.Connect(new UnixDomainSocketEndPoint(path));
            socket.Send(Encoding.ASCII.GetBytes($"CONNECT {port}\n"));
            for (int length = 0; length < answer.Length && socket.Receive(answer, length, 1, SocketFlags.None) == 1; length++)
            {
                if (answer[length] == '\n' && answer.AsSpan().StartsWith("OK "u8))
                {
                    return socket;
                }
            }
        }
        catch (SocketException)
        {
            // Not yet.
        }
        socket.Dispose();
        return null;
    }
}
