using System.Text.Json;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Formats.Qcow2;
using Lodge.Storage.Images;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Qcow2;

/// <summary>What one program makes and writes, the other reads, checks and writes further.</summary>
public sealed class Qcow2InteroperationTests
{
    private const int Length = 3907 * 512;
    private const string Secret = "correct horse";

    public static TheoryData<string> Options =>
    [
        .. Qcow2Cases.Options,
        "cluster_size=2M",
        "preallocation=falloc",
        "data_file=data.raw",
        "data_file=data.raw,data_file_raw=on",
        "encrypt.format=luks,encrypt.iter-time=10",
        "cluster_size=16k,encrypt.format=luks,encrypt.iter-time=10,extended_l2=on",
    ];

    [Theory]
    [MemberData(nameof(Options))]
    [InlineData("preallocation=metadata,encrypt.format=luks,encrypt.iter-time=10")]
    [InlineData("preallocation=full,extended_l2=on,encrypt.format=luks,encrypt.iter-time=10")]
    public async Task WeMakeAndBothWrite(string options)
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        var format = new Qcow2Format();
        var pairs = Qcow2Cases.Pairs(options.Replace("data.raw", folder["data.raw"])).Select(pair => KeyValuePair.Create(pair.Name, pair.Value));
        await using (var file = HostFile.Create(folder["disk"], new HostFileOptions(false)))
        {
            var context = new ImageContext(false, new FolderFiles(folder["disk"], new ImageOpenOptions(), 0), IsEncrypted(options) ? Secret : null);
            await format.CreateAsync(file, Length, FormatOptions.Parse(format, pairs), context);
        }

        await ExchangeAsync(folder, options);
    }

    [Theory]
    [MemberData(nameof(Options))]
    public async Task QemuMakesAndBothWrite(string options)
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        string[] secret = IsEncrypted(options) ? ["--object", $"secret,id=key,data={Secret}"] : [];
        var given = options.Replace("data.raw", folder["data.raw"]) + (IsEncrypted(options) ? ",encrypt.key-secret=key" : "");
        string[] create = ["create", "-q", "-f", "qcow2", .. secret, "-o", given, folder["disk"], $"{Length}"];

        // On a busy host qemu-img gives up measuring how fast it derives keys.
        for (var tries = 0; tries < 10 && QemuImg.RunProgram("qemu-img", create) is { Status: not 0 } made; tries++)
        {
            Assert.True(made.Output.Contains("accurate CPU usage") && tries < 9, made.Output);
        }

        await ExchangeAsync(folder, options);
    }

    [Theory]
    [InlineData("zlib")]
    [InlineData("zstd")]
    public async Task CompressedImagesAreReadBothWays(string compression)
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        var content = Text(Length);
        await File.WriteAllBytesAsync(folder["raw"], content);
        QemuImg.Run("convert", "-f", "raw", "-O", "qcow2", "-c", "-o", $"compression_type={compression}", folder["raw"], folder["theirs"]);
        await using (var image = await ImageOpener.OpenAsync(folder["theirs"], new ImageOpenOptions { Format = "qcow2" }))
        {
            await Qcow2Cases.CompareAsync(image, content, "theirs");
            var status = await image.GetStatusAsync(0, Length);
            Assert.True((status.State & BlockState.Compressed) != 0);
        }

        QemuImg.Run("create", "-q", "-f", "qcow2", "-o", $"compression_type={compression}", folder["ours"], $"{Length}");
        await using (var image = (Qcow2Image)await ImageOpener.OpenAsync(folder["ours"], new ImageOpenOptions { Format = "qcow2" }))
        {
            var unit = image.CompressionUnit;
            await Parallel.ForAsync(0, (Length + unit - 1) / unit, async (index, _) =>
                await image.WriteCompressedAsync((long)index * unit, content.AsMemory(index * unit, Math.Min(unit, Length - (index * unit)))));
        }

        Agree(folder, "ours", "raw");
        Assert.True(new FileInfo(folder["ours"]).Length < new FileInfo(folder["theirs"]).Length * 1.2);
    }

    [Fact]
    public async Task SnapshotsAreSeenBothWays()
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        QemuImg.Run("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", folder["disk"], $"{Length}");
        var random = new Random(5);
        byte[] atOurs;
        byte[] atTheirs;
        await using (var image = (Qcow2Image)await ImageOpener.OpenAsync(folder["disk"], new ImageOpenOptions { Format = "qcow2" }))
        {
            var model = await FillAsync(image, random, null, 30);
            await image.CreateSnapshotAsync("ours");
            atOurs = model.Content.ToArray();
            atTheirs = (await FillAsync(image, random, model.Content, 30)).Content.ToArray();
        }

        QemuImg.Run("check", "-q", folder["disk"]);
        QemuImg.Run("snapshot", "-c", "theirs", folder["disk"]);
        await using (var image = (Qcow2Image)await ImageOpener.OpenAsync(folder["disk"], new ImageOpenOptions { Format = "qcow2" }))
        {
            Assert.Equal(["ours", "theirs"], image.Snapshots.Select(snapshot => snapshot.Name));
            await FillAsync(image, random, atTheirs.ToArray(), 30);
            await image.ApplySnapshotAsync("theirs");
            await Qcow2Cases.CompareAsync(image, atTheirs, "theirs");
            await FillAsync(image, random, atTheirs.ToArray(), 10);
        }

        QemuImg.Run("check", "-q", folder["disk"]);
        QemuImg.Run("snapshot", "-a", "ours", folder["disk"]);
        await using (var image = (Qcow2Image)await ImageOpener.OpenAsync(folder["disk"], new ImageOpenOptions { Format = "qcow2" }))
        {
            await Qcow2Cases.CompareAsync(image, atOurs, "ours");
            await image.DeleteSnapshotAsync("ours");
        }

        QemuImg.Run("check", "-q", folder["disk"]);
        QemuImg.Run("snapshot", "-d", "theirs", folder["disk"]);
        await Qcow2Interoperation.SameAsync(folder["disk"], atOurs);
    }

    [Fact]
    public async Task MapsAgree()
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        QemuImg.Run("create", "-q", "-f", "qcow2", folder["disk"], $"{Length}");
        await using (var image = await ImageOpener.OpenAsync(folder["disk"], new ImageOpenOptions { Format = "qcow2" }))
        {
            await image.WriteAsync(70_000, Text(200_000));
            await image.ZeroAsync(1_000_000, 300_000);
        }

        var theirs = JsonDocument.Parse(QemuImg.Run("map", "--output=json", "-f", "qcow2", folder["disk"])).RootElement;
        await using var again = await ImageOpener.OpenAsync(folder["disk"], new ImageOpenOptions { Format = "qcow2", ReadOnly = true });
        foreach (var extent in theirs.EnumerateArray())
        {
            var ours = await again.GetStatusAsync(extent.GetProperty("start").GetInt64(), extent.GetProperty("length").GetInt64());
            Assert.Equal(extent.GetProperty("data").GetBoolean(), (ours.State & BlockState.Data) != 0);
            if (extent.TryGetProperty("offset", out var offset))
            {
                Assert.Equal(offset.GetInt64(), ours.HostOffset);
            }
        }
    }

    [Fact]
    public async Task MeasuresAgree()
    {
        QemuImg.Require();
        var format = new Qcow2Format();
        foreach (var options in new[] { "cluster_size=64k", "cluster_size=4k,refcount_bits=64", "cluster_size=512", "extended_l2=on", "cluster_size=2M,refcount_bits=1" })
        {
            foreach (var size in new[] { 1L << 20, 10L << 30, 1L << 36 })
            {
                var theirs = JsonDocument.Parse(QemuImg.Run("measure", "--output=json", "-O", "qcow2", "-o", options, "--size", $"{size}")).RootElement;
                var pairs = Qcow2Cases.Pairs(options).Select(pair => KeyValuePair.Create(pair.Name, pair.Value));
                var ours = await format.MeasureAsync(size, null, FormatOptions.Parse(format, pairs));
                Assert.Equal((options, size, theirs.GetProperty("required").GetInt64()), (options, size, ours.Required));
                Assert.Equal((options, size, theirs.GetProperty("fully-allocated").GetInt64()), (options, size, ours.FullyAllocated));
            }
        }
    }

    [Fact]
    public async Task DirtyBitmapsOfQemuAreReadAndMarkedWhenTheyMissChanges()
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        QemuImg.Run("create", "-q", "-f", "qcow2", folder["disk"], $"{Length}");
        QemuImg.Run("bitmap", "--add", "--enable", "-g", "64k", folder["disk"], "followed");
        QemuImg.Run("bitmap", "--add", "--disable", folder["disk"], "kept");
        QemuImg.RequireProgram("qemu-io", "qemu-utils");
        var (status, output) = QemuImg.RunProgram("qemu-io", "-f", "qcow2", "-c", "write 128k 64k", folder["disk"]);
        Assert.True(status == 0, output);
        await using (var image = (Qcow2Image)await ImageOpener.OpenAsync(folder["disk"], new ImageOpenOptions { Format = "qcow2" }))
        {
            Assert.Equal(["followed", "kept"], image.BitmapNames.Order());
            Assert.Equal((false, 128 << 10), await image.GetDirtyAsync("followed", 0, Length));
            Assert.Equal((true, 64 << 10), await image.GetDirtyAsync("followed", 128 << 10, 1 << 20));
            Assert.Equal((false, Length), await image.GetDirtyAsync("kept", 0, Length));
            await image.WriteAsync(0, Text(512));
            Assert.Equal(["kept"], image.BitmapNames);
        }

        QemuImg.Run("check", "-q", folder["disk"]);
        var bitmaps = JsonDocument.Parse(QemuImg.Run("info", "--output=json", folder["disk"])).RootElement
            .GetProperty("format-specific").GetProperty("data").GetProperty("bitmaps").EnumerateArray().ToDictionary(bitmap => bitmap.GetProperty("name").GetString()!);
        Assert.Contains("in-use", bitmaps["followed"].GetProperty("flags").EnumerateArray().Select(flag => flag.GetString()));
        Assert.DoesNotContain("in-use", bitmaps["kept"].GetProperty("flags").EnumerateArray().Select(flag => flag.GetString()));
    }

    [Fact]
    public async Task AmendedImagesAreWhatQemuMakesOfThem()
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        QemuImg.Run("create", "-q", "-f", "qcow2", "-o", "compat=0.10", folder["disk"], $"{Length}");
        var format = new Qcow2Format();
        async Task Amend(byte[] content, params string[] options)
        {
            await using (var image = (Qcow2Image)await ImageOpener.OpenAsync(folder["disk"], new ImageOpenOptions { Format = "qcow2" }))
            {
                foreach (var option in options)
                {
                    var pairs = Qcow2Cases.Pairs(option).Select(pair => KeyValuePair.Create(pair.Name, pair.Value));
                    await image.AmendAsync(FormatOptions.Parse(format, pairs), null);
                }
            }

            await Qcow2Interoperation.SameAsync(folder["disk"], content);
        }

        byte[] content;
        await using (var image = (Qcow2Image)await ImageOpener.OpenAsync(folder["disk"], new ImageOpenOptions { Format = "qcow2" }))
        {
            content = (await FillAsync(image, new Random(3), null, 20)).Content;
        }

        await Amend(content, "compat=1.1");
        await Amend(content, "lazy_refcounts=on");
        Assert.Contains("lazy refcounts: true", QemuImg.Run("info", folder["disk"]));
        await using (var image = (Qcow2Image)await ImageOpener.OpenAsync(folder["disk"], new ImageOpenOptions { Format = "qcow2" }))
        {
            content = (await FillAsync(image, new Random(4), content, 20)).Content;
        }

        await Amend(content, "refcount_bits=64", "lazy_refcounts=off");
        Assert.Contains("refcount bits: 64", QemuImg.Run("info", folder["disk"]));
        await Amend(content, "refcount_bits=16", "compat=0.10");
        Assert.Contains("compat: 0.10", QemuImg.Run("info", folder["disk"]));
        Array.Resize(ref content, 5_000_192);
        await Amend(content, "size=5000000");
    }

    private static bool IsEncrypted(string options) => options.Contains("encrypt");

    private static async Task<DiskModel> FillAsync(IDisk disk, Random random, byte[]? content, int steps)
    {
        var model = new DiskModel(disk, random, content);
        for (var step = 0; step < steps; step++)
        {
            await model.StepAsync();
        }

        return model;
    }

    private static byte[] Text(int length)
    {
        var random = new Random(1);
        var words = Enumerable.Range(0, 500).Select(_ => new string('x', random.Next(1, 4)) + random.Next(1000)).ToArray();
        var bytes = new byte[length];
        for (var at = 0; at < length;)
        {
            foreach (var letter in words[random.Next(words.Length)])
            {
                if (at < length)
                {
                    bytes[at++] = (byte)letter;
                }
            }
        }

        return bytes;
    }

    private static void Agree(TemporaryFolder folder, string image, string raw)
    {
        QemuImg.Run("check", "-q", folder[image]);
        QemuImg.Run("compare", "-q", "-f", "qcow2", "-F", "raw", folder[image], folder[raw]);
    }

    private static async Task ExchangeAsync(TemporaryFolder folder, string options)
    {
        var secret = IsEncrypted(options) ? Secret : null;
        var random = new Random(options.Length);
        byte[] content;
        await using (var image = await ImageOpener.OpenAsync(folder["disk"], new ImageOpenOptions { Format = "qcow2", Secret = secret }))
        {
            content = (await FillAsync(image, random, null, 30)).Content;
        }

        await Qcow2Interoperation.SameAsync(folder["disk"], content, secret);
        if (options.Contains("data_file_raw"))
        {
            var raw = await File.ReadAllBytesAsync(folder["data.raw"]);
            Assert.Equal(content, raw[..content.Length]);
            Assert.Equal(-1, raw.AsSpan(content.Length).IndexOfAnyExcept((byte)0));
        }

        // Theirs over ours: qemu-io writes patterns.
        QemuImg.RequireProgram("qemu-io", "qemu-utils");
        foreach (var (at, length, pattern) in new[] { (4096, 70_000, 0x11), (1_000_000, 5_000, 0x22), (1_900_000, 100_000, 0x33) })
        {
            var aligned = at / 512 * 512;
            var whole = length / 512 * 512;
            var target = Qcow2Interoperation.Target(folder["disk"], secret);
            var (status, output) = QemuImg.RunProgram("qemu-io", [.. target, "-c", $"write -P {pattern} {aligned} {whole}"]);
            Assert.True(status == 0, output);
            content.AsSpan(aligned, whole).Fill((byte)pattern);
        }

        await using (var image = await ImageOpener.OpenAsync(folder["disk"], new ImageOpenOptions { Format = "qcow2", Secret = secret }))
        {
            await Qcow2Cases.CompareAsync(image, content, options);
            content = (await FillAsync(image, random, content, 20)).Content;
        }

        await Qcow2Interoperation.SameAsync(folder["disk"], content, secret);
    }
}

/// <summary>Asks qemu-img about an image.</summary>
internal static class Qcow2Interoperation
{
    /// <summary>Arguments that name an image to QEMU's tools.</summary>
    public static string[] Target(string path, string? secret) => secret is null
        ? ["-f", "qcow2", path]
        : ["--object", $"secret,id=key,data={secret}", "--image-opts", $"driver=qcow2,file.filename={path},encrypt.key-secret=key"];

    /// <summary>Checks an image by qemu-img, which must find neither errors nor leaks, and compares its content.</summary>
    public static async Task SameAsync(string path, byte[] content, string? secret = null)
    {
        QemuImg.Run(["check", "-q", .. Target(path, secret)]);
        await File.WriteAllBytesAsync(path + ".expected", content);
        if (secret is null)
        {
            QemuImg.Run("compare", "-q", "-f", "qcow2", "-F", "raw", path, path + ".expected");
        }
        else
        {
            QemuImg.Run(["convert", "-O", "raw", .. Target(path, secret), path + ".plain"]);
            Assert.True((await File.ReadAllBytesAsync(path + ".plain")).AsSpan().SequenceEqual(content), $"{path} differs for qemu-img");
        }
    }
}
