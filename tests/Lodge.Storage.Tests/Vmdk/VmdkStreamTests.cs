using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Vmdk;

/// <summary>streamOptimized: compressed grains, written in order.</summary>
public class VmdkStreamTests
{
    private const int Grain = 65536;

    [Fact]
    public async Task What_is_written_in_order_is_read_at_random()
    {
        for (var seed = 0; seed < 4; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            var content = new byte[(80 << 20) + (seed * 512)];
            await files.CreateAsync("disk.vmdk", "vmdk", content.Length, ("subformat", "streamOptimized"));
            await using (var image = await files.OpenAsync("disk.vmdk", "vmdk"))
            {
                for (var grain = random.Next(9); (long)grain * Grain < content.Length; grain += random.Next(1, 60))
                {
                    var unit = content.AsMemory(grain * Grain, Math.Min(Grain, content.Length - (grain * Grain)));
                    Fill(random, unit.Span);
                    await ((ICompressedWrite)image).WriteCompressedAsync((long)grain * Grain, unit);
                }

                await CompareAsync(image, content, random);
            }

            await using var again = await files.OpenAsync("disk.vmdk", "vmdk");
            await CompareAsync(again, content, random);
            Assert.True((await again.ReadBytesAsync(0, content.Length)).AsSpan().SequenceEqual(content), $"seed {seed}");
            var check = await ((ICheck)again).CheckAsync(CheckRepair.None);
            Assert.True(check is { Corruptions: 0, Leaks: 0 }, string.Join("; ", check.Messages));
        }
    }

    [Fact]
    public async Task A_power_cut_leaves_the_flushed_part_of_a_stream()
    {
        var cuts = 0;
        for (var seed = 0; seed < 90; seed++)
        {
            var random = new Random(seed);
            var files = new MemoryFiles();
            var content = new byte[33 << 20];
            await files.CreateAsync("disk.vmdk", "vmdk", content.Length, ("subformat", "streamOptimized"));
            var image = await files.OpenAsync("disk.vmdk", "vmdk");
            List<(int Grain, byte First)> written = [];
            var flushed = 0;
            for (var grain = 0; grain < content.Length / Grain; grain += random.Next(1, 80))
            {
                var unit = content.AsMemory(grain * Grain, Grain);
                Fill(random, unit.Span);
                await ((ICompressedWrite)image).WriteCompressedAsync((long)grain * Grain, unit);
                written.Add((grain, unit.Span[0]));
                switch (random.Next(5))
                {
                    case 0:
                        await image.FlushAsync();
                        flushed = written.Count;
                        break;
                    case 1:
                        await image.DisposeAsync();
                        await files["disk.vmdk"].FlushAsync();
                        flushed = written.Count;
                        image = await files.OpenAsync("disk.vmdk", "vmdk");
                        break;
                    case 2:
                        await image.DisposeAsync();
                        image = await files.OpenAsync("disk.vmdk", "vmdk");
                        break;
                }

                cuts++;
                var survivors = new MemoryFiles();
                survivors.Files["disk.vmdk"] = files["disk.vmdk"].AfterPowerCut(random);
                await using var survivor = await survivors.OpenAsync("disk.vmdk", "vmdk");
                foreach (var (place, first) in written.Take(flushed))
                {
                    Assert.True((await survivor.ReadBytesAsync((long)place * Grain, Grain)).AsSpan().SequenceEqual(content.AsSpan(place * Grain, Grain)), $"seed {seed}: the flushed grain {place} is lost");
                }

                var check = await ((ICheck)survivor).CheckAsync(CheckRepair.All);
                Assert.True(check.Corruptions == 0, $"seed {seed}: {string.Join("; ", check.Messages)}");
                await survivor.DisposeAsync();
                await using var mended = await survivors.OpenAsync("disk.vmdk", "vmdk");
                Assert.Equal(0, (await ((ICheck)mended).CheckAsync(CheckRepair.None)).Leaks);
            }
        }

        Assert.True(cuts > 800, $"{cuts} cuts");
    }

    [Fact]
    public async Task Going_back_is_refused()
    {
        var files = new MemoryFiles();
        await files.CreateAsync("disk.vmdk", "vmdk", 1 << 20, ("subformat", "streamOptimized"));
        await using var image = await files.OpenAsync("disk.vmdk", "vmdk");
        await image.WriteAsync(2 * Grain, Enumerable.Repeat((byte)3, 2 * Grain).ToArray());
        Assert.Equal(DiskError.Unsupported, (await Assert.ThrowsAsync<DiskException>(async () => await image.WriteAsync(0, Enumerable.Repeat((byte)3, Grain).ToArray()))).Error);
        Assert.Equal(DiskError.Unsupported, (await Assert.ThrowsAsync<DiskException>(async () => await image.WriteAsync(5 * Grain, new byte[] { 1 }))).Error);
        Assert.Equal(DiskError.Unsupported, (await Assert.ThrowsAsync<DiskException>(async () => await image.ZeroAsync(2 * Grain, 512))).Error);
        await image.ZeroAsync(6 * Grain, Grain);
    }

    [Fact]
    public async Task A_copy_uses_all_cores_and_comes_out_right()
    {
        var source = SparseDisk.Random(new Random(3), 20_000_256);
        using var folder = new TemporaryFolder();
        var made = new NewImageOptions(folder["disk.vmdk"], "vmdk", source.Length) { Options = FormatOptions.None.With("subformat", "streamOptimized") };
        await ImageConvert.RunAsync(source, made, new DiskCopyOptions());
        await using var image = await ImageOpener.OpenAsync(folder["disk.vmdk"], new ImageOpenOptions { ReadOnly = true });
        Assert.True((await image.ReadBytesAsync(0, (int)image.Length)).AsSpan(0, (int)source.Length).SequenceEqual(source.Content));
    }

    private static void Fill(Random random, Span<byte> unit)
    {
        // Some shrink, some do not.
        random.NextBytes(random.Next(3) == 0 ? unit : unit[..Math.Min(unit.Length, 2000)]);
        unit[0] = (byte)random.Next(1, 256);
    }

    private static async Task CompareAsync(IDisk image, byte[] content, Random random)
    {
        for (var read = 0; read < 50; read++)
        {
            var offset = random.Next(content.Length);
            var length = random.Next(Math.Min(300_000, content.Length - offset));
            Assert.True((await image.ReadBytesAsync(offset, length)).AsSpan().SequenceEqual(content.AsSpan(offset, length)), $"bytes at {offset}, {length} long, differ");
        }
    }
}
