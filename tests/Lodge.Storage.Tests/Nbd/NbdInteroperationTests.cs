using System.Diagnostics;
using Lodge.Storage.Disks;
using Lodge.Storage.Nbd;
using Lodge.Storage.Nbd.Tls;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Nbd;

/// <summary>QEMU's and libnbd's programs as clients of our server, and qemu-nbd as the server of our client.</summary>
public sealed class NbdInteroperationTests
{
    [Fact]
    public async Task NbdinfoSeesTheExport()
    {
        QemuImg.RequireProgram("nbdinfo", "libnbd-bin");
        var disk = Sparse();
        await using var served = new ServedDisk(disk, change: export => export with { Description = "some text", Bitmaps = ["changed"], AllocationDepth = true });
        var said = await RunAsync("nbdinfo", served.Address());
        Assert.Contains("export-size: 1048576", said);
        Assert.Contains("some text", said);
        Assert.Contains("can_multi_conn: true", said);
        Assert.Contains("qemu:dirty-bitmap:changed", said);
        Assert.Contains("qemu:allocation-depth", said);
        Assert.Contains("export=\"disk\"", await RunAsync("nbdinfo", "--list", served.Address("")));
        var map = await RunAsync("nbdinfo", "--map", served.Address());
        Assert.Matches(@"(?m)^\s*0\s+524288\s+0\s+data\s*$", map);
        Assert.Matches(@"(?m)^\s*524288\s+524288\s+3\s+hole,zero\s*$", map);
        Assert.Matches(@"(?m)^\s*524288\s+524288\s+1\s", await RunAsync("nbdinfo", "--map=qemu:dirty-bitmap:changed", served.Address()));
    }

    [Theory]
    [InlineData("plain")]
    [InlineData("x509")]
    [InlineData("psk")]
    public async Task NbdcopyReadsAndWrites(string security)
    {
        QemuImg.RequireProgram("nbdcopy", "libnbd-bin");
        using var folder = new TemporaryFolder();
        var (tls, more) = Secure(folder, security);
        using (tls)
        {
            var disk = Sparse();
            await using var served = new ServedDisk(disk, new NbdServerOptions { Shared = 0, Persistent = true, Tls = tls });
            await RunAsync("nbdcopy", Address(served), folder["copy"]);
            Assert.Equal(disk.Content, File.ReadAllBytes(folder["copy"]));
            var bytes = new byte[1 << 20];
            new Random(8).NextBytes(bytes.AsSpan(300_000, 500_000));
            File.WriteAllBytes(folder["new"], bytes);
            await RunAsync("nbdcopy", "--flush", folder["new"], Address(served));
            Assert.Equal(bytes, disk.Content);
            Assert.True(disk.Flushes > 0);
        }

        string Address(ServedDisk served) => served.Address(more: more, tls: security != "plain").Replace(":///", security == "psk" ? "://alice@/" : ":///", StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("plain")]
    [InlineData("x509")]
    [InlineData("psk")]
    public async Task QemuImgAndQemuIoUseOurServer(string security)
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        var (tls, _) = Secure(folder, security);
        using (tls)
        {
            var disk = Sparse();
            await using var served = new ServedDisk(disk, new NbdServerOptions { Shared = 0, Persistent = true, Tls = tls });
            string[] credentials = security switch
            {
                "x509" => ["--object", $"tls-creds-x509,id=t,dir={folder["pki"]},endpoint=client,verify-peer=yes"],
                "psk" => ["--object", $"tls-creds-psk,id=t,dir={folder["psk"]},endpoint=client,username=alice"],
                _ => [],
            };
            var place = $"driver=raw,file.driver=nbd,file.path={served.Socket},file.export=disk{(tls is null ? "" : ",file.tls-creds=t,file.tls-hostname=localhost")}";
            File.WriteAllBytes(folder["same"], disk.Content);
            Assert.Contains("identical", await RunAsync("qemu-img", ["compare", .. credentials, "--image-opts", place, $"driver=raw,file.filename={folder["same"]}"]));
            await RunAsync("qemu-io", [.. credentials, "--image-opts", "-c", "write -P 7 1000 70000", "-c", "write -f -P 8 600k 4k", "-c", "write -z 4k 8k", "-c", "write -z -u 64k 64k", "-c", "discard 128k 64k", "-c", "flush", "-c", "read -P 8 600k 4k", place]);
            Assert.All(disk.Content[(600 << 10)..(604 << 10)], value => Assert.Equal(8, value));
            Assert.All(disk.Content[4096..12288], value => Assert.Equal(0, value));
            Assert.Equal(7, disk.Content[1000]);
        }
    }

    [Theory]
    [InlineData("plain")]
    [InlineData("x509")]
    [InlineData("psk")]
    public async Task OurClientUsesQemuNbd(string security)
    {
        QemuImg.RequireProgram("qemu-nbd", "qemu-utils");
        using var folder = new TemporaryFolder();
        var (tls, more) = Secure(folder, security);
        tls?.Dispose();
        QemuImg.Run("create", "-f", "qcow2", folder["disk"], "3M");
        QemuImg.Run("bitmap", "--add", folder["disk"], "changed");
        string[] credentials = security switch
        {
            "x509" => ["--object", $"tls-creds-x509,id=t,dir={folder["pki"]},endpoint=server,verify-peer=yes", "--tls-creds", "t"],
            "psk" => ["--object", $"tls-creds-psk,id=t,dir={folder["psk"]},endpoint=server", "--tls-creds", "t"],
            _ => [],
        };
        using var server = Process.Start(new ProcessStartInfo("qemu-nbd", ["-f", "qcow2", "-k", folder["s"], "-e", "4", "-t", "-x", "disk", "-B", "changed", "--pid-file", folder["pid"], .. credentials, folder["disk"]]) { RedirectStandardError = true })!;
        try
        {
            while (!File.Exists(folder["pid"]))
            {
                Assert.False(server.HasExited, server.HasExited ? server.StandardError.ReadToEnd() : "");
                await Task.Delay(20);
            }

            var address = $"nbd{(security == "plain" ? "" : "s")}+unix:///disk?socket={folder["s"]}{more}";
            await using var client = await NbdDisk.OpenAsync(NbdAddress.Parse(address), false);
            Assert.Equal(3 << 20, client.Length);
            Assert.Equal(["changed"], client.BitmapNames);
            var empty = await client.GetStatusAsync(0, client.Length);
            Assert.Equal((client.Length, BlockState.Zero), (empty.Length, empty.State));
            var model = new DiskModel(client, new Random(9));
            for (var step = 0; step < 100; step++)
            {
                await model.StepAsync();
            }

            await model.CompareAsync();
            await client.WriteZeroesAsync(0, 1 << 20);
            Assert.NotEqual(BlockState.None, (await client.GetStatusAsync(0, 65536)).State & BlockState.Zero);
            await client.DiscardAsync(2 << 20, 65536);
            await client.FlushAsync();
            Assert.Equal(DiskError.NotFound, (await Assert.ThrowsAsync<DiskException>(async () => await NbdDisk.OpenAsync(NbdAddress.Parse(address.Replace("///disk", "///other", StringComparison.Ordinal)), false))).Error);
        }
        finally
        {
            server.Kill();
            await server.WaitForExitAsync();
        }
    }

    private static TestDisk Sparse()
    {
        var disk = new TestDisk(1 << 20);
        new Random(3).NextBytes(disk.Content.AsSpan(0, 1 << 19));
        return disk;
    }

    private static (TlsCredentials? Server, string Parameters) Secure(TemporaryFolder folder, string security)
    {
        switch (security)
        {
            case "x509":
                TestCertificates.Write(folder["pki"]);
                return (TlsCredentials.ServerCertificates(folder["pki"]), $"&tls-certificates={folder["pki"]}");
            case "psk":
                var keys = TestCertificates.WriteKeys(folder["psk"], "alice");
                return (TlsCredentials.ServerKeys(folder["psk"]), $"&tls-psk-file={keys}");
            default:
                return (null, "");
        }
    }

    private static async Task<string> RunAsync(string program, params string[] arguments)
    {
        var (status, output) = await Task.Run(() => QemuImg.RunProgram(program, arguments));
        Assert.True(status == 0, $"{program} {string.Join(' ', arguments)} ended with {status}: {output}");
        return output;
    }
}
