using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Formats.Qcow2;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Qcow2;

/// <summary>Option combinations that the tests of qcow2 run over, and what they share.</summary>
internal static class Qcow2Cases
{
    /// <summary>Options as <c>name=value</c> joined by commas, as qemu-img takes them.</summary>
    public static readonly string[] Options =
    [
        "compat=0.10,cluster_size=4k",
        "compat=1.1,cluster_size=64k",
        "cluster_size=512,refcount_bits=64",
        "cluster_size=1k,refcount_bits=1",
        "cluster_size=2k,refcount_bits=8",
        "cluster_size=4k,lazy_refcounts=on",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=32k,extended_l2=on,compression_type=zstd,refcount_bits=32",
        "cluster_size=4k,preallocation=metadata",
        "cluster_size=8k,refcount_bits=2,preallocation=full",
    ];

    public static TheoryData<string> All => [.. Options];

    public static (string Name, string Value)[] Pairs(string options) =>
        [.. options.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(option => (option[..option.IndexOf('=')], option[(option.IndexOf('=') + 1)..]))];

    public static async Task<Qcow2Image> CreateAsync(MemoryFiles files, string name, long length, string options)
    {
        await files.CreateAsync(name, "qcow2", length, Pairs(options));
        return (Qcow2Image)await files.OpenAsync(name, "qcow2");
    }

    /// <summary>Checks a file in memory by ourselves: no corruption, and no leaks unless they are <paramref name="allowed"/>.</summary>
    public static async Task CheckAsync(MemoryFiles files, string name, bool leaksAllowed = false, string? what = null)
    {
        await using var image = (Qcow2Image)await new Qcow2Format().OpenAsync(files[name], new ImageContext(true, files, Checking: true));
        var result = await image.CheckAsync(CheckRepair.None);
        Assert.True(
            result.Corruptions == 0 && result.CheckErrors == 0 && (leaksAllowed || result.Leaks == 0),
            $"{what}: {result.Corruptions} corruptions, {result.Leaks} leaks: {string.Join("; ", result.Messages.Take(5))}");
    }

    /// <summary>Checks an image by qemu-img, where it is installed.</summary>
    public static void CheckByQemu(byte[] image, bool leaksAllowed, string what)
    {
        if (!QemuImg.IsInstalled)
        {
            return;
        }

        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder["disk"], image);
        var (status, output) = QemuImg.RunProgram("qemu-img", "check", "-f", "qcow2", folder["disk"]);
        Assert.True(status == 0 || (leaksAllowed && status == 3), $"{what}: qemu-img check ended with {status}: {output}");
    }

    /// <summary>Compares a disk with an array.</summary>
    public static async Task CompareAsync(IDisk disk, byte[] content, string what)
    {
        var read = await disk.ReadBytesAsync(0, content.Length);
        var same = read.AsSpan().CommonPrefixLength(content);
        Assert.True(same == content.Length, $"{what}: the disk differs at {same}");
    }
}
