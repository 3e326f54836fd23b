using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>The default system's network, and runs that cannot have the one that they ask for.</summary>
[Collection("guests")]
public sealed class NetworkTests
{
    [Fact]
    public async Task The_default_system_reaches_the_host_at_once_and_rules_hold()
    {
        Assert.SkipWhen(!File.Exists("/usr/lib/x86_64-linux-gnu/libslirp.so.0"), "libslirp is missing: install the package libslirp0");
        using TcpListener allowed = new(IPAddress.Loopback, 0), denied = new(IPAddress.Loopback, 0);
        allowed.Start();
        denied.Start();
        Task serve = Task.Run(async () =>
        {
            using TcpClient client = await allowed.AcceptTcpClientAsync();
            await client.GetStream().WriteAsync("reached\n"u8.ToArray());
        });
        string open = Port(allowed), closed = Port(denied);
        string capture = Path.Combine(Path.GetTempPath(), $"lodge-capture-{Environment.ProcessId}.pcapng");
        try
        {
            (int status, string output, string error) = LodgeProcess.Run(
                ["run", "--net", "user,mac=52:54:00:12:34:56", "--deny", $"tcp 10.0.2.2 {closed}", "--capture", capture, "--", "sh", "-c",
                    $"cat /sys/class/net/eth0/address; nc 10.0.2.2 {open} </dev/null; nc -w 1 10.0.2.2 {closed} </dev/null || echo refused; cat /etc/resolv.conf"]);
            Assert.True(status == 0, $"status {status}: {output}{error}");
            Assert.Equal("52:54:00:12:34:56\nreached\nrefused\nnameserver 10.0.2.3\n", output);
            Assert.False(denied.Pending());
            await serve.WaitAsync(TimeSpan.FromSeconds(20));
            Assert.Equal("0A0D0D0A", Convert.ToHexString(File.ReadAllBytes(capture).AsSpan(0, 4))); // pcapng's section header
        }
        finally
        {
            File.Delete(capture);
        }
    }

    [Fact]
    public void Without_a_network_there_is_only_the_loopback() =>
        Assert.Equal((0, "lo\n", ""), LodgeProcess.Run(["run", "--net", "none", "--", "ls", "/sys/class/net"]));

    [Fact]
    public void A_port_in_use_ends_the_run_with_its_name()
    {
        Assert.SkipWhen(!File.Exists("/usr/lib/x86_64-linux-gnu/libslirp.so.0"), "libslirp is missing: install the package libslirp0");
        using TcpListener other = new(IPAddress.Loopback, 0);
        other.Start();
        (int status, string output, string error) = LodgeProcess.Run(["run", "--publish", $"{Port(other)}:80", "--", "true"]);
        Assert.Equal((1, ""), (status, output));
        Assert.Contains($"127.0.0.1:{Port(other)} of the host is in use", error);
    }

    private static string Port(TcpListener listener) => ((IPEndPoint)listener.LocalEndpoint).Port.ToString(CultureInfo.InvariantCulture);
}
