using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Blocks;

/// <summary>Parents, repair, the log of VHDX, and the sizes of VHD.</summary>
public sealed class BlockImageTests
{
    [Theory]
    [InlineData("vpc")]
    [InlineData("vhdx")]
    public async Task AnotherParentIsRefusedUntilItIsNamedAgain(string format)
    {
        var (files, content) = await BlockCases.CreateAsync(format, "", true, new Random(1));
        await files.CreateAsync("other", format, BlockCases.Length);
        var own = files["parent"].Content;
        files["parent"].Content = files["other"].Content;
        var failure = await Assert.ThrowsAsync<DiskException>(() => files.OpenAsync("image", format));
        Assert.Equal(DiskError.Corrupt, failure.Error);
        files["other"].Content = own;
        var opened = await DiskFormats.Named(format).OpenAsync(files["image"], new ImageContext(false, files, OpenBacking: false));
        await ((IBackedImage)opened).SetBackingAsync("other", format);
        await opened.DisposeAsync();
        await using var image = await files.OpenAsync("image", format);
        Assert.Equal("other", image.Describe().BackingName);
        Assert.True(BlockCases.Same(content, await image.ReadBytesAsync(0, content.Length)));
    }

    [Theory]
    [InlineData("vpc")]
    [InlineData("vhdx")]
    public async Task AnEmptiedImageShowsItsParentAndTakesNoRoom(string format)
    {
        var (files, content) = await BlockCases.CreateAsync(format, "", true, new Random(2));
        var before = files["image"].Length;
        await using var image = await files.OpenAsync("image", format);
        await image.WriteAsync(1000, new byte[500_000]);
        Assert.Equal((true, 100L), await ((IBackedImage)image).IsOwnAsync(2048, 100));
        await ((IBackedImage)image).MakeEmptyAsync();
        Assert.True(BlockCases.Same(content, await image.ReadBytesAsync(0, content.Length)));
        Assert.False((await ((IBackedImage)image).IsOwnAsync(2048, 100)).Own);
        Assert.True(files["image"].Length <= before, $"{files["image"].Length} bytes, {before} when it was new");
        await BlockCases.CheckAsync(image, format);
    }

    [Theory]
    [InlineData("vpc", "block_size=64k")]
    [InlineData("vhdx", "block_size=1M")]
    [InlineData("vdi", "")]
    public async Task BlocksThatNothingUsesAreFound(string format, string options)
    {
        var (files, content) = await BlockCases.CreateAsync(format, options, false, new Random(3));
        await using (var image = await files.OpenAsync("image", format))
        {
            new Random(3).NextBytes(content);
            await image.WriteAsync(0, content);
        }

        // A table without the first block is what forgetting it leaves.
        var length = files["image"].Length;
        var bytes = files["image"].Content;
        var at = format switch { "vpc" => 1536, "vhdx" => 3 << 20, _ => 512 };
        var unit = format == "vpc" ? 65536 : 1 << 20;
        bytes.AsSpan(at, format == "vhdx" ? 8 : 4).Fill(format == "vhdx" ? (byte)0 : (byte)0xFF);
        files["image"].Content = bytes;
        content.AsSpan(0, unit).Clear();
        await using (var image = await DiskFormats.Named(format).OpenAsync(files["image"], new ImageContext(false, files, Checking: true)))
        {
            var result = await ((ICheck)image).CheckAsync(CheckRepair.Leaks);
            Assert.True(result is { Corruptions: 0, Leaks: > 0 } && result.LeaksFixed == result.Leaks, string.Join("; ", result.Messages));
            await BlockCases.CheckAsync(image, format);
            Assert.True(BlockCases.Same(content, await image.ReadBytesAsync(0, content.Length)));
        }

        if (format != "vdi")
        {
            Assert.True(files["image"].Length < length);
        }

        await using var again = await files.OpenAsync("image", format, readOnly: true);
        await BlockCases.CheckAsync(again, format);
    }

    [Theory]
    [InlineData("vpc", "block_size=64k")]
    [InlineData("vhdx", "block_size=1M")]
    [InlineData("vdi", "")]
    public async Task TwoBlocksInOnePlaceAreRefusedAndMended(string format, string options)
    {
        var (files, content) = await BlockCases.CreateAsync(format, options, false, new Random(4));
        await using (var image = await files.OpenAsync("image", format))
        {
            await image.WriteAsync(0, content);
        }

        var bytes = files["image"].Content;
        var (at, width) = format switch { "vpc" => (1536, 4), "vhdx" => (3 << 20, 8), _ => (512, 4) };
        bytes.AsSpan(at, width).CopyTo(bytes.AsSpan(at + width));
        files["image"].Content = bytes;
        Assert.Equal(DiskError.Corrupt, (await Assert.ThrowsAsync<DiskException>(() => files.OpenAsync("image", format))).Error);
        await using (var image = await DiskFormats.Named(format).OpenAsync(files["image"], new ImageContext(false, files, Checking: true)))
        {
            Assert.Equal(1, (await ((ICheck)image).CheckAsync(CheckRepair.All)).CorruptionsFixed);
        }

        await using var again = await files.OpenAsync("image", format);
        await BlockCases.CheckAsync(again, format);
    }

    [Theory]
    [InlineData("vpc", "force_size=on,block_size=512k")]
    [InlineData("vhdx", "block_size=1M")]
    [InlineData("vdi", "")]
    public async Task ADiskThatWasCutGrowsAgain(string format, string options)
    {
        var files = new MemoryFiles();
        await files.CreateAsync("image", format, 8 << 20, BlockCases.Options(options));
        await using var image = await files.OpenAsync("image", format);
        await image.WriteAsync(0, Enumerable.Repeat((byte)5, 8 << 20).ToArray());
        foreach (var size in new[] { 2 << 20, 3 << 20, 8 << 20, 1 << 20, 6 << 20 })
        {
            await image.SetLengthAsync(size);
            await image.WriteAsync(size - 512, Enumerable.Repeat((byte)6, 512).ToArray());
            await image.FlushAsync();
        }

        var expected = new byte[6 << 20];
        expected.AsSpan(0, 1 << 20).Fill(5);
        expected.AsSpan((1 << 20) - 512, 512).Fill(6);
        expected.AsSpan((6 << 20) - 512).Fill(6);
        Assert.True(BlockCases.Same(expected, await image.ReadBytesAsync(0, 6 << 20)));
        await BlockCases.CheckAsync(image, format, leaks: false);
    }

    [Fact]
    public async Task TheLogOfVhdxIsReplayedInMemoryAndInTheFile()
    {
        var (files, content) = await BlockCases.CreateAsync("vhdx", "block_size=1M", false, new Random(5));
        var (size, replayed) = (content.Length + (1 << 20), 0);
        for (var changes = 1; changes < 12; changes++)
        {
            var file = new MemoryFile { Content = files["image"].Content };
            var image = await BlockCases.OpenAsync(files, file, "vhdx");
            file.FailAfter = changes;
            try
            {
                await image.SetLengthAsync(size);
                break;
            }
            catch (DiskException)
            {
            }

            file = new MemoryFile { Content = file.Content };
            var pending = new Guid(file.Content.AsSpan((64 << 10) + 48, 16)) != Guid.Empty || new Guid(file.Content.AsSpan((128 << 10) + 48, 16)) != Guid.Empty;
            var before = file.Content;
            long length;
            await using (var readOnly = await BlockCases.OpenAsync(files, file, "vhdx", readOnly: true))
            {
                length = readOnly.Length;
                replayed += pending && readOnly.Describe().Dirty && length == size ? 1 : 0;
            }

            Assert.True(BlockCases.Same(before, file.Content), "opening for reading changed the file");
            await using var writable = await BlockCases.OpenAsync(files, file, "vhdx");
            Assert.Equal(length, writable.Length);
            Assert.False(writable.Describe().Dirty);
        }

        Assert.True(replayed > 0, "no change was pending in the log");
    }

    [Theory]
    [InlineData("vpc ", true)]
    [InlineData("qemu", true)]
    [InlineData("win ", false)]
    [InlineData("qem2", false)]
    [InlineData("vbox", false)]
    public async Task TheSizeOfAVhdFollowsItsCreator(string creator, bool geometry)
    {
        var files = new MemoryFiles();
        await files.CreateAsync("image", "vpc", BlockCases.Length, ("force_size", "on"));
        var bytes = files["image"].Content;
        var sectors = bytes[56] * 256L + bytes[57];
        sectors *= bytes[58] * bytes[59];
        foreach (var offset in new[] { 0, bytes.Length - 512 })
        {
            System.Text.Encoding.ASCII.GetBytes(creator, bytes.AsSpan(offset + 28, 4));
        }

        Damage.Mend("vpc", bytes);
        files["image"].Content = bytes;
        await using var image = await files.OpenAsync("image", "vpc", readOnly: true);
        Assert.NotEqual(BlockCases.Length, sectors * 512);
        Assert.Equal(geometry ? sectors * 512 : BlockCases.Length, image.Length);
    }

    [Fact]
    public async Task AVhdThatEndsAndBeginsDifferentlyIsRefused()
    {
        var files = new MemoryFiles();
        await files.CreateAsync("fixed", "vpc", 1 << 20, ("subformat", "fixed"));
        await files.CreateAsync("dynamic", "vpc", 1 << 20);
        var bytes = files["fixed"].Content;
        files["dynamic"].Content.AsSpan(0, 2048).CopyTo(bytes);
        files["fixed"].Content = bytes;
        Assert.Equal(DiskError.Corrupt, (await Assert.ThrowsAsync<DiskException>(() => files.OpenAsync("fixed", "vpc"))).Error);
    }

    [Theory]
    [InlineData("vpc", "")]
    [InlineData("vpc", "subformat=fixed")]
    [InlineData("vdi", "")]
    [InlineData("vhdx", "block_size=1M")]
    public async Task MeasuringTellsWhatAnImageTakes(string format, string options)
    {
        var (files, content) = await BlockCases.CreateAsync(format, options, false, new Random(6));
        var known = DiskFormats.Named(format);
        var given = FormatOptions.Parse(known, BlockCases.Options(options).Select(pair => KeyValuePair.Create(pair.Name, pair.Value)));
        var source = new MemoryFile { Content = content };
        var measure = await known.MeasureAsync(content.Length, source, given);
        content.AsSpan().Fill(1);
        await using (var image = await files.OpenAsync("image", format))
        {
            await image.WriteAsync(0, content);
        }

        Assert.InRange(files["image"].Length, 0, measure.Required);
        Assert.InRange(measure.Required - files["image"].Length, 0, 16384);
        Assert.Equal(measure.FullyAllocated, measure.Required);
    }
}
