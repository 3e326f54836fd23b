using System.Net.Sockets;
using System.Text;
using Lodge.Management.Control;
using Xunit;

namespace Lodge.Management.Tests.Control;

/// <summary>The control socket's HTTP, with clients of our own and raw bytes.</summary>
public sealed class ControlServerTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-control.").FullName;

    private string SocketPath => Path.Combine(_folder, "control.sock");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task ARequestIsAnswered()
    {
        using ControlServer server = Serve();
        Assert.Equal("HTTP/1.1 200 OK", (await RawAsync("GET /v1/echo?text=a%20b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).Split("\r\n")[0]);
        Assert.EndsWith("\r\n\r\na b", await RawAsync("GET /v1/echo?text=a%20b HTTP/1.1\r\nConnection: close\r\n\r\n"));
        Assert.EndsWith("hello", await RawAsync("PUT /v1/echo HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"));
        Assert.EndsWith("hello", await RawAsync("PUT /v1/echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"));
    }

    [Fact]
    public async Task ConnectionsAreKeptBetweenRequests()
    {
        using ControlServer server = Serve();
        string answers = await RawAsync("GET /v1/echo?text=1 HTTP/1.1\r\n\r\nGET /v1/echo?text=2 HTTP/1.1\r\nConnection: close\r\n\r\n");
        Assert.Equal(2, answers.Split("HTTP/1.1 200 OK").Length - 1);
    }

    [Theory]
    [InlineData("nonsense\r\n\r\n", 400)]
    [InlineData("GET /v1/echo HTTP/1.0\r\n\r\n", 400)]
    [InlineData("GET /v1/nix HTTP/1.1\r\n\r\n", 404)]
    [InlineData("DELETE /v1/echo HTTP/1.1\r\n\r\n", 405)]
    [InlineData("PUT /v1/echo HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 400)]
    [InlineData("PUT /v1/echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400)]
    [InlineData("PUT /v1/echo HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400)]
    [InlineData("PUT /v1/echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 400)]
    [InlineData("GET /v1/refuse HTTP/1.1\r\nConnection: close\r\n\r\n", 409)]
    [InlineData("GET /v1/fail HTTP/1.1\r\nConnection: close\r\n\r\n", 500)]
    public async Task AWrongRequestIsRefused(string request, int status)
    {
        using ControlServer server = Serve();
        string answer = await RawAsync(request);
        Assert.StartsWith($"HTTP/1.1 {status} ", answer);
        Assert.Contains("\"error\":", answer);
    }

    [Fact]
    public async Task AHeadThatNeverEndsIsRefused()
    {
        using ControlServer server = Serve();
        Assert.StartsWith("HTTP/1.1 400 ", await RawAsync("GET / HTTP/1.1\r\n" + string.Concat(Enumerable.Repeat("A: b\r\n", 10_000))));
    }

    [Fact]
    public async Task RandomBytesDoNoHarm()
    {
        using ControlServer server = Serve();
        int cases = int.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), out int asked) ? asked : 500;
        int seed = Environment.TickCount;
        Random random = new(seed);
        string valid = "PUT /v1/echo?text=a%20b HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n\r\n";
        for (int i = 0; i < cases; i++)
        {
            byte[] bytes = Encoding.ASCII.GetBytes(valid);
            for (int changes = random.Next(6); changes >= 0; changes--)
            {
                bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
            }
            await RawAsync(bytes[..random.Next(bytes.Length + 1)]);
        }
        Assert.EndsWith("alive", await RawAsync("GET /v1/echo?text=alive HTTP/1.1\r\nConnection: close\r\n\r\n"));
    }

    [Fact]
    public async Task WhatFollowsAnAnswerIsDoneAlsoWhenThePeerHasGone()
    {
        for (int i = 0; i < 200; i++)
        {
            TaskCompletionSource done = new();
            using ControlServer server = new(SocketPath, [new("POST", "/v1/stop", async _ =>
            {
                await Task.Delay(i % 3);
                return ControlReply.Done with { After = done.SetResult };
            })]);
            using (Socket socket = ControlSocket.Connect(SocketPath))
            {
                await socket.SendAsync(Encoding.ASCII.GetBytes("POST /v1/stop HTTP/1.1\r\n\r\n"));
            }
            await done.Task.WaitAsync(TimeSpan.FromMinutes(2));
        }
    }

    [Fact]
    public async Task APathMayBeLongerThanASocketAddress()
    {
        string deep = Path.Combine(_folder, new string('a', 120), new string('b', 120));
        Directory.CreateDirectory(deep);
        string path = Path.Combine(deep, "control.sock");
        using (ControlServer server = new(path, [new("GET", "/", _ => Task.FromResult(ControlReply.Done))]))
        {
            using Socket socket = ControlSocket.Connect(path);
            await socket.SendAsync(Encoding.ASCII.GetBytes("GET / HTTP/1.1\r\nConnection: close\r\n\r\n"));
            Assert.StartsWith("HTTP/1.1 204 ", await ReadAsync(socket));
        }
        Assert.False(File.Exists(path));
    }

    private ControlServer Serve() => new(SocketPath,
    [
        new("GET", "/v1/echo", request => Task.FromResult(new ControlReply { Body = Encoding.UTF8.GetBytes(request.Query["text"]) })),
        new("PUT", "/v1/echo", request => Task.FromResult(new ControlReply { Body = request.Body })),
        new("GET", "/v1/refuse", _ => throw new ControlException(409, "not now")),
        new("GET", "/v1/fail", _ => throw new InvalidOperationException("broken")),
    ]);

    private Task<string> RawAsync(string request) => RawAsync(Encoding.ASCII.GetBytes(request));

    private async Task<string> RawAsync(byte[] request)
    {
        using Socket socket = ControlSocket.Connect(SocketPath);
        try
        {
            await socket.SendAsync(request);
            socket.Shutdown(SocketShutdown.Send);
        }
        catch (SocketException)
        {
            // Refused before all of it was sent.
        }
        return await ReadAsync(socket);
    }

    private static async Task<string> ReadAsync(Socket socket)
    {
        using MemoryStream all = new();
        byte[] buffer = new byte[4096];
        try
        {
            for (int count; (count = await socket.ReceiveAsync(buffer)) != 0;)
            {
                all.Write(buffer, 0, count);
            }
        }
        catch (SocketException)
        {
            // Closed with bytes of the request unread.
        }
        return Encoding.UTF8.GetString(all.ToArray());
    }
}
