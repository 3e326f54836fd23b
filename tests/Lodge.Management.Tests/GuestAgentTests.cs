using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using Lodge.Management.GuestAgent;
using Xunit;

namespace Lodge.Management.Tests;

/// <summary>The client against agents of the test's own, at the other end of a socket.</summary>
public sealed class GuestAgentTests : IDisposable
{
    private static readonly TimeSpan Long = TimeSpan.FromMinutes(1), Short = TimeSpan.FromMilliseconds(200);
    private readonly Socket _guest;
    private readonly NetworkStream _host;

    public GuestAgentTests()
    {
        using Socket listener = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        listener.Bind(new System.Net.IPEndPoint(System.Net.IPAddress.Loopback, 0));
        listener.Listen();
        Socket host = new(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        host.Connect(listener.LocalEndPoint!);
        _guest = listener.Accept();
        _host = new NetworkStream(host, ownsSocket: true);
    }

    public void Dispose()
    {
        _guest.Dispose();
        _host.Dispose();
    }

    [Fact]
    public async Task AProcessIsRunAndItsOutputComesBack()
    {
        int polls = 0;
        List<string> asked = [];
        Serve((name, arguments) =>
        {
            asked.Add($"{name} {arguments}");
            return name switch
            {
                "guest-exec" => """{"return": {"pid": 77}}""",
                "guest-exec-status" when polls++ < 2 => """{"return": {"exited": false}}""",
                _ => """{"return": {"exited": true, "exitcode": 5, "out-data": "aGVsbG8=", "err-data": "d29l", "out-truncated": true, "later": [1, {"x": null}]}}""",
            };
        });
        using GuestAgentClient agent = new(_host, Long);
        GuestProcessStatus status = await agent.RunAsync(new GuestCommand("/bin/sh") { Arguments = ["-c", "ü \"q\""], Input = [1, 2, 3] });
        Assert.Equal((5, null, "hello", "woe", true, false), (
            status.ExitCode, status.Signal, Encoding.ASCII.GetString(status.Output!), Encoding.ASCII.GetString(status.Error!), status.OutputTruncated, status.ErrorTruncated));
        using JsonDocument exec = JsonDocument.Parse(asked[0]["guest-exec ".Length..]);
        Assert.Equal("/bin/sh", exec.RootElement.GetProperty("path").GetString());
        Assert.Equal("ü \"q\"", exec.RootElement.GetProperty("arg")[1].GetString());
        Assert.Equal("AQID", exec.RootElement.GetProperty("input-data").GetString());
        Assert.True(exec.RootElement.GetProperty("capture-output").GetBoolean());
        Assert.False(exec.RootElement.TryGetProperty("env", out _));
        Assert.Equal("""guest-exec-status {"pid":77}""", asked[^1]);
    }

    [Fact]
    public async Task EachCommandIsAsThePeerExpectsIt()
    {
        List<string> asked = [];
        Serve((name, arguments) =>
        {
            asked.Add($"{name} {arguments}".TrimEnd());
            return name switch
            {
                "guest-info" => """{"return": {"version": "9.2", "supported_commands": [{"enabled": true, "name": "guest-ping", "success-response": true}, null]}}""",
                "guest-fsfreeze-status" => """{"return": "frozen"}""",
                "guest-fsfreeze-freeze" or "guest-fsfreeze-thaw" => """{"return": 2}""",
                "guest-file-open" => """{"return": 1000}""",
                "guest-file-read" => """{"return": {"count": 2, "buf-b64": "aGk=", "eof": true}}""",
                "guest-file-write" => """{"return": {"count": 2, "eof": false}}""",
                "guest-network-get-interfaces" =>
                    """{"return": [{"name": "lo", "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8}]}, {"name": "eth0", "hardware-address": "52:54:00:00:00:01"}]}""",
                _ => """{"return": {}}""",
            };
        });
        using GuestAgentClient agent = new(_host, Long);
        await agent.PingAsync();
        GuestAgentInfo info = await agent.InfoAsync();
        Assert.Equal(("9.2", new GuestAgentCommandInfo("guest-ping", true)), (info.Version, Assert.Single(info.SupportedCommands)));
        Assert.Equal(2, await agent.FreezeAsync());
        Assert.Equal(GuestFreezeState.Frozen, await agent.FreezeStateAsync());
        Assert.Equal(2, await agent.ThawAsync());
        long file = await agent.OpenFileAsync("/etc/hostname", "r+");
        Assert.Equal("hi"u8.ToArray(), await agent.ReadFileAsync(file, 100));
        await agent.WriteFileAsync(file, "abcd"u8.ToArray());
        await agent.CloseFileAsync(file);
        await agent.SetTimeAsync(DateTimeOffset.UnixEpoch.AddSeconds(3));
        await agent.SetTimeAsync(null);
        IReadOnlyList<GuestNetworkInterface> interfaces = await agent.NetworkInterfacesAsync();
        Assert.Equal(new GuestAddress("127.0.0.1", "ipv4", 8), interfaces[0].Addresses[0]);
        Assert.Equal(("52:54:00:00:00:01", 0), (interfaces[1].HardwareAddress, interfaces[1].Addresses.Count));
        Assert.Equal(
        [
            "guest-ping", "guest-info", "guest-fsfreeze-freeze", "guest-fsfreeze-status", "guest-fsfreeze-thaw",
            """guest-file-open {"path":"/etc/hostname","mode":"r\u002B"}""", """guest-file-read {"handle":1000,"count":100}""",
            """guest-file-write {"handle":1000,"buf-b64":"YWJjZA=="}""", """guest-file-write {"handle":1000,"buf-b64":"Y2Q="}""", """guest-file-close {"handle":1000}""",
            """guest-set-time {"time":3000000000}""", "guest-set-time {}", "guest-network-get-interfaces",
        ], asked);
    }

    [Fact]
    public async Task AShutdownThatIsNotAnsweredSucceedsAndARefusedOneFails()
    {
        bool refuse = false;
        Serve((name, _) => refuse ? """{"error": {"class": "GenericError", "desc": "not \u001b[31mnow"}}""" : null);
        using GuestAgentClient agent = new(_host, Long);
        await agent.ShutdownAsync(GuestShutdownMode.Reboot);
        refuse = true;
        GuestAgentException failure = await Assert.ThrowsAsync<GuestAgentException>(() => agent.ShutdownAsync());
        Assert.Equal((GuestAgentFailure.Refused, "the guest agent refuses guest-shutdown: not [31mnow"), (failure.Failure, failure.Message));
    }

    [Fact]
    public async Task ADisabledCommandIsTold()
    {
        Serve((_, _) => """{"error": {"class": "CommandNotFound", "desc": "Command guest-exec has been disabled"}}""");
        using GuestAgentClient agent = new(_host, Long);
        Assert.Equal(GuestAgentFailure.Unsupported, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.StartAsync(new GuestCommand("x")))).Failure);
    }

    [Fact]
    public async Task AnAnswerThatComesTooLateIsNotTakenForTheNext()
    {
        bool late = true;
        Serve((name, _) =>
        {
            if (late)
            {
                late = false;
                Thread.Sleep(Short * 3);
                return """{"return": 1}""";
            }
            return """{"return": 2}""";
        });
        using GuestAgentClient agent = new(_host, Long);
        await agent.SynchronizeAsync(Long);
        using CancellationTokenSource stop = new(Short);
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => agent.FreezeAsync(stop.Token));
        Assert.Equal(2, await agent.ThawAsync());
    }

    [Fact]
    public async Task NoAgentIsToldAfterTheTime()
    {
        using GuestAgentClient agent = new(_host, Short);
        Assert.Equal(GuestAgentFailure.NoAnswer, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.SynchronizeAsync(Short))).Failure);
        Assert.Equal(GuestAgentFailure.NoAnswer, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.PingAsync())).Failure);
        _guest.Dispose();
        Assert.Equal(GuestAgentFailure.Closed, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.PingAsync())).Failure);
    }

    [Theory]
    [InlineData("""{"return": "x"}""")]
    [InlineData("""{"return": {}}""")]
    [InlineData("""{"return": 1.5}""")]
    [InlineData("""{"return": 99999999999999999999}""")]
    [InlineData("{}")]
    [InlineData("null")]
    [InlineData("")]
    [InlineData("[1")]
    [InlineData("{\"x\": [[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]], \"return\": 1}")]
    public async Task NonsenseIsMalformed(string answer)
    {
        Serve((name, _) => answer);
        using GuestAgentClient agent = new(_host, Long);
        Assert.Equal(GuestAgentFailure.Malformed, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.FreezeAsync())).Failure);
    }

    [Theory]
    [InlineData("""{"return": {"count": 3, "buf-b64": "aGk=", "eof": true}}""")]
    [InlineData("""{"return": {"count": 2, "buf-b64": "a?k=", "eof": true}}""")]
    [InlineData("""{"return": {"count": 0, "buf-b64": "", "eof": false}}""")]
    [InlineData("""{"return": {"count": 11, "buf-b64": "MDEyMzQ1Njc4OTA=", "eof": false}}""")]
    public async Task AReadThatCannotBeIsMalformed(string answer)
    {
        Serve((name, _) => answer);
        using GuestAgentClient agent = new(_host, Long);
        Assert.Equal(GuestAgentFailure.Malformed, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.ReadFileAsync(1, 10))).Failure);
    }

    [Fact]
    public async Task AnAnswerWithoutEndIsGivenUp()
    {
        Serve((name, _) => name == "guest-ping" ? new string('[', GuestAgentClient.SmallAnswer + 100_000) : """{"return": 3}""");
        using GuestAgentClient agent = new(_host, Long);
        GuestAgentException failure = await Assert.ThrowsAsync<GuestAgentException>(() => agent.PingAsync());
        Assert.Equal(GuestAgentFailure.Malformed, failure.Failure);
        Assert.Contains("larger than", failure.Message);
        Assert.Equal(3, await agent.ThawAsync());
    }

    [Fact]
    public async Task WhatIsNoAnswerToASynchronizationIsPassedOver()
    {
        _guest.Send([.. Encoding.ASCII.GetBytes("{\"return\": 1}\n{\"ret"), 0xFF, .. "{\"return\": 1}\n"u8, 0xFF, .. "nonsense\n"u8, 0xFF, 0xFF, .. "[[[["u8]);
        Serve((name, _) => """{"return": 4}""");
        using GuestAgentClient agent = new(_host, Long);
        Assert.Equal(4, await agent.ThawAsync());
    }

    [Fact]
    public async Task CallsAtTheSameTimeTakeTurns()
    {
        int inside = 0;
        Serve((name, arguments) =>
        {
            Assert.Equal(1, Interlocked.Increment(ref inside));
            Interlocked.Decrement(ref inside);
            return $$"""{"return": {{JsonDocument.Parse(arguments).RootElement.GetProperty("path").GetString()}}}""";
        });
        using GuestAgentClient agent = new(_host, Long);
        long[] handles = await Task.WhenAll(Enumerable.Range(0, 50).Select(i => agent.OpenFileAsync($"{i}", "r")));
        Assert.Equal(Enumerable.Range(0, 50).Select(i => (long)i), handles);
    }

    /// <summary>Answers synchronizations as an agent does, and all else by <paramref name="answer"/>, of which null is silence.</summary>
    private void Serve(Func<string, string, string?> answer) => new Thread(() =>
    {
        try
        {
            using NetworkStream stream = new(_guest, ownsSocket: false);
            using StreamReader lines = new(stream, Encoding.Latin1);
            while (lines.ReadLine() is { } line)
            {
                string text = Encoding.UTF8.GetString(Encoding.Latin1.GetBytes(line[(line.LastIndexOf('\xFF') + 1)..]));
                using JsonDocument request = JsonDocument.Parse(text);
                string name = request.RootElement.GetProperty("execute").GetString()!;
                string arguments = request.RootElement.TryGetProperty("arguments", out JsonElement given) ? given.GetRawText() : "";
                if (name == "guest-sync-delimited")
                {
                    Assert.Equal('\xFF', line[0]);
                    _guest.Send([0xFF, .. Encoding.ASCII.GetBytes($"{{\"return\": {given.GetProperty("id").GetInt64()}}}\n")]);
                }
                else if (answer(name, arguments) is { } reply)
                {
                    _guest.Send(Encoding.UTF8.GetBytes(reply + "\n"));
                }
            }
        }
        catch (Exception e) when (e is IOException or SocketException or ObjectDisposedException)
        {
            // The test has ended.
        }
    })
    { IsBackground = true }.Start();
}
