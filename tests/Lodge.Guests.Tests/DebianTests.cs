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
        (int status, string output, Error) = Run("image", "build", "debian", "--package", "fio");
        Assert.True(status == 0, $"the image was not built: {Error}");
        Assert.Equal("debian:trixie\n", output);
    }

    /// <summary>Why the tests cannot run, or null.</summary>
    public string? Missing { get; }

    /// <summary>What building told on standard error.</summary>
    public string Error { get; } = "";

    /// <summary>A folder for a test's files.</summary>
    public string Folder => _data;

    /// <summary>Runs lodge with the store.</summary>
    public (int Status, string Output, string Error) Run(params string[] arguments) =>
        LodgeProcess.Script("export XDG_DATA_HOME=$1; shift; exec \"$0\" \"$@\"", [_data, .. arguments]);

    public void Dispose() => Directory.Delete(_data, recursive: true);
}

/// <summary>A whole Debian with systemd from a disk.</summary>
[Collection("guests")]
public sealed class DebianTests(DebianImage image) : IClassFixture<DebianImage>
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
    public void AnUnknownImageIsNamed()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        (int status, string output, string error) = image.Run("run", "uname");
        Assert.Equal((1, ""), (status, output));
        Assert.Contains("there is no image uname:latest", error);
        Assert.Contains("lodge run -- uname", error);
    }
}
