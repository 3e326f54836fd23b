using Lodge.Storage.Disks;
using Lodge.Storage.Operations;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests;

/// <summary>Rebase and commit, over images in memory with parents of other sizes.</summary>
public class OperationsChainTests
{
    [Fact]
    public async Task A_rebase_keeps_the_content()
    {
        for (var seed = 0; seed < 30; seed++)
        {
            var random = new Random(seed);
            var old = await FilledAsync(random, random.Next(1, 3_000_000), null);
            var next = random.Next(3) == 0 ? null : await ChangedAsync(random, old, random.Next(1, 3_000_000));
            var top = await FilledAsync(random, random.Next(1, 3_000_000), old);
            var content = await top.ReadBytesAsync(0, 4_000_000);
            await new ImageRebase(top, next).RunAsync(next is null ? null : "next", "raw");
            Assert.Equal(next is null ? null : "next", top.BackingName);
            var after = await top.Over(next).ReadBytesAsync(0, 4_000_000);
            Assert.True(content.AsSpan().SequenceEqual(after), $"seed {seed}: the content changed");
        }
    }

    [Fact]
    public async Task A_rebase_copies_only_what_differs()
    {
        var old = await FilledAsync(new Random(1), 1 << 20, null);
        var next = old.Over(null);
        await next.WriteAsync(8192, new byte[] { 0xAB });
        var top = new LayerImage(1 << 20, old);
        await new ImageRebase(top, next).RunAsync("next", "raw");
        Assert.Equal(1, top.OwnUnits);
    }

    [Fact]
    public async Task A_failed_rebase_keeps_the_old_parent_and_the_content()
    {
        var old = await FilledAsync(new Random(2), 2 << 20, null);
        var top = await FilledAsync(new Random(3), 2 << 20, old);
        var content = await top.ReadBytesAsync(0, 4 << 20);
        top.FailAfter = 3;
        await Assert.ThrowsAsync<DiskException>(() => new ImageRebase(top, null).RunAsync(null, null));
        top.FailAfter = -1;
        Assert.Equal(content, await top.ReadBytesAsync(0, 4 << 20));
    }

    [Fact]
    public async Task A_commit_brings_the_content_down()
    {
        for (var seed = 0; seed < 30; seed++)
        {
            var random = new Random(seed);
            var bottom = await FilledAsync(random, random.Next(1, 2_000_000), null);
            var middle = await FilledAsync(random, random.Next(1, 2_000_000), bottom);
            var top = await FilledAsync(random, random.Next(1, 2_000_000), middle);
            var content = await top.ReadBytesAsync(0, 2_000_000);
            await new ImageCommit([top.Over(null), middle.Over(null)], bottom).RunAsync();
            var below = await bottom.ReadBytesAsync(0, content.Length);
            Assert.True(content.AsSpan().SequenceEqual(below), $"seed {seed}: the content differs");
        }
    }

    [Fact]
    public async Task Only_the_top_layer_is_copied_to_a_target_with_the_same_parent()
    {
        var bottom = await FilledAsync(new Random(5), 2_000_000, null);
        var top = new LayerImage(2_000_000, bottom);
        await top.WriteAsync(40_000, Enumerable.Repeat((byte)3, 10_000).ToArray());
        await top.WriteAsync(1_000_000, new byte[10_000]); // zeroes hide the parent's data
        var target = new LayerImage(2_000_000, bottom);
        await new DiskCopy(top, target, new DiskCopyOptions { OnlyTopLayer = true }).RunAsync();
        Assert.Equal(top.OwnUnits, target.OwnUnits);
        Assert.Equal(await top.ReadBytesAsync(0, 2_000_000), await target.ReadBytesAsync(0, 2_000_000));
    }

    private static async Task<LayerImage> FilledAsync(Random random, int length, IDisk? backing)
    {
        var image = new LayerImage(length, backing);
        for (var count = random.Next(12); count >= 0; count--)
        {
            var bytes = new byte[random.Next(1, Math.Min(length, 200_000) + 1)];
            if (random.Next(4) != 0)
            {
                random.NextBytes(bytes);
            }

            await image.WriteAsync(random.Next(0, length - bytes.Length + 1), bytes);
        }

        return image;
    }

    private static async Task<LayerImage> ChangedAsync(Random random, LayerImage old, int length)
    {
        var next = await FilledAsync(random, length, null);
        var same = (int)Math.Min(length, old.Length);
        await old.CopyRangeAsync(0, next, 0, same);
        for (var count = random.Next(4); count > 0; count--)
        {
            await next.WriteAsync(random.Next(0, length), new[] { (byte)random.Next(256) });
        }

        return next;
    }
}
