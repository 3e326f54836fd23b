using System.Text.Json.Nodes;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Vmdk;

/// <summary>Images that qemu-img and Lodge make, write and read for each other.</summary>
public class VmdkInteroperationTests
{
    private const int Length = 5_000_192;

    public static TheoryData<string> Options => new(
        "subformat=monolithicSparse",
        "subformat=monolithicSparse,zeroed_grain=on,adapter_type=lsilogic",
        "subformat=monolithicFlat,adapter_type=buslogic",
        "subformat=twoGbMaxExtentSparse,hwversion=7",
        "subformat=twoGbMaxExtentFlat,compat6=on",
        "subformat=streamOptimized,adapter_type=legacyESX,toolsversion=9");

    [Theory]
    [MemberData(nameof(Options))]
    public async Task Made_by_Lodge_read_and_written_by_qemu_img(string options)
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        var source = SparseDisk.Random(new Random(1), Length);
        File.WriteAllBytes(folder["raw"], source.Content);
        await ImageConvert.RunAsync(source, new NewImageOptions(folder["disk.vmdk"], "vmdk", Length) { Options = Parse(options) }, new DiskCopyOptions());
        QemuImg.Run("compare", "-f", "vmdk", "-F", "raw", folder["disk.vmdk"], folder["raw"]);
        Check(folder["disk.vmdk"], options);
        await CompareInformationAsync(folder["disk.vmdk"]);
        if (options.Contains("stream", StringComparison.Ordinal))
        {
            return;
        }

        // Other content, written into it by qemu-img.
        File.WriteAllBytes(folder["raw"], SparseDisk.Random(new Random(2), Length).Content);
        QemuImg.Run("convert", "-n", "-f", "raw", "-O", "vmdk", folder["raw"], folder["disk.vmdk"]);
        await CompareAsync(folder["disk.vmdk"], folder["raw"]);
    }

    [Theory]
    [MemberData(nameof(Options))]
    public async Task Made_by_qemu_img_read_and_written_by_Lodge(string options)
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        File.WriteAllBytes(folder["raw"], SparseDisk.Random(new Random(3), Length).Content);
        QemuImg.Run("convert", "-f", "raw", "-O", "vmdk", "-o", options, folder["raw"], folder["disk.vmdk"]);
        await CompareAsync(folder["disk.vmdk"], folder["raw"]);
        await CompareInformationAsync(folder["disk.vmdk"]);
        if (options.Contains("stream", StringComparison.Ordinal))
        {
            QemuImg.Run("create", "-f", "vmdk", "-o", options, folder["disk.vmdk"], $"{Length}");
        }

        var source = SparseDisk.Random(new Random(4), Length);
        File.WriteAllBytes(folder["raw"], source.Content);
        await using (var image = await ImageOpener.OpenAsync(folder["disk.vmdk"], new ImageOpenOptions()))
        {
            await ImageConvert.RunAsync(source, image, new DiskCopyOptions { TargetIsZero = image.Describe().Compressed });
        }

        QemuImg.Run("compare", "-f", "vmdk", "-F", "raw", folder["disk.vmdk"], folder["raw"]);
        Check(folder["disk.vmdk"], options);
    }

    [Theory]
    [InlineData("monolithicSparse", "off")]
    [InlineData("monolithicSparse", "on")]
    [InlineData("twoGbMaxExtentSparse", "on")]
    public async Task Chains_made_by_both(string subformat, string zeroed)
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        var random = new Random(5);
        var content = SparseDisk.Random(random, Length).Content;
        File.WriteAllBytes(folder["raw"], content);
        QemuImg.Run("convert", "-f", "raw", "-O", "vmdk", "-o", $"subformat={subformat}", folder["raw"], folder["a.vmdk"]);
        await VmdkTests.MakeAsync(folder["b.vmdk"], Length, ("subformat", subformat), ("zeroed_grain", zeroed), ("backing_file", "a.vmdk"), ("backing_fmt", "vmdk"));
        await using (var image = await ImageOpener.OpenAsync(folder["b.vmdk"], new ImageOpenOptions()))
        {
            var model = new DiskModel(image, random, content);
            for (var step = 0; step < 40; step++)
            {
                await model.StepAsync();
            }
        }

        File.WriteAllBytes(folder["raw"], content);
        QemuImg.Run("compare", "-f", "vmdk", "-F", "raw", folder["b.vmdk"], folder["raw"]);
        QemuImg.Run("create", "-f", "vmdk", "-o", $"subformat={subformat},zeroed_grain={zeroed}", "-b", folder["b.vmdk"], "-F", "vmdk", folder["c.vmdk"]);
        await CompareAsync(folder["c.vmdk"], folder["raw"]);
        await using (var image = await ImageOpener.OpenAsync(folder["c.vmdk"], new ImageOpenOptions()))
        {
            var model = new DiskModel(image, random, content);
            for (var step = 0; step < 40; step++)
            {
                await model.StepAsync();
            }
        }

        File.WriteAllBytes(folder["raw"], content);
        QemuImg.Run("compare", "-f", "vmdk", "-F", "raw", folder["c.vmdk"], folder["raw"]);
        Check(folder["c.vmdk"], subformat);
        await CompareInformationAsync(folder["c.vmdk"]);
    }

    [Fact]
    public async Task A_disk_of_several_two_gigabyte_extents()
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        foreach (var subformat in (string[])["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"])
        {
            await VmdkTests.MakeAsync(folder["disk.vmdk"], 5L << 30, ("subformat", subformat));
            await using (var image = await ImageOpener.OpenAsync(folder["disk.vmdk"], new ImageOpenOptions()))
            {
                // Across the border of two extents.
                await image.WriteAsync((4192256L * 512) - 100_000, Enumerable.Repeat((byte)0x77, 200_000).ToArray());
                await image.WriteAsync((5L << 30) - 10, Enumerable.Repeat((byte)0x78, 10).ToArray());
            }

            QemuImg.Run("convert", "-f", "vmdk", "-O", "raw", folder["disk.vmdk"], folder["raw"]);
            await CompareAsync(folder["disk.vmdk"], folder["raw"]);
            await CompareInformationAsync(folder["disk.vmdk"]);
        }
    }

    private static FormatOptions Parse(string options) => FormatOptions.Parse(
        DiskFormats.Named("vmdk"), options.Split(',').Select(option => option.Split('=')).Select(pair => KeyValuePair.Create(pair[0], pair[1])));

    private static void Check(string path, string options)
    {
        // qemu-img has no check for flat extents.
        if (!options.Contains("Flat", StringComparison.Ordinal))
        {
            QemuImg.Run("check", "-f", "vmdk", path);
        }
    }

    private static async Task CompareAsync(string path, string raw)
    {
        await using var image = await ImageOpener.OpenAsync(path, new ImageOpenOptions { ReadOnly = true });
        await using var other = await ImageOpener.OpenAsync(raw, new ImageOpenOptions { ReadOnly = true, Format = "raw" });
        Assert.Equal(other.Length, image.Length);
        var buffers = (new byte[1 << 20], new byte[1 << 20]);
        for (long offset = 0; offset < image.Length;)
        {
            var status = await image.GetStatusAsync(offset, Math.Min(image.Length - offset, 1L << 30));
            var below = await other.GetStatusAsync(offset, status.Length);
            if ((status.State & BlockState.Data) == 0 && (below.State & BlockState.Zero) != 0)
            {
                offset += below.Length;
                continue;
            }

            var length = (int)Math.Min(status.Length, 1 << 20);
            await image.ReadAsync(offset, buffers.Item1.AsMemory(0, length));
            await other.ReadAsync(offset, buffers.Item2.AsMemory(0, length));
            Assert.True(buffers.Item1.AsSpan(0, length).SequenceEqual(buffers.Item2.AsSpan(0, length)), $"the content differs near {offset}");
            offset += length;
        }

        Assert.Equal(0, (await ((ICheck)image).CheckAsync(CheckRepair.None)).Corruptions);
    }

    /// <summary>What qemu-img says of an image is what Lodge says.</summary>
    private static async Task CompareInformationAsync(string path)
    {
        var theirs = JsonNode.Parse(QemuImg.Run("info", "--output", "json", "-f", "vmdk", path))!;
        await using var image = await ImageOpener.OpenAsync(path, new ImageOpenOptions { ReadOnly = true });
        var ours = image.Describe();
        Assert.Equal((long)theirs["virtual-size"]!, ours.VirtualSize);
        Assert.Equal((int?)theirs["cluster-size"], ours.ClusterSize);
        Assert.Equal((string?)theirs["backing-filename"], ours.BackingName is null ? null : ours.BackingName);
        var facts = ours.FormatSpecific.ToDictionary();
        var data = theirs["format-specific"]!["data"]!;
        foreach (var name in (string[])["cid", "parent-cid", "create-type"])
        {
            Assert.Equal(data[name]!.ToString(), facts[name]);
        }

        var extents = data["extents"]!.AsArray();
        Assert.Equal(extents.Count, facts.Keys.Count(key => key.EndsWith(".format", StringComparison.Ordinal)));
        for (var index = 0; index < extents.Count; index++)
        {
            foreach (var (name, value) in extents[index]!.AsObject())
            {
                Assert.Equal(value!.ToString(), facts[$"extents.{index}.{name}"]);
            }
        }
    }
}
