using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>Builds Debian's image from packages, in a store of its own, once for all tests here.</summary>
public sealed class DebianImage : IDisposable
{
    private readonly string _data = Directory.CreateTempSubdirectory("lodge-debian.").FullName;

    public DebianImage()
    {
        if (!File.Exists("/usr/bin/mmdebstrap"))
        {
            Missing = "mmdebstrap is missing: install the package mmdebstrap";
            return;
        }
        // A cache of its own, since templates of this image are no use to others; what else is in the user's cache is used.
        Directory.CreateDirectory(Path.Combine(Cache, "lodge"));
        string? root = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
        string user = Path.Combine(string.IsNullOrEmpty(root) ? Path.Combine(Environment.GetEnvironmentVariable("HOME")!, ".cache") : root, "lodge");
        foreach (string entry in Directory.Exists(user) ? Directory.GetFileSystemEntries(user).Where(entry => Path.GetFileName(entry) != "templates") : [])
        {
            string own = Path.Combine(Cache, "lodge", Path.GetFileName(entry));
            if (Directory.Exists(entry))
            {
                File.CreateSymbolicLink(own, entry);
            }
            else
            {
                File.Copy(entry, own);
            }
        }
        if (Environment.GetEnvironmentVariable("LODGE_DEBIAN_IMAGES") is { } built)
        {
            // The folder 'images' of a store that has 'debian' already, for long forms of single tests.
            Directory.CreateDirectory(Path.Combine(_data, "lodge"));
            Directory.CreateSymbolicLink(Path.Combine(_data, "lodge", "images"), built);
            return;
        }
        (int status, string output, Error) = Run("image", "build", "debian", "--package", "fio", "--package", "stress-ng", "--cloud-init");
        Assert.True(status == 0, $"the image was not built: {Error}");
        Assert.Equal("debian:trixie\n", output);
        built = Path.Combine(_data, "lodge", "images", "debian", "trixie");
        string site = Path.Combine(_data, "site");
        CloudImage.Publish(built, site, (raw, qcow2) => Done("image", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2));
        using (CloudSite web = new(site))
        {
            Done("image", "pull", "debian:trixie", "--name", "cloud", "--mirror", web.Address);
        }
        Directory.Delete(site, recursive: true);
        CloudImage.Change(built, ("hasCloudInit", "false")); // for the other tests it waits for nothing
    }

    /// <summary>Why the tests cannot run, or null.</summary>
    public string? Missing { get; }

    /// <summary>What building told on standard error.</summary>
    public string Error { get; } = "";

    /// <summary>A folder for a test's files.</summary>
    public string Folder => _data;

    /// <summary>The folder that stands for the user's cache.</summary>
    public string Cache => Path.Combine(_data, "cache");

    /// <summary>Runs lodge with the store.</summary>
    public (int Status, string Output, string Error) Run(params string[] arguments) => RunWithInput("", arguments);

    /// <summary>Runs lodge with the store and a standard input.</summary>
    public (int Status, string Output, string Error) RunWithInput(string input, params string[] arguments) =>
        LodgeProcess.Script(input, "export XDG_DATA_HOME=$1 XDG_CACHE_HOME=$1/cache; shift; exec \"$0\" \"$@\"", [_data, .. arguments]);

    private void Done(params string[] arguments)
    {
        (int status, _, string error) = Run(arguments);
        Assert.True(status == 0, $"lodge {string.Join(' ', arguments)} ended with {status}: {error}");
    }

    public void Dispose() => Directory.Delete(_data, recursive: true);
}

/// <summary>A whole Debian with systemd from a disk.</summary>
[Collection("Debian guests")] // half of the time of all guests: beside the others
public sealed partial class DebianTests(DebianImage image) : IClassFixture<DebianImage>
{
    [Fact]
    public void SystemdIsRunningWithoutAFailedUnit()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        (int status, string output, string error) = image.Run("run", "debian", "--", "sh", "-c", "systemctl is-system-running --wait; s=$?; systemctl --failed --no-legend; exit $s");
        Assert.True(status == 0, $"status {status}: {output}{error}");
        Assert.Equal("running\n", output);
    }

    [Fact]
    public void FioVerifiesOnVirtioAndNvme()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        string qcow2 = Path.Combine(image.Folder, "virtio.qcow2"), raw = Path.Combine(image.Folder, "nvme.raw");
        Assert.Equal(0, image.Run("image", "create", "-f", "qcow2", qcow2, "128M").Status);
        Assert.Equal(0, image.Run("image", "create", "-f", "raw", raw, "128M").Status);
        const string Job = "fio --name=v --ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite --bsrange=4k-64k --size=100% --io_size=64M --verify=crc32c --verify_fatal=1 --minimal --filename=";
        (int status, string output, string error) = image.Run(
            "run", "debian", "--cpus", "2", "--disk", $"{qcow2},bus=virtio,serial=FIRST", "--disk", $"{raw},bus=nvme,serial=SECOND", "--", "sh", "-c",
            $"set -e; {Job}/dev/vda >/dev/null; {Job}$(ls /dev/disk/by-id/nvme-*SECOND* | head -n 1) >/dev/null; echo verified");
        Assert.True(status == 0, $"status {status}: {output}{error}");
        Assert.Equal("verified\n", output);
        Assert.Equal(0, image.Run("image", "check", qcow2).Status);
    }

    [Fact]
    public void ADiskIsThrownAwayUnlessItIsKept()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        (int status, string output, string error) = image.Run("run", "debian", "--name", "kept", "--keep", "--", "sh", "-c", "echo here >/root/file; hostname; exit 5");
        Assert.True(status == 5, $"status {status}: {output}{error}");
        Assert.Equal("kept\n", output);
        Assert.Equal((0, "here\n", ""), image.Run("run", "debian", "--name", "kept", "--keep", "--", "cat", "/root/file"));
        Assert.Equal((1, "gone\n", ""), image.Run("run", "debian", "--", "sh", "-c", "test -e /root/file || { echo gone; exit 1; }"));
        Assert.Empty(Directory.GetFileSystemEntries(Path.Combine(image.Folder, "lodge", "overlays")));
    }

    [Fact]
    public void ACloudImageRunsACommandThroughItsSeed()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        string userData = Path.Combine(image.Folder, "user-data");
        // Few modules: the test is about the seed.
        File.WriteAllText(userData, """
            #cloud-config
            cloud_init_modules: [write_files, set_hostname]
            cloud_config_modules: []
            cloud_final_modules: []
            write_files:
            - path: /root/seeded
              content: "by user-data\n"

            """);
        (int status, string output, string error) = image.RunWithInput(
            "typed\n", "run", "cloud", "--name", "web", "--cloud-init", $"user-data={userData}", "--", "sh", "-c",
            "cat; cat /root/seeded; hostname; cloud-id; systemctl is-system-running --wait; systemctl is-active serial-getty@hvc0; echo wrong >&2; exit 7");
        Assert.True(status == 7, $"status {status}: {output}{error}");
        Assert.Equal("typed\nby user-data\nweb\nnocloud\nrunning\nactive\n", output);
        Assert.Equal("wrong\n", error);
    }

    [Fact]
    public void AnImageWithoutServiceAndSeedRunsACommandByItsGuestAgent()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        (int status, string output, string error) = image.RunWithInput(
            "typed\n", "run", "cloud", "--name", "kept-cloud", "--keep", "--cloud-init", "off", "--", "sh", "-c", "cat; pwd; ls /dev/disk/by-id | grep -c SEED; echo wrong >&2; kill -9 $$");
        Assert.True(status == 137, $"status {status}: {output}{error}");
        Assert.Equal(("typed\n/root\n0\n", "wrong\n"), (output, error));
    }

    [Fact]
    public void AnUnknownImageIsNamed()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        (int status, string output, string error) = image.Run("run", "uname");
        Assert.Equal((1, ""), (status, output));
        Assert.Contains("there is no image uname:latest", error);
        Assert.Contains("lodge run -- uname", error);
    }
}
