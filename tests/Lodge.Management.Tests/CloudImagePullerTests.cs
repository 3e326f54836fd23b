using System.Diagnostics;
using System.Net;
using System.Security.Cryptography;
using System.Text;
using Lodge.Management.Images;
using Xunit;

namespace Lodge.Management.Tests;

/// <summary>Pulls from a site of the test's own: a small disk with a partition, a file system, and a kernel's name in it.</summary>
public sealed class CloudImagePullerTests : IDisposable
{
    private const string Site = "http://images.test/cloud";
    private static readonly ImageName Name = new("debian", "trixie");
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-pull-").FullName;
    private readonly Dictionary<string, byte[]> _site = [];

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public async Task AnImageIsPulledAndItsKernelTakenOut()
    {
        Publish();
        ImageStore store = new(Path.Combine(_folder, "store"));
        StoredImage image = await store.AddAsync(Name, folder => Puller().PullAsync(CloudImageCatalog.Find(Name), Name, Site, true, folder));
        Assert.Equal("kernel 6.12.10", File.ReadAllText(image.KernelPath!));
        Assert.Equal("initrd 6.12.10", File.ReadAllText(image.InitrdPath!));
        Assert.StartsWith("PARTUUID=", image.Manifest.Root);
        Assert.True(image.Manifest is { HasCloudInit: true, HasCommandService: false });
        Assert.Equal(["disk.qcow2", "image.json", "initrd.img", "vmlinuz"], Directory.GetFiles(image.Folder).Select(Path.GetFileName).Order());
    }

    [Fact]
    public async Task AnImageThatDiffersFromItsChecksumIsRefusedAndLeavesNothing()
    {
        Publish();
        _site["/cloud/trixie/latest/debian-13-genericcloud-amd64.qcow2"][5000] ^= 1;
        ImageStore store = new(Path.Combine(_folder, "store"));
        ManagementException failure = await Assert.ThrowsAsync<ManagementException>(
            () => store.AddAsync(Name, folder => Puller().PullAsync(CloudImageCatalog.Find(Name), Name, Site, true, folder)));
        Assert.Contains("is vouched for", failure.Message);
        Assert.Empty(Directory.GetFileSystemEntries(store.Folder));
    }

    [Fact]
    public async Task ASiteThatIsNotThereIsNamed()
    {
        ManagementException failure = await Assert.ThrowsAsync<ManagementException>(() => Puller().FetchAsync(CloudImageCatalog.Find(Name), Site, true, _folder));
        Assert.Contains($"{Site}/trixie/latest/SHA512SUMS answers 404", failure.Message);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task TheSignatureOfTheChecksumsIsChecked(bool tamper)
    {
        Assert.SkipUnless(File.Exists("/usr/bin/gpg") && File.Exists("/usr/bin/gpgv"), "gpg is missing: install the packages gnupg and gpgv");
        byte[] content = RandomNumberGenerator.GetBytes(10_000);
        string home = Path.Combine(_folder, "gnupg"), sums = Path.Combine(_folder, "SUMS"), keyring = Path.Combine(_folder, "keys.gpg");
        Directory.CreateDirectory(home, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        File.WriteAllText(sums, $"{Convert.ToHexStringLower(SHA256.HashData(content))} *disk.img\n");
        Gpg(home, "--quick-generate-key", "test", "ed25519", "sign", "never");
        Gpg(home, "--output", keyring, "--export");
        Gpg(home, "--output", sums + ".gpg", "--detach-sign", sums);
        _site["/cloud/disk.img"] = content;
        _site["/cloud/SUMS"] = File.ReadAllBytes(sums);
        _site["/cloud/SUMS.gpg"] = File.ReadAllBytes(sums + ".gpg");
        if (tamper)
        {
            _site["/cloud/SUMS"] = [.. _site["/cloud/SUMS"], (byte)'\n'];
        }
        CloudImage image = new(new ImageName("x", "y"), Site, "disk.img", "SUMS", "SHA256", CloudImageSignature.Detached, "SUMS.gpg", [keyring], "keys");
        string target = Directory.CreateDirectory(Path.Combine(_folder, "target")).FullName;
        Task<(string File, string Sum)> fetch = Puller().FetchAsync(image, null, true, target);
        if (tamper)
        {
            Assert.Contains("signature", (await Assert.ThrowsAsync<ManagementException>(() => fetch)).Message);
        }
        else
        {
            Assert.Equal("disk.qcow2", (await fetch).File);
        }
    }

    [Fact]
    public async Task WithoutTheDistributionsKeysThePackageIsNamed()
    {
        _site["/cloud/SUMS"] = "x"u8.ToArray();
        CloudImage image = new(new ImageName("x", "y"), Site, "disk.img", "SUMS", "SHA256", CloudImageSignature.Detached, "SUMS.gpg", ["/nonexistent.gpg"], "ubuntu-cloudimage-keyring");
        ManagementException failure = await Assert.ThrowsAsync<ManagementException>(() => Puller().FetchAsync(image, null, true, _folder));
        Assert.Contains("install the package ubuntu-cloudimage-keyring", failure.Message);
    }

    [Theory]
    [InlineData("ubuntu", "noble")]
    [InlineData("ubuntu:24.04", "noble")]
    [InlineData("ubuntu:jammy", "jammy")]
    [InlineData("fedora", "43")]
    public void NamesAreFoundInTheCatalog(string text, string tag) => Assert.Equal(tag, CloudImageCatalog.Find(ImageName.Parse(text)).Name.Tag);

    [Fact]
    public void ChecksumsAreReadInBothForms()
    {
        string hex = new('a', 64);
        Assert.Equal(hex, CloudImagePuller.Checksum([$"{new string('b', 64)}  other", $"{hex}  file"], "file", "SHA256"));
        Assert.Equal(hex, CloudImagePuller.Checksum(["-----BEGIN PGP", $"SHA256 (file) = {hex}"], "file", "SHA256"));
        Assert.Null(CloudImagePuller.Checksum([$"{hex[1..]}  file", $"{hex}  file.zsync"], "file", "SHA256"));
    }

    /// <summary>Puts the disk and its checksums on the site.</summary>
    private void Publish()
    {
        Assert.SkipUnless(File.Exists("/usr/bin/qemu-img"), "qemu-img is missing: install the package qemu-utils");
        string tree = Path.Combine(_folder, "tree"), raw = Path.Combine(_folder, "disk.raw"), qcow2 = Path.Combine(_folder, "disk.qcow2");
        Directory.CreateDirectory(Path.Combine(tree, "boot"));
        Directory.CreateDirectory(Path.Combine(tree, "etc"));
        File.WriteAllText(Path.Combine(tree, "etc", "os-release"), "ID=test\n");
        foreach (string release in (ReadOnlySpan<string>)["6.12.9", "6.12.10"])
        {
            File.WriteAllText(Path.Combine(tree, "boot", "vmlinuz-" + release), "kernel " + release);
            File.WriteAllText(Path.Combine(tree, "boot", "initrd.img-" + release), "initrd " + release);
        }
        using (FileStream disk = new(raw, FileMode.CreateNew))
        {
            disk.SetLength(16 << 20);
            GuidPartition partition = GuidPartitionTable.WriteSingle(disk, GuidPartitionTable.LinuxRootX64, "root");
            disk.Close();
            Run("mke2fs", "-q", "-F", "-t", "ext4", "-E", $"offset={partition.Offset}", "-d", tree, raw, $"{partition.Length >> 10}k");
        }
        Run("qemu-img", "convert", "-q", "-O", "qcow2", raw, qcow2);
        byte[] content = File.ReadAllBytes(qcow2);
        _site["/cloud/trixie/latest/debian-13-genericcloud-amd64.qcow2"] = content;
        _site["/cloud/trixie/latest/SHA512SUMS"] = Encoding.ASCII.GetBytes($"{Convert.ToHexStringLower(SHA512.HashData(content))}  debian-13-genericcloud-amd64.qcow2\n");
    }

    private CloudImagePuller Puller() => new(new HttpClient(new SiteHandler(_site)), _ => { }, _ => { });

    private static void Gpg(string home, params string[] arguments) => Run("gpg", ["--homedir", home, "--batch", "--quiet", "--yes", "--passphrase", "", "--pinentry-mode", "loopback", .. arguments]);

    private static void Run(string program, params string[] arguments)
    {
        ProcessStartInfo start = new(program, arguments) { RedirectStandardError = true };
        start.Environment["PATH"] += ":/usr/sbin:/sbin";
        using Process process = Process.Start(start)!;
        string error = process.StandardError.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == 0, $"{program} ended with {process.ExitCode}: {error}");
    }

    private sealed class SiteHandler(Dictionary<string, byte[]> site) : HttpMessageHandler
    {
        protected override Task<HttpResponseMessage> SendAsync(HttpRequestMessage request, CancellationToken cancellationToken) =>
            Task.FromResult(site.TryGetValue(request.RequestUri!.AbsolutePath, out byte[]? content)
                ? new HttpResponseMessage(HttpStatusCode.OK) { Content = new ByteArrayContent(content) }
                : new HttpResponseMessage(HttpStatusCode.NotFound));
    }
}
