using System.Net.Sockets;
using System.Text;
using Lodge.Management.Control;
using Lodge.Management.Machines;
using Microsoft.Win32.SafeHandles;
using Xunit;

namespace Lodge.Management.Tests.Control;

/// <summary>Open files over a control socket, from well-behaved and other peers.</summary>
public sealed class OpenFilesTests : IDisposable
{
    private readonly MachineFolder _machine = new(Directory.CreateTempSubdirectory("lodge-files.").FullName);
    private readonly List<string> _taken = [];

    public OpenFilesTests() => Directory.CreateDirectory(_machine.Work);

    public void Dispose() => Directory.Delete(_machine.Path, recursive: true);

    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(64)]
    [InlineData(200)]
    public async Task FilesArriveInTheirOrderAndAreThePeersOwn(int count)
    {
        using ControlServer server = Serve();
        List<SafeFileHandle> files = [.. Enumerable.Range(0, count).Select(Open)];
        using ControlClient client = ControlClient.Connect(_machine);
        ControlMemory answer = await client.HandAsync("/v1/take", new ControlMemory((ulong)count), ControlJson.Default.ControlMemory, files, ControlJson.Default.ControlMemory, TestContext.Current.CancellationToken);
        Assert.Equal((ulong)count, answer.Bytes);
        Assert.Equal(Enumerable.Range(0, count).Select(i => $"file {i}"), _taken);
        files.ForEach(file => file.Dispose());
    }

    [Fact]
    public async Task ARefusalIsOneOfItsOwnKindAndNothingIsLeftOpen()
    {
        using ControlServer server = Serve();
        using SafeFileHandle file = Open(0);
        using (ControlClient client = ControlClient.Connect(_machine))
        {
            ControlRefusedException refused = await Assert.ThrowsAsync<ControlRefusedException>(() =>
                client.HandAsync("/v1/refuse", new ControlMemory(1), ControlJson.Default.ControlMemory, [file], ControlJson.Default.ControlMemory, TestContext.Current.CancellationToken));
            Assert.Contains("no such luck", refused.Message);
        }
        using (ControlClient client = ControlClient.Connect(_machine))
        {
            await Assert.ThrowsAsync<ControlRefusedException>(() =>
                client.HandAsync("/v1/early", new ControlMemory(1), ControlJson.Default.ControlMemory, [file], ControlJson.Default.ControlMemory, TestContext.Current.CancellationToken));
        }
        // In this process each open file is seen: only the test's own.
        Assert.Equal(1, Directory.EnumerateFiles("/proc/self/fd").Count(link => new FileInfo(link).LinkTarget == Path.Combine(_machine.Path, "0")));
    }

    /// <summary>What a peer may send in place of the open files that it has announced: other bytes, too few, too many, all at once, nothing at all.</summary>
    [Theory]
    [InlineData("bytes", "sent something else than open files")]
    [InlineData("close", null)]
    [InlineData("few", null)]
    [InlineData("more", "more than the 2 open files")]
    [InlineData("flood", "more than 64 open files at once")]
    public async Task AHostilePeerIsRefusedAndItsFilesAreClosed(string what, string? words)
    {
        using ControlServer server = Serve();
        using SafeFileHandle file = Open(0);
        using Socket peer = ControlSocket.Connect(_machine.ControlSocket);
        await peer.SendAsync(Encoding.ASCII.GetBytes("POST /v1/take HTTP/1.1\r\nContent-Length: 11\r\n\r\n{\"bytes\":2}"), TestContext.Current.CancellationToken);
        byte[] buffer = new byte[4096];
        int got = await peer.ReceiveAsync(buffer, TestContext.Current.CancellationToken);
        Assert.StartsWith("HTTP/1.1 101 ", Encoding.ASCII.GetString(buffer, 0, got));
        switch (what)
        {
            case "bytes":
                await peer.SendAsync("h"u8.ToArray(), TestContext.Current.CancellationToken);
                break;
            case "few":
                new DescriptorSocket(peer).Send([file], TimeSpan.FromSeconds(10));
                break;
            case "more":
                new DescriptorSocket(peer).Send([file, file, file], TimeSpan.FromSeconds(10));
                break;
            case "flood":
                new DescriptorSocket(peer).SendAtOnce([.. Enumerable.Repeat(file, 200)]);
                break;
        }
        if (what is "close" or "few")
        {
            peer.Shutdown(SocketShutdown.Send);
        }
        StringBuilder answer = new();
        while ((got = await peer.ReceiveAsync(buffer, TestContext.Current.CancellationToken)) != 0)
        {
            answer.Append(Encoding.UTF8.GetString(buffer, 0, got));
        }
        Assert.StartsWith("{\"error\":", answer.ToString());
        Assert.Contains(words ?? "the peer has gone before all open files had come", answer.ToString());
        Assert.Empty(_taken);
        Assert.Equal(1, Directory.EnumerateFiles("/proc/self/fd").Count(link => new FileInfo(link).LinkTarget == Path.Combine(_machine.Path, "0")));
    }

    [Fact]
    public async Task FilesThatComeBeforeTheyAreAskedForAreRefused()
    {
        using ControlServer server = Serve();
        using Socket peer = ControlSocket.Connect(_machine.ControlSocket);
        await peer.SendAsync(Encoding.ASCII.GetBytes("POST /v1/take HTTP/1.1\r\nContent-Length: 11\r\n\r\n{\"bytes\":2}more"), TestContext.Current.CancellationToken);
        byte[] buffer = new byte[4096];
        int got = await peer.ReceiveAsync(buffer, TestContext.Current.CancellationToken);
        Assert.StartsWith("HTTP/1.1 400 ", Encoding.ASCII.GetString(buffer, 0, got));
    }

    private ControlServer Serve() => new(_machine.ControlSocket,
    [
        new ControlRoute("POST", "/v1/take", request => Task.FromResult(new ControlReply
        {
            Files = ((int)request.Read(ControlJson.Default.ControlMemory).Bytes, files =>
            {
                foreach (SafeFileHandle file in files)
                {
                    byte[] text = new byte[16];
                    _taken.Add(Encoding.ASCII.GetString(text, 0, RandomAccess.Read(file, text, 0)));
                    file.Dispose();
                }
                return Task.FromResult(ControlReply.Of(new ControlMemory((ulong)files.Count), ControlJson.Default.ControlMemory));
            }
            ),
        })),
        new ControlRoute("POST", "/v1/refuse", request => Task.FromResult(new ControlReply
        {
            Files = (1, files =>
            {
                files[0].Dispose();
                throw new ControlException(409, "no such luck");
            }
            ),
        })),
        new ControlRoute("POST", "/v1/early", _ => throw new ControlException(409, "not even begun")),
    ]);

    private SafeFileHandle Open(int number)
    {
        string path = Path.Combine(_machine.Path, $"{number}");
        File.WriteAllText(path, $"file {number}");
        return File.OpenHandle(path);
    }
}
