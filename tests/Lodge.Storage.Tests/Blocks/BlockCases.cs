using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Blocks;

/// <summary>The kinds of image that hold a disk in blocks: VHD, VDI, VHDX.</summary>
public static class BlockCases
{
    /// <summary>Size of the disks, no multiple of any block.</summary>
    public const int Length = (2 << 20) + (700 * 512);

    /// <summary>Format, options, and whether it has a parent.</summary>
    public static TheoryData<string, string, bool> All => new()
    {
        { "vpc", "subformat=fixed", false },
        { "vpc", "force_size=on", false },
        { "vpc", "force_size=on,block_size=64k", false },
        { "vpc", "force_size=on", true },
        { "vpc", "force_size=on,block_size=64k", true },
        { "vhdx", "block_size=1M", false },
        { "vhdx", "block_size=1M,block_state_zero=off,log_size=2M", false },
        { "vhdx", "block_size=1M,subformat=fixed", false },
        { "vhdx", "block_size=1M", true },
        { "vdi", "", false },
        { "vdi", "preallocation=metadata", false },
    };

    public static (string Name, string Value)[] Options(string text) =>
        [.. text.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(pair => pair.Split('=')).Select(pair => (pair[0], pair[1]))];

    /// <summary>A folder with an empty image, and a parent with content if there is to be one.</summary>
    public static async Task<(MemoryFiles Files, byte[] Content)> CreateAsync(string format, string options, bool parent, Random random)
    {
        var files = new MemoryFiles();
        var given = Options(options);
        byte[]? content = null;
        if (parent)
        {
            await files.CreateAsync("parent", format, Length, given);
            await using (var image = await files.OpenAsync("parent", format))
            {
                content = new byte[image.Length];
                for (var index = 0; index < 10; index++)
                {
                    var bytes = new byte[random.Next(1, 300_000)];
                    random.NextBytes(bytes);
                    var at = random.Next(content.Length - bytes.Length);
                    bytes.CopyTo(content, at);
                    await image.WriteAsync(at, bytes);
                }
            }

            given = [.. given, ("backing_file", "parent"), ("backing_fmt", format)];
        }

        await files.CreateAsync("image", format, Length, given);
        if (content is null)
        {
            await using var image = await files.OpenAsync("image", format, readOnly: true);
            content = new byte[image.Length];
        }

        return (files, content);
    }

    public static bool Same(byte[] one, byte[] other) => one.AsSpan().SequenceEqual(other);

    /// <summary>Opens another file as the image of a folder.</summary>
    public static async Task<IImage> OpenAsync(MemoryFiles files, MemoryFile file, string format, bool readOnly = false, bool checking = false) =>
        await DiskFormats.Named(format).OpenAsync(file, new ImageContext(readOnly, files, Checking: checking));

    /// <summary>Fails the test unless the image is free of corruption, and of leaks if that is asked.</summary>
    public static async Task CheckAsync(IDisk image, string what, bool leaks = true)
    {
        if (image is ICheck check)
        {
            var result = await check.CheckAsync(CheckRepair.None);
            Assert.True(result.Corruptions == 0 && result.CheckErrors == 0 && (result.Leaks == 0 || !leaks), $"{what}: {string.Join("; ", result.Messages)}");
        }
    }
}
