using System.Text.Json;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Blocks;

/// <summary>Images made here and read by qemu-img, and the other way round.</summary>
public sealed class BlockInteroperationTests
{
    /// <summary>Format and options that both know.</summary>
    public static TheoryData<string, string> Shared => new()
    {
        { "vpc", "" },
        { "vpc", "force_size=on" },
        { "vpc", "subformat=fixed" },
        { "vpc", "subformat=fixed,force_size=on" },
        { "vhdx", "" },
        { "vhdx", "block_size=1M,log_size=2M" },
        { "vhdx", "block_state_zero=off" },
        { "vhdx", "subformat=fixed,block_size=2M" },
        { "vdi", "" },
        { "vdi", "static=on" },
    };

    [Theory]
    [MemberData(nameof(Shared))]
    public async Task MadeHereWrittenByBoth(string format, string options)
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        var known = DiskFormats.Named(format);
        await using (var made = await NewImage.CreateAsync(new NewImageOptions(folder["image"], format, 9_000_448)
        {
            Options = FormatOptions.Parse(known, BlockCases.Options(options).Select(pair => KeyValuePair.Create(pair.Name, pair.Value))),
        }))
        {
            await made.CompleteAsync();
        }

        await WrittenByBothAsync(folder, format);
    }

    [Theory]
    [MemberData(nameof(Shared))]
    public async Task MadeByQemuWrittenByBoth(string format, string options)
    {
        QemuImg.Require();
        using var folder = new TemporaryFolder();
        QemuImg.Run(["create", "-q", "-f", format, .. options.Length == 0 ? Array.Empty<string>() : ["-o", options], folder["image"], "9000448"]);
        await WrittenByBothAsync(folder, format);
    }

    private static async Task WrittenByBothAsync(TemporaryFolder folder, string format)
    {
        var random = new Random(format.Length);
        byte[] content;
        await using (var image = await ImageOpener.OpenAsync(folder["image"], new ImageOpenOptions { Format = format, ReadOnly = true }))
        {
            Assert.Equal(image.Length, QemuSize(folder["image"], format));
            content = new byte[image.Length];
            Assert.Equal(format, (await DiskFormats.ProbeAsync(image.File)).Name);
        }

        for (var round = 0; round < 2; round++)
        {
            await using (var image = await ImageOpener.OpenAsync(folder["image"], new ImageOpenOptions { Format = format }))
            {
                var model = new DiskModel(image, random, content);
                for (var step = 0; step < 25; step++)
                {
                    await model.StepAsync();
                }

                await model.CompareAsync();
            }

            CheckByQemu(folder["image"], format);
            await CompareByQemuAsync(folder, format, content);
            for (var write = 0; write < 4; write++)
            {
                var value = random.Next(1, 256);
                var at = random.Next((content.Length / 512) - 300) * 512;
                content.AsSpan(at, 131072).Fill((byte)value);
                var (status, output) = QemuImg.RunProgram("qemu-io", "-f", format, "-c", $"write -P {value} {at} 131072", folder["image"]);
                Assert.True(status == 0, output);
            }

            await using var again = await ImageOpener.OpenAsync(folder["image"], new ImageOpenOptions { Format = format, ReadOnly = true });
            Assert.True(BlockCases.Same(content, await again.ReadBytesAsync(0, content.Length)), $"round {round}: what QEMU wrote is read otherwise");
            await BlockCases.CheckAsync(again, $"round {round}");
        }

        CheckByQemu(folder["image"], format);
        await CompareByQemuAsync(folder, format, content);
    }

    private static async Task CompareByQemuAsync(TemporaryFolder folder, string format, byte[] content)
    {
        await File.WriteAllBytesAsync(folder["raw"], content);
        QemuImg.Run("compare", "-f", format, "-F", "raw", folder["image"], folder["raw"]);
    }

    private static void CheckByQemu(string path, string format)
    {
        if (format != "vpc")
        {
            QemuImg.Run("check", "-q", "-f", format, path);
        }
    }

    private static long QemuSize(string path, string format)
    {
        using var information = JsonDocument.Parse(QemuImg.Run("info", "--output", "json", "-f", format, path));
        return information.RootElement.GetProperty("virtual-size").GetInt64();
    }
}
