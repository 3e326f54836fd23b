using System.Diagnostics;
using System.Formats.Tar;
using Xunit;

namespace Lodge.Cli.Tests;

/// <summary><c>lodge image import</c> and <c>export</c> as a user runs them, and VMDK chains.</summary>
public sealed class PackageCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-package-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void A_package_goes_out_and_in()
    {
        byte[] content = new byte[5 << 20];
        new Random(1).NextBytes(content.AsSpan(1 << 20, 1 << 20));
        File.WriteAllBytes(InFolder("data.img"), content);
        Lodge(0, "create", "-q", "-f", "qcow2", "other.qcow2", "1M");
        Lodge(0, "export", "-f", "raw", "data.img", "-o", "one.ova");
        Lodge(0, "import", "one.ova", "-O", "raw", "-o", "back.img");
        Lodge(0, "export", "--cpus", "2", "--memory", "2G", "other.qcow2", "other.qcow2", "-o", "two.ova");
        string told = Lodge(0, "import", "two.ova", "-o", "disks/").Output;
        Assert.Contains("processors: 2\nmemory: 2 GiB\n", told, StringComparison.Ordinal);
        Assert.True(content.AsSpan().SequenceEqual(File.ReadAllBytes(InFolder("back.img"))));
        Assert.Equal(["two-disk1.qcow2", "two-disk2.qcow2"], Directory.GetFiles(InFolder("disks")).Select(Path.GetFileName).Order());
        Assert.Contains("exists", Lodge(1, "import", "two.ova", "-o", "disks/").Error, StringComparison.Ordinal);
        Assert.Contains("2 disks", Lodge(2, "import", "two.ova", "-o", "file.qcow2").Error, StringComparison.Ordinal);
        Assert.Contains(".ova", Lodge(2, "export", "data.img", "-o", "one.tar").Error, StringComparison.Ordinal);
    }

    [Fact]
    public void A_changed_package_and_one_with_bad_names_leave_nothing()
    {
        Lodge(0, "create", "-q", "-f", "qcow2", "disk.qcow2", "1M");
        Lodge(0, "export", "-q", "disk.qcow2", "-o", "m.ova");
        byte[] bytes = File.ReadAllBytes(InFolder("m.ova"));
        bytes[bytes.AsSpan().IndexOf("KDMV"u8) + 520] ^= 1; // in the VMDK's descriptor
        File.WriteAllBytes(InFolder("changed.ova"), bytes);
        Assert.Contains("manifest", Lodge(1, "import", "changed.ova", "-o", "out.qcow2").Error, StringComparison.Ordinal);
        using (TarWriter writer = new(File.Create(InFolder("bad.ova"))))
        {
            writer.WriteEntry(new UstarTarEntry(TarEntryType.RegularFile, "../m.ovf") { DataStream = new MemoryStream("<Envelope/>"u8.ToArray()) });
        }
        Assert.Contains("'../m.ovf'", Lodge(1, "import", "bad.ova", "-o", "out.qcow2").Error, StringComparison.Ordinal);
        Assert.False(File.Exists(InFolder("out.qcow2")));
    }

    [Fact]
    public void A_committed_vmdk_still_knows_its_parent()
    {
        File.WriteAllBytes(InFolder("data.img"), [.. Enumerable.Repeat((byte)7, 200_704)]);
        Lodge(0, "create", "-q", "-f", "vmdk", "base.vmdk", "1M");
        Lodge(0, "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", "top.vmdk");
        Lodge(0, "convert", "-n", "-f", "raw", "-O", "vmdk", "data.img", "top.vmdk");
        Lodge(0, "commit", "-q", "top.vmdk");
        Lodge(0, "compare", "top.vmdk", "base.vmdk");
        Lodge(0, "convert", "-n", "-f", "raw", "-O", "vmdk", "data.img", "base.vmdk");
        Assert.Contains("CID", Lodge(1, "convert", "top.vmdk", "out.img").Error, StringComparison.Ordinal);
        Lodge(0, "rebase", "-q", "-u", "-b", "base.vmdk", "-F", "vmdk", "top.vmdk");
        Lodge(0, "compare", "top.vmdk", "base.vmdk");
    }

    private string InFolder(string name) => Path.Combine(_folder, name);

    private (string Output, string Error) Lodge(int status, params string[] arguments)
    {
        using Process process = Process.Start(new ProcessStartInfo(Path.Combine(AppContext.BaseDirectory, "lodge"), ["image", .. arguments])
        {
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = _folder,
        })!;
        Task<string> error = process.StandardError.ReadToEndAsync();
        string output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        Assert.True(process.ExitCode == status, $"lodge image {string.Join(' ', arguments)} ended with {process.ExitCode}, not {status}: {error.Result}");
        return (output, error.Result);
    }
}
