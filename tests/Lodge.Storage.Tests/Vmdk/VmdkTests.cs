using System.Buffers.Binary;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Vmdk;

/// <summary>VMDK images in memory against a plain array, with power cuts and full disks.</summary>
public class VmdkTests
{
    public static TheoryData<string, string> Kinds => new()
    {
        { "monolithicSparse", "off" },
        { "monolithicSparse", "on" },
        { "monolithicFlat", "off" },
        { "twoGbMaxExtentSparse", "off" },
        { "twoGbMaxExtentSparse", "on" },
        { "twoGbMaxExtentFlat", "off" },
    };

    [Theory]
    [MemberData(nameof(Kinds))]
    public async Task Random_operations_give_what_an_array_gives(string subformat, string zeroed)
    {
        for (var seed = 0; seed < 12; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            await files.CreateAsync("disk.vmdk", "vmdk", 3_000_000 + (seed * 512), ("subformat", subformat), ("zeroed_grain", zeroed));
            var image = await files.OpenAsync("disk.vmdk", "vmdk");
            var model = new DiskModel(image, random);
            for (var step = 0; step < 60; step++)
            {
                await model.StepAsync(discardZeroes: true);
                if (step % 20 == 19)
                {
                    await image.DisposeAsync();
                    image = await files.OpenAsync("disk.vmdk", "vmdk");
                    await model.CompareAsync(image);
                    model = new DiskModel(image, random, model.Content);
                }
            }

            var check = await ((ICheck)image).CheckAsync(CheckRepair.None);
            Assert.True(check is { Corruptions: 0, Leaks: 0 }, $"seed {seed}: {string.Join("; ", check.Messages)}");
        }
    }

    [Theory]
    [InlineData("monolithicSparse", "off")]
    [InlineData("monolithicSparse", "on")]
    [InlineData("twoGbMaxExtentSparse", "on")]
    public async Task A_chain_gives_what_an_array_gives(string subformat, string zeroed)
    {
        for (var seed = 0; seed < 12; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            var lengths = new[] { 2_000_384, 2_500_096, 2_300_416 };
            var content = Array.Empty<byte>();
            for (var layer = 0; layer < lengths.Length; layer++)
            {
                var options = new List<(string, string)> { ("subformat", subformat), ("zeroed_grain", zeroed) };
                if (layer > 0)
                {
                    options.Add(("backing_file", $"disk{layer - 1}.vmdk"));
                }

                await files.CreateAsync($"disk{layer}.vmdk", "vmdk", lengths[layer], [.. options]);
                await using var image = await files.OpenAsync($"disk{layer}.vmdk", "vmdk");
                Array.Resize(ref content, lengths[layer]);
                var model = new DiskModel(image, random, content);
                await model.CompareAsync();
                for (var step = 0; step < 40; step++)
                {
                    await model.StepAsync(largest: 150_000);
                }

                await model.CompareAsync();
                content = model.Content;
            }
        }
    }

    [Fact]
    public async Task A_power_cut_loses_nothing_flushed_and_corrupts_nothing()
    {
        var cuts = 0;
        foreach (var row in Kinds)
        {
            var (subformat, zeroed) = row.Data;
            for (var seed = 0; seed < 40; seed++)
            {
                var random = new Random(seed);
                var files = new MemoryFiles();
                await files.CreateAsync("disk.vmdk", "vmdk", 400_384, ("subformat", subformat), ("zeroed_grain", zeroed));
                var image = await files.OpenAsync("disk.vmdk", "vmdk");
                var model = new DiskModel(image, random);
                for (var step = 0; step < 30; step++)
                {
                    await model.StepAsync(largest: 80_000);
                    if (step % 3 == 2)
                    {
                        cuts++;
                        await CompareAfterCutAsync(files, model, random, $"{subformat} zeroed_grain={zeroed}, seed {seed}, step {step}");
                    }
                }
            }
        }

        Assert.True(cuts >= 2000, $"{cuts} cuts");
    }

    [Fact]
    public async Task A_full_disk_fails_the_write_and_nothing_else()
    {
        foreach (var subformat in (string[])["monolithicSparse", "twoGbMaxExtentSparse"])
        {
            for (var after = 0; after < 25; after++)
            {
                var random = new Random(after);
                var files = new MemoryFiles();
                await files.CreateAsync("disk.vmdk", "vmdk", 2_000_000, ("subformat", subformat));
                var image = await files.OpenAsync("disk.vmdk", "vmdk");
                var content = new byte[image.Length];
                var file = subformat == "monolithicSparse" ? files["disk.vmdk"] : files["disk-s001.vmdk"];
                file.FailAfter = after;
                var failures = 0;
                for (var step = 0; step < 40; step++)
                {
                    var bytes = new byte[random.Next(1, 90_000)];
                    random.NextBytes(bytes);
                    var offset = random.Next(0, content.Length - bytes.Length);
                    try
                    {
                        await image.WriteAsync(offset, bytes);
                        if (step % 5 == 0)
                        {
                            await image.FlushAsync();
                        }

                        bytes.CopyTo(content, offset);
                    }
                    catch (DiskException e) when (e.Error == DiskError.NoSpace)
                    {
                        // What a failed write leaves is undefined: the disk gets room and it is done again.
                        failures++;
                        file.FailAfter = -1;
                        await image.WriteAsync(offset, bytes);
                        bytes.CopyTo(content, offset);
                        file.FailAfter = random.Next(20);
                    }
                }

                file.FailAfter = -1;
                Assert.NotEqual(0, failures);
                await image.DisposeAsync();
                image = await files.OpenAsync("disk.vmdk", "vmdk");
                var read = await image.ReadBytesAsync(0, content.Length);
                Assert.True(read.AsSpan().SequenceEqual(content), $"{subformat}, full after {after} writes: the content differs");
                Assert.Equal(0, (await ((ICheck)image).CheckAsync(CheckRepair.None)).Corruptions);
            }
        }
    }

    [Fact]
    public async Task Requests_that_meet_in_a_grain_keep_each_others_bytes()
    {
        using var folder = new TemporaryFolder();
        await MakeAsync(folder["base.vmdk"], 8 << 20);
        await using (var parent = await ImageOpener.OpenAsync(folder["base.vmdk"], new ImageOpenOptions()))
        {
            await parent.WriteAsync(0, Enumerable.Repeat((byte)0xAA, 8 << 20).ToArray());
        }

        await MakeAsync(folder["top.vmdk"], 8 << 20, ("backing_file", "base.vmdk"));
        await using var image = await ImageOpener.OpenAsync(folder["top.vmdk"], new ImageOpenOptions());
        await Parallel.ForEachAsync(Enumerable.Range(0, (8 << 20) / 12_288), async (piece, stop) =>
        {
            await image.WriteAsync(piece * 12_288L, Enumerable.Repeat((byte)(piece | 1), 7000).ToArray(), WriteOptions.None, stop);
            if (piece % 50 == 0)
            {
                await image.FlushAsync(stop);
            }
        });
        var bytes = await image.ReadBytesAsync(0, 8 << 20);
        for (var index = 0; index < (8 << 20) / 12_288 * 12_288; index++)
        {
            var wanted = index % 12_288 < 7000 ? (byte)((index / 12_288) | 1) : (byte)0xAA;
            Assert.True(bytes[index] == wanted, $"byte {index} is {bytes[index]:x2}");
        }
    }

    [Fact]
    public async Task The_first_write_changes_the_content_id_and_a_child_notices()
    {
        var files = new MemoryFiles();
        await files.CreateAsync("base.vmdk", "vmdk", 1 << 20);
        var untouched = files["base.vmdk"].Content;
        await (await files.OpenAsync("base.vmdk", "vmdk")).DisposeAsync();
        Assert.Equal(untouched, files["base.vmdk"].Content);
        await files.CreateAsync("top.vmdk", "vmdk", 1 << 20, ("backing_file", "base.vmdk"), ("backing_fmt", "vmdk"));
        await (await files.OpenAsync("top.vmdk", "vmdk")).DisposeAsync();
        await using (var parent = await files.OpenAsync("base.vmdk", "vmdk"))
        {
            await parent.WriteAsync(0, new byte[] { 1 });
        }

        var refused = await Assert.ThrowsAsync<DiskException>(() => files.OpenAsync("top.vmdk", "vmdk"));
        Assert.Contains("CID", refused.Message, StringComparison.Ordinal);
        await using (var alone = (IBackedImage)await DiskFormats.Named("vmdk").OpenAsync(files["top.vmdk"], new ImageContext(false, files, OpenBacking: false)))
        {
            await alone.SetBackingAsync("base.vmdk", "vmdk");
        }

        await using var again = await files.OpenAsync("top.vmdk", "vmdk");
        Assert.Equal(1, (await again.ReadBytesAsync(0, 1))[0]);
        await ((IBackedImage)again).SetBackingAsync(null, null);
        await using var free = await files.OpenAsync("top.vmdk", "vmdk");
        Assert.Null(free.Describe().BackingName);
    }

    [Fact]
    public async Task An_emptied_image_shows_its_parent()
    {
        var files = new MemoryFiles();
        await files.CreateAsync("base.vmdk", "vmdk", 1 << 20);
        await files.CreateAsync("top.vmdk", "vmdk", 1 << 20, ("backing_file", "base.vmdk"));
        await using var top = (IBackedImage)await files.OpenAsync("top.vmdk", "vmdk");
        var empty = files["top.vmdk"].Length;
        await top.WriteAsync(100_000, new byte[] { 7 });
        Assert.Equal((true, 65536 - (100_000 - 65536)), await top.IsOwnAsync(100_000, 500_000));
        await top.MakeEmptyAsync();
        Assert.Equal(0, (await top.ReadBytesAsync(100_000, 1))[0]);
        Assert.Equal(empty, files["top.vmdk"].Length);
        Assert.False((await top.IsOwnAsync(0, 1 << 20)).Own);
    }

    [Fact]
    public async Task Check_finds_and_repairs_damage()
    {
        var files = new MemoryFiles();
        await files.CreateAsync("disk.vmdk", "vmdk", 4 << 20);
        await using (var image = await files.OpenAsync("disk.vmdk", "vmdk"))
        {
            for (var grain = 0; grain < 8; grain++)
            {
                await image.WriteAsync(grain << 16, Enumerable.Repeat((byte)(grain + 1), 65536).ToArray());
            }
        }

        var bytes = files["disk.vmdk"].Content;
        var redundant = (int)BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan(21 * 512)) * 512;
        var table = (int)BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan((int)BinaryPrimitives.ReadInt64LittleEndian(bytes.AsSpan(56)) * 512)) * 512;
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(table + 4), 0x00FFFFFF); // beyond the file; the copy is sound
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(table + 8), 0); // the copy still has it
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(redundant + 8), 0);
        files["disk.vmdk"].Content = bytes;
        await using var damaged = await files.OpenAsync("disk.vmdk", "vmdk");
        Assert.Equal(DiskError.Corrupt, (await Assert.ThrowsAsync<DiskException>(async () => await damaged.ReadBytesAsync(65536, 512))).Error);
        var found = await ((ICheck)damaged).CheckAsync(CheckRepair.None);
        Assert.Equal(1, found.Corruptions);
        Assert.True(found.Leaks >= 2, string.Join("; ", found.Messages));
        Assert.Equal(1, (await ((ICheck)damaged).CheckAsync(CheckRepair.All)).CorruptionsFixed);
        await using var mended = await files.OpenAsync("disk.vmdk", "vmdk");
        Assert.Equal(2, (await mended.ReadBytesAsync(65536, 1))[0]);
        Assert.Equal(0, (await mended.ReadBytesAsync(131072, 1))[0]);
        Assert.Equal(0, (await ((ICheck)mended).CheckAsync(CheckRepair.None)).Corruptions);
    }

    [Fact]
    public async Task Two_grains_in_one_place_are_a_corruption()
    {
        var files = new MemoryFiles();
        await files.CreateAsync("disk.vmdk", "vmdk", 4 << 20);
        await using (var image = await files.OpenAsync("disk.vmdk", "vmdk"))
        {
            await image.WriteAsync(0, Enumerable.Repeat((byte)1, 131072).ToArray());
        }

        var bytes = files["disk.vmdk"].Content;
        var table = (int)BinaryPrimitives.ReadUInt32LittleEndian(bytes.AsSpan((int)BinaryPrimitives.ReadInt64LittleEndian(bytes.AsSpan(56)) * 512)) * 512;
        bytes.AsSpan(table, 4).CopyTo(bytes.AsSpan(table + 4));
        files["disk.vmdk"].Content = bytes;
        await using var damaged = await files.OpenAsync("disk.vmdk", "vmdk");
        Assert.Equal(1, (await ((ICheck)damaged).CheckAsync(CheckRepair.None)).Corruptions);
    }

    [Fact]
    public async Task Options_that_contradict_are_refused()
    {
        var files = new MemoryFiles();
        foreach (var options in ((string, string)[][])
            [[("subformat", "monolithicFlat"), ("zeroed_grain", "on")], [("subformat", "monolithicFlat"), ("backing_file", "x.vmdk")], [("compat6", "on"), ("hwversion", "9")], [("subformat", "thin")]])
        {
            Assert.Equal(DiskError.InvalidOption, (await Assert.ThrowsAsync<DiskException>(() => files.CreateAsync("disk.vmdk", "vmdk", 1 << 20, options))).Error);
        }
    }

    [Fact]
    public async Task A_host_sparse_extent_is_read()
    {
        var bytes = new byte[512 * 2048];
        "COWD"u8.CopyTo(bytes);
        foreach (var (at, value) in ((int, uint)[])[(4, 1), (8, 3), (12, 8192), (16, 1), (20, 4), (24, 2), (28, 100)])
        {
            BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(at), value);
        }

        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan((4 * 512) + 4), 8); // the second table: sectors 4096 to 8191
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan((8 * 512) + (5 * 4)), 60);
        bytes.AsSpan(60 * 512, 512).Fill(0x5A);
        var files = new MemoryFiles();
        files["host.vmdk"].Content = bytes;
        await using var image = await files.OpenAsync("host.vmdk", "vmdk", readOnly: true);
        Assert.Equal(8192 * 512, image.Length);
        Assert.Equal(Enumerable.Repeat((byte)0x5A, 512), await image.ReadBytesAsync((4096 + 5) * 512, 512));
        Assert.Equal(0, (await image.ReadBytesAsync((4096 + 6) * 512, 1))[0]);
        await Assert.ThrowsAsync<DiskException>(() => files.OpenAsync("host.vmdk", "vmdk"));
    }

    [Fact]
    public async Task Extents_of_several_types_make_one_disk()
    {
        var files = new MemoryFiles();
        files["a.raw"].Content = [.. new byte[512], .. Enumerable.Repeat((byte)1, 1024)];
        files["disk.vmdk"].Content = Encoding.UTF8.GetBytes("# Disk DescriptorFile\nversion=1\nCID=12ab\nparentCID=ffffffff\ncreateType=\"custom\"\nRW 2 FLAT \"a.raw\" 1\nRW 4 ZERO\nRDONLY 1 FLAT \"a.raw\" 0\n");
        await using var image = await files.OpenAsync("disk.vmdk", "vmdk");
        Assert.Equal(7 * 512, image.Length);
        byte[] wanted = [.. Enumerable.Repeat((byte)1, 1024), .. new byte[2560]];
        Assert.Equal(wanted, await image.ReadBytesAsync(0, 7 * 512));
        await image.WriteAsync(0, new byte[] { 9 });
        Assert.Equal(9, files["a.raw"].Content[512]);
        Assert.NotEqual(0x12ABu, (uint)long.Parse(image.Describe().FormatSpecific[0].Value));
        Assert.Equal(DiskError.ReadOnly, (await Assert.ThrowsAsync<DiskException>(async () => await image.WriteAsync(1024, new byte[] { 9 }))).Error);
        Assert.Equal(DiskError.ReadOnly, (await Assert.ThrowsAsync<DiskException>(async () => await image.WriteAsync(3072, new byte[] { 9 }))).Error);
    }

    internal static async Task MakeAsync(string path, long length, params (string Name, string Value)[] options)
    {
        var given = FormatOptions.None;
        foreach (var (name, value) in options)
        {
            given.With(name, value);
        }

        await using var made = await NewImage.CreateAsync(new NewImageOptions(path, "vmdk", length) { Options = given });
        await made.CompleteAsync();
    }

    private static async Task CompareAfterCutAsync(MemoryFiles files, DiskModel model, Random random, string where)
    {
        var survivors = new MemoryFiles();
        foreach (var (name, file) in files.Files)
        {
            survivors.Files[name] = file.AfterPowerCut(random);
        }

        try
        {
            await using var image = await survivors.OpenAsync("disk.vmdk", "vmdk");
            await model.CompareFlushedAsync(image);
            var check = await ((ICheck)image).CheckAsync(CheckRepair.None);
            Assert.True(check.Corruptions == 0, string.Join("; ", check.Messages));
        }
        catch (Exception e)
        {
            Assert.Fail($"{where}: {e.Message}");
        }
    }
}
