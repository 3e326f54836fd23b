using System.Diagnostics;
using System.Net.Sockets;
using System.Text;
using Lodge.Management.GuestAgent;
using Xunit;

namespace Lodge.Management.Tests;

/// <summary>The client against the real agent, which runs on this host and is forbidden what would change it.</summary>
public sealed class GuestAgentPeerTests : IDisposable
{
    private const string Program = "/usr/sbin/qemu-ga";
    private const string Forbidden = "guest-shutdown,guest-set-time,guest-fsfreeze-freeze,guest-fsfreeze-freeze-list,guest-fsfreeze-thaw,guest-fstrim,guest-suspend-disk,guest-suspend-ram,guest-suspend-hybrid,"
        + "guest-set-vcpus,guest-set-memory-blocks,guest-set-user-password";

    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-agent-").FullName;
    private readonly Process? _agent;
    private readonly GuestAgentClient? _client;

    public GuestAgentPeerTests()
    {
        if (!File.Exists(Program))
        {
            return;
        }
        string socket = Path.Combine(_folder, "socket");
        _agent = Process.Start(new ProcessStartInfo(Program, ["-m", "unix-listen", "-p", socket, "-t", _folder, "-f", Path.Combine(_folder, "pid"), "-b", Forbidden])
        {
            RedirectStandardError = true,
            RedirectStandardOutput = true,
        })!;
        _client = new GuestAgentClient(new NetworkStream(Connect(socket), ownsSocket: true));
    }

    // The socket's file is there a moment before anybody listens.
    private Socket Connect(string path)
    {
        while (true)
        {
            Socket host = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            try
            {
                host.Connect(new UnixDomainSocketEndPoint(path));
                return host;
            }
            catch (SocketException)
            {
                host.Dispose();
                Assert.False(_agent!.WaitForExit(10), "the agent ended");
            }
        }
    }

    public void Dispose()
    {
        _client?.Dispose();
        if (_agent is not null)
        {
            _agent.Kill();
            _agent.WaitForExit();
            _agent.Dispose();
        }
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public async Task TheRealAgentDoesWhatItIsAsked()
    {
        Assert.SkipWhen(_client is null, "qemu-ga is missing: install the package qemu-guest-agent");
        GuestAgentClient agent = _client!;
        await agent.SynchronizeAsync(TimeSpan.FromSeconds(20));
        await agent.PingAsync();
        GuestAgentInfo info = await agent.InfoAsync();
        Assert.Matches(@"^\d+\.\d+", info.Version);
        Assert.Contains(new GuestAgentCommandInfo("guest-exec", true), info.SupportedCommands);
        Assert.Contains(new GuestAgentCommandInfo("guest-shutdown", false), info.SupportedCommands);
        Assert.Equal(GuestFreezeState.Thawed, await agent.FreezeStateAsync());
        Assert.Contains(await agent.NetworkInterfacesAsync(), one => one.Name == "lo");
        Assert.Equal(GuestAgentFailure.Unsupported, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.ShutdownAsync())).Failure);
        Assert.Equal(GuestAgentFailure.Unsupported, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.FreezeAsync())).Failure);
        Assert.Equal(GuestAgentFailure.Unsupported, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.SetTimeAsync(null))).Failure);
    }

    [Fact]
    public async Task ARealProcessHasStreamsStatusAndEnvironment()
    {
        Assert.SkipWhen(_client is null, "qemu-ga is missing: install the package qemu-guest-agent");
        GuestAgentClient agent = _client!;
        byte[] input = [.. Enumerable.Range(0, 300_000).Select(i => (byte)(i * 31))];
        GuestProcessStatus status = await agent.RunAsync(new GuestCommand("sh") { Arguments = ["-c", "cat; echo \"$1$X\" >&2; exit 9", "sh", "ä 'b'"], Environment = ["PATH=/usr/bin:/bin", "X=+x"], Input = input });
        Assert.Equal((9, "ä 'b'+x\n"), (status.ExitCode, Encoding.UTF8.GetString(status.Error!)));
        Assert.Equal(input, status.Output);
        status = await agent.RunAsync(new GuestCommand("/bin/sh") { Arguments = ["-c", "kill -15 $$"], CaptureOutput = false });
        Assert.Equal((15, null, null), (status.Signal, status.ExitCode, status.Output));
        status = await agent.RunAsync(new GuestCommand("/bin/sh") { Arguments = ["-c", "head -c 20000000 /dev/zero"] });
        Assert.True(status.OutputTruncated);
        Assert.InRange(status.Output!.Length, 16 << 20, 17 << 20);
        Assert.Equal(GuestAgentFailure.Refused, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.StartAsync(new GuestCommand("/nonexistent")))).Failure);
        Assert.Equal(GuestAgentFailure.Refused, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.StatusAsync(1))).Failure);
    }

    [Fact]
    public async Task RealFilesAreWrittenAndRead()
    {
        Assert.SkipWhen(_client is null, "qemu-ga is missing: install the package qemu-guest-agent");
        GuestAgentClient agent = _client!;
        string path = Path.Combine(_folder, "file");
        byte[] contents = [.. Enumerable.Range(0, GuestAgentClient.LargestTransfer).Select(i => (byte)(i * 7))];
        long file = await agent.OpenFileAsync(path, "w+");
        await agent.WriteFileAsync(file, contents);
        await agent.WriteFileAsync(file, "end"u8.ToArray());
        await agent.CloseFileAsync(file);
        Assert.Equal([.. contents, .. "end"u8], File.ReadAllBytes(path));
        file = await agent.OpenFileAsync(path, "r");
        List<byte> read = [];
        for (byte[] part; (part = await agent.ReadFileAsync(file, GuestAgentClient.LargestTransfer)).Length != 0;)
        {
            read.AddRange(part);
        }
        await agent.CloseFileAsync(file);
        Assert.Equal(File.ReadAllBytes(path), read);
        Assert.Equal(GuestAgentFailure.Refused, (await Assert.ThrowsAsync<GuestAgentException>(() => agent.OpenFileAsync("/nonexistent/x", "r"))).Failure);
    }
}
