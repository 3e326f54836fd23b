using System.Diagnostics;
using System.Text;
using System.Text.Json;
using Lodge.Management.CloudInit;
using Xunit;

namespace Lodge.Management.Tests;

public sealed class CloudInitSeedTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-seed-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void MetaDataTellsNameAndKeys()
    {
        using JsonDocument meta = JsonDocument.Parse(CloudInitSeed.DefaultMetaData("web", ["ssh-ed25519 AAAA+/= me@host \"quoted\""]));
        Assert.Equal("lodge-web", meta.RootElement.GetProperty("instance-id").GetString());
        Assert.Equal("web", meta.RootElement.GetProperty("local-hostname").GetString());
        Assert.Equal("ssh-ed25519 AAAA+/= me@host \"quoted\"", meta.RootElement.GetProperty("public-keys")[0].GetString());
    }

    [Fact]
    public void EachCardIsConfiguredByItsAddress()
    {
        using JsonDocument network = JsonDocument.Parse(CloudInitSeed.DefaultNetworkConfig(["52:54:00:AA:00:01", "52:54:00:aa:00:02"]));
        Assert.Equal(2, network.RootElement.GetProperty("version").GetInt32());
        JsonElement second = network.RootElement.GetProperty("ethernets").GetProperty("eth1");
        Assert.Equal("52:54:00:aa:00:02", second.GetProperty("match").GetProperty("macaddress").GetString());
        Assert.Equal("eth1", second.GetProperty("set-name").GetString());
        Assert.True(second.GetProperty("dhcp4").GetBoolean());
    }

    [Fact]
    public void KeysAreTheLinesOfPublicKeyFiles()
    {
        File.WriteAllText(Path.Combine(_folder, "id_ed25519.pub"), "ssh-ed25519 AAAA a\n");
        File.WriteAllText(Path.Combine(_folder, "id_ecdsa.pub"), "# mine\n\necdsa-sha2-nistp256 BBBB b\nssh-ed25519 AAAA a\n");
        File.WriteAllText(Path.Combine(_folder, "id_ed25519"), "ssh-private\n");
        File.WriteAllBytes(Path.Combine(_folder, "large.pub"), new byte[1 << 20]);
        Assert.Equal(["ecdsa-sha2-nistp256 BBBB b", "ssh-ed25519 AAAA a"], SshKeys.Of(_folder));
        Assert.Empty(SshKeys.Of(Path.Combine(_folder, "none")));
    }

    /// <summary>The boot hook with the root folder replaced, in a shell without systemd.</summary>
    [Fact]
    public void TheBootHookWritesTheServiceAsItIsInABuiltImage()
    {
        string script = Encoding.ASCII.GetString(CloudInitSeed.CommandService());
        Assert.StartsWith("#cloud-boothook\n#!/bin/sh\n", script);
        string root = Path.Combine(_folder, "root");
        foreach (string use in (ReadOnlySpan<string>)["mkdir -p '", "\ncat >'", "chmod 755 '"])
        {
            script = script.Replace(use + "/", use + root + "/", StringComparison.Ordinal);
        }
        script = script.Replace("/run/systemd/system", Path.Combine(root, "none"), StringComparison.Ordinal);
        (int status, _, string error) = Run("sh", "-c", script);
        Assert.True(status == 0, error);
        foreach (string name in (ReadOnlySpan<string>)["usr/lib/lodge/command", "etc/systemd/system/lodge-command.service"])
        {
            using StreamReader built = new(typeof(CloudInitSeed).Assembly.GetManifestResourceStream(name)!);
            Assert.Equal(built.ReadToEnd(), File.ReadAllText(Path.Combine(root, name)));
        }
        Assert.True((File.GetUnixFileMode(Path.Combine(root, "usr/lib/lodge/command")) & UnixFileMode.UserExecute) != 0);
        Assert.Contains("--autologin root", File.ReadAllText(Path.Combine(root, "etc/systemd/system/serial-getty@hvc0.service.d/lodge.conf")));
    }

    [Fact]
    public void TheDiskIsWhatNoCloudLooksFor()
    {
        Assert.SkipUnless(File.Exists("/usr/bin/xorriso"), "xorriso is missing: install the package xorriso");
        CloudInitSeed seed = new() { MetaData = "meta"u8.ToArray(), UserData = "user"u8.ToArray(), VendorData = "vendor"u8.ToArray(), NetworkConfig = "net"u8.ToArray() };
        string iso = Path.Combine(_folder, "seed.iso"), back = Path.Combine(_folder, "back");
        SeedImage.Write(seed, iso);
        Assert.Equal([iso], Directory.GetFileSystemEntries(_folder));
        Assert.Contains("TYPE=\"iso9660\"", Run("/usr/sbin/blkid", "-p", iso).Output);
        Assert.Contains(" LABEL=\"cidata\"", Run("/usr/sbin/blkid", "-p", iso).Output);
        Assert.Equal(0, Run("xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", back).Status);
        Assert.Equal(
            ["meta-data=meta", "network-config=net", "user-data=user", "vendor-data=vendor"],
            Directory.GetFiles(back).Order(StringComparer.Ordinal).Select(file => $"{Path.GetFileName(file)}={File.ReadAllText(file)}"));
    }

    private static (int Status, string Output, string Error) Run(string program, params string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardError = true, RedirectStandardOutput = true })!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output, error.Result);
    }
}
