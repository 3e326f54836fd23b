using Lodge.Storage.Disks;
using Lodge.Storage.Nbd;
using Lodge.Storage.Nbd.Tls;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Nbd;

/// <summary>TLS between our client and our server.</summary>
public sealed class NbdTlsTests
{
    [Fact]
    public async Task CertificatesEncryptAndAreChecked()
    {
        using var folder = new TemporaryFolder();
        TestCertificates.Write(folder["a"]);
        TestCertificates.Write(folder["b"]);
        var disk = new TestDisk(2_000_003);
        using var credentials = TlsCredentials.ServerCertificates(folder["a"]);
        await using var served = new ServedDisk(disk, new NbdServerOptions { Shared = 0, Persistent = true, Tls = credentials });
        await using (var client = await served.OpenAsync($"&tls-certificates={folder["a"]}&tls-hostname=localhost", tls: true))
        {
            var model = new DiskModel(client, new Random(5));
            for (var step = 0; step < 100; step++)
            {
                await model.StepAsync(discardZeroes: true);
            }

            await model.CompareAsync();
            await Parallel.ForEachAsync(Enumerable.Range(0, 200), async (index, _) => await client.ReadAsync(index * 5000, new byte[50_000]));
        }

        await RefusedAsync(served, $"&tls-certificates={folder["b"]}"); // another authority
        await RefusedAsync(served, $"&tls-certificates={folder["a"]}&tls-hostname=elsewhere");
        File.Delete(Path.Combine(folder["a"], "client-cert.pem"));
        await RefusedAsync(served, $"&tls-certificates={folder["a"]}&tls-hostname=localhost");
        Assert.Equal(DiskError.Denied, (await Assert.ThrowsAsync<DiskException>(async () => await served.OpenAsync())).Error); // no TLS
    }

    [Fact]
    public async Task KeysEncryptAndAreChecked()
    {
        using var folder = new TemporaryFolder();
        var keys = TestCertificates.WriteKeys(folder["a"], "alice", "bob");
        var other = TestCertificates.WriteKeys(folder["b"], "alice");
        var disk = new TestDisk(1 << 20);
        using var credentials = TlsCredentials.ServerKeys(folder["a"]);
        await using var served = new ServedDisk(disk, new NbdServerOptions { Shared = 0, Persistent = true, Tls = credentials });
        await using (var client = await served.OpenAsync($"&tls-psk-file={keys}&tls-username=bob", tls: true))
        {
            var model = new DiskModel(client, new Random(6));
            for (var step = 0; step < 50; step++)
            {
                await model.StepAsync();
            }

            await model.CompareAsync();
        }

        await RefusedAsync(served, $"&tls-psk-file={other}");
        Assert.Equal(DiskError.Secret, (await Assert.ThrowsAsync<DiskException>(async () => await served.OpenAsync($"&tls-psk-file={keys}&tls-username=eve", tls: true))).Error);
    }

    [Fact]
    public async Task AClientThatWantsTlsDoesNotGoWithout()
    {
        using var folder = new TemporaryFolder();
        var keys = TestCertificates.WriteKeys(folder["a"], "alice");
        await using var served = new ServedDisk(new TestDisk(4096));
        await RefusedAsync(served, $"&tls-psk-file={keys}");
    }

    [Fact]
    public void MissingFilesAreNamed()
    {
        using var folder = new TemporaryFolder();
        Assert.Contains("server-cert.pem", Assert.Throws<DiskException>(() => TlsCredentials.ServerCertificates(folder.Path)).Message);
        File.WriteAllText(folder["keys.psk"], "alice:xyz\n");
        Assert.Contains("keys.psk", Assert.Throws<DiskException>(() => TlsCredentials.ServerKeys(folder.Path)).Message);
    }

    private static async Task RefusedAsync(ServedDisk served, string more)
    {
        // With TLS 1.3 a client learns only after its handshake that the server refuses it.
        var failure = await Assert.ThrowsAsync<DiskException>(async () => await served.OpenAsync(more, tls: true));
        Assert.True(failure.Error is DiskError.Denied or DiskError.Connection, failure.Message);
    }
}
