using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests;

/// <summary>Operations on disks, over disks in memory that know where their holes are.</summary>
public class OperationsTests
{
    private const int Unit = 65536;

    [Theory]
    [InlineData(1, 4096L)]
    [InlineData(8, 4096L)]
    [InlineData(8, 65536L)]
    [InlineData(3, 0L)]
    public async Task A_copy_has_the_content_whatever_is_in_flight(int parallel, long zeroRun)
    {
        for (var seed = 0; seed < 20; seed++)
        {
            var source = SparseDisk.Random(new Random(seed), 5_000_000 + (seed * 777));
            var target = new SparseDisk(source.Length);
            await new DiskCopy(source, target, new DiskCopyOptions { Parallel = parallel, ZeroRun = zeroRun, TargetIsZero = true }).RunAsync();
            Assert.True(source.Content.AsSpan().SequenceEqual(target.Content), $"seed {seed}: the copy differs");
        }
    }

    [Fact]
    public async Task Holes_are_not_read_and_zeroes_not_written()
    {
        var source = new SparseDisk(64 << 20);
        await source.WriteAsync(10 << 20, Enumerable.Repeat((byte)1, 4096).ToArray());
        await source.WriteAsync(20 << 20, new byte[1 << 20]); // zeroes as data
        source.Forget();
        var target = new SparseDisk(source.Length);
        await new DiskCopy(source, target, new DiskCopyOptions { TargetIsZero = true }).RunAsync();
        Assert.Equal((1 << 20) + 4096, source.BytesRead);
        Assert.Equal(4096, target.BytesWritten);
        Assert.Equal(0, target.BytesZeroed);
    }

    [Fact]
    public async Task All_is_written_where_no_holes_are_wanted()
    {
        var source = new SparseDisk(9_000_001);
        var target = new SparseDisk(source.Length);
        await new DiskCopy(source, target, new DiskCopyOptions { TargetIsZero = true, ZeroRun = 0 }).RunAsync();
        Assert.Equal(9_000_001, target.BytesWritten);
    }

    [Fact]
    public async Task A_target_with_old_content_gets_its_zeroes()
    {
        var source = SparseDisk.Random(new Random(5), 6_000_000);
        var target = new SparseDisk(source.Length);
        await target.WriteAsync(0, Enumerable.Repeat((byte)0xEE, 6_000_000).ToArray());
        await new DiskCopy(source, target, new DiskCopyOptions()).RunAsync();
        Assert.True(source.Content.AsSpan().SequenceEqual(target.Content));
        Assert.NotEqual(0, target.BytesZeroed);
    }

    [Fact]
    public async Task A_target_that_is_too_short_is_refused()
    {
        Assert.Equal(DiskError.OutOfRange, Assert.Throws<DiskException>(() => new DiskCopy(new SparseDisk(10), new SparseDisk(9), new DiskCopyOptions())).Error);
        await Task.CompletedTask;
    }

    [Theory]
    [InlineData(true, true)]
    [InlineData(true, false)]
    [InlineData(false, false)]
    public async Task Compressed_units_come_whole_and_in_order_where_the_target_wants_it(bool inOrder, bool split)
    {
        var source = SparseDisk.Random(new Random(11), (64 * Unit) + 5000);
        var target = split ? new SplitStream(source.Length) { InOrder = inOrder } : new UnitStream(source.Length) { InOrder = inOrder };
        await new DiskCopy(source, target, new DiskCopyOptions { Compress = true, TargetIsZero = true, Parallel = 8 }).RunAsync();
        Assert.True(source.Content.AsSpan().SequenceEqual(target.Content));
        Assert.False(target.OutOfOrder);
        Assert.Equal(target.Units, target.Offsets.Distinct().Count());
    }

    [Fact]
    public async Task A_failed_unit_ends_an_ordered_copy()
    {
        var source = new SparseDisk(64 * Unit);
        await source.WriteAsync(0, Enumerable.Repeat((byte)7, 64 * Unit).ToArray());
        var target = new SplitStream(source.Length) { InOrder = true, FailAt = 20 * Unit };
        var failure = await Assert.ThrowsAsync<DiskException>(() => new DiskCopy(source, target, new DiskCopyOptions { Compress = true, TargetIsZero = true }).RunAsync());
        Assert.Equal(DiskError.NoSpace, failure.Error);
    }

    [Fact]
    public async Task A_copy_reports_its_progress_and_ends_when_cancelled()
    {
        var source = SparseDisk.Random(new Random(3), 20_000_000);
        var seen = new Collected();
        await new DiskCopy(source, new SparseDisk(source.Length), new DiskCopyOptions { Progress = seen }).RunAsync();
        Assert.Equal(1.0, seen.Values.Max());
        Assert.All(seen.Values, value => Assert.InRange(value, 0, 1));
        using var stop = new CancellationTokenSource();
        var stopping = new SparseDisk(source.Length) { BeforeWrite = () => stop.Cancel() };
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => new DiskCopy(source, stopping, new DiskCopyOptions()).RunAsync(stop.Token));
        Assert.True(stopping.BytesWritten < source.Length / 2);
    }

    [Fact]
    public async Task Joined_disks_and_stretches_read_as_one()
    {
        var one = SparseDisk.Random(new Random(1), 100_001);
        var two = SparseDisk.Random(new Random(2), 70_000);
        var joined = new JoinedDisk([one, two, new ZeroDisk(999)]);
        var all = one.Content.Concat(two.Content).Concat(new byte[999]).ToArray();
        Assert.Equal(all, await joined.ReadBytesAsync(0, 1 << 20));
        var target = new SparseDisk(joined.Length);
        await new DiskCopy(joined, target, new DiskCopyOptions { TargetIsZero = true }).RunAsync();
        Assert.Equal(all, target.Content);
        var part = new DiskRange(joined, 99_000, 5000);
        Assert.Equal(all[99_000..104_000], await part.ReadBytesAsync(0, 6000));
        await Assert.ThrowsAsync<DiskException>(async () => await part.ReadAsync(4999, new byte[2]));
    }

    [Fact]
    public async Task A_comparison_finds_the_first_difference()
    {
        for (var seed = 0; seed < 20; seed++)
        {
            var random = new Random(seed);
            var one = SparseDisk.Random(random, 8_000_000);
            var other = one.Copy();
            Assert.Equal(DiskDifference.None, (await new DiskCompare(one, other).RunAsync()).Difference);
            var first = random.Next(8_000_000);
            foreach (var at in new[] { first, random.Next(first, 8_000_000), random.Next(first, 8_000_000) })
            {
                await other.WriteAsync(at, new[] { (byte)(one.Content[at] + 1) });
            }

            var found = await new DiskCompare(one, other).RunAsync();
            Assert.Equal((DiskDifference.Content, first / 512 * 512L), (found.Difference, found.Offset));
        }
    }

    [Fact]
    public async Task Sizes_may_differ_by_zeroes_unless_the_comparison_is_strict()
    {
        var one = SparseDisk.Random(new Random(4), 2_000_000);
        var longer = one.Copy(3_000_000);
        Assert.Equal(new DiskComparison(DiskDifference.None, 0, true), await new DiskCompare(one, longer).RunAsync());
        Assert.Equal(DiskDifference.Size, (await new DiskCompare(one, longer, strict: true).RunAsync()).Difference);
        await longer.WriteAsync(2_500_000, new byte[] { 1 });
        Assert.Equal(new DiskComparison(DiskDifference.Content, 2_500_000 / 512 * 512, true), await new DiskCompare(one, longer).RunAsync());
    }

    [Fact]
    public async Task A_strict_comparison_sees_what_is_allocated()
    {
        var one = new SparseDisk(1 << 20);
        var other = new SparseDisk(1 << 20);
        await other.WriteAsync(Unit * 3, new byte[Unit]);
        Assert.Equal(DiskDifference.None, (await new DiskCompare(one, other).RunAsync()).Difference);
        var found = await new DiskCompare(one, other, strict: true).RunAsync();
        Assert.Equal((DiskDifference.Status, Unit * 3L), (found.Difference, found.Offset));
    }

    [Fact]
    public async Task A_map_joins_neighbours()
    {
        var disk = new SparseDisk(10 * SparseDisk.Granule);
        await disk.WriteAsync(2 * SparseDisk.Granule, Enumerable.Repeat((byte)1, 3 * SparseDisk.Granule).ToArray());
        var entries = new List<MapEntry>();
        await foreach (var entry in DiskMap.ListAsync(disk))
        {
            entries.Add(entry);
        }

        Assert.Equal([(0L, 2L, false), (2, 3, true), (5, 5, false)], entries.Select(entry => (entry.Start / SparseDisk.Granule, entry.Extent.Length / SparseDisk.Granule, entry.Data)));
        entries.Clear();
        await foreach (var entry in DiskMap.ListAsync(disk, 3 * SparseDisk.Granule, 2 * SparseDisk.Granule))
        {
            entries.Add(entry);
        }

        Assert.Equal((3L * SparseDisk.Granule, 2L * SparseDisk.Granule), (Assert.Single(entries).Start, entries[0].Extent.Length));
    }

    [Fact]
    public async Task A_bench_does_what_it_was_asked()
    {
        var disk = new SparseDisk(1 << 20);
        await new DiskBench(disk, new DiskBenchOptions { Count = 1000, Depth = 16, Write = true, Pattern = 9, FlushInterval = 100 }).RunAsync();
        Assert.Equal(1000 * 4096, disk.BytesWritten);
        Assert.Equal(10, disk.Flushes);
        Assert.All(disk.Content, value => Assert.Equal(9, value));
        disk.Forget();
        await new DiskBench(disk, new DiskBenchOptions { Count = 300, Depth = 4, Random = true }).RunAsync();
        Assert.Equal(300 * 4096, disk.BytesRead);
        await new DiskBench(disk, new DiskBenchOptions { Count = 300, Depth = 4, Step = 5_000_000, Offset = 4096 }).RunAsync();
        Assert.Throws<DiskException>(() => new DiskBench(disk, new DiskBenchOptions { BufferSize = 2 << 20 }));
        Assert.Throws<DiskException>(() => new DiskBench(disk, new DiskBenchOptions { FlushInterval = 5 }));
    }

    [Fact]
    public async Task A_cancelled_or_failed_conversion_leaves_no_file()
    {
        using var folder = new TemporaryFolder();
        var source = SparseDisk.Random(new Random(8), 4_000_000);
        using var stop = new CancellationTokenSource();
        source.BeforeRead = stop.Cancel;
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => ImageConvert.RunAsync(source, new NewImageOptions(folder["a.img"], "raw", source.Length), new DiskCopyOptions(), stop.Token));
        source.BeforeRead = () => throw new DiskException(DiskError.InputOutput, "broken");
        await Assert.ThrowsAsync<DiskException>(() => ImageConvert.RunAsync(source, new NewImageOptions(folder["a.img"], "raw", source.Length), new DiskCopyOptions()));
        Assert.Empty(Directory.GetFiles(folder.Path));
        source.BeforeRead = null;
        await File.WriteAllBytesAsync(folder["a.img"], new byte[9_000_000]);
        await ImageConvert.RunAsync(source, new NewImageOptions(folder["a.img"], "raw", source.Length), new DiskCopyOptions());
        Assert.Equal(source.Content, await File.ReadAllBytesAsync(folder["a.img"]));
    }

    [Fact]
    public async Task A_resize_shrinks_only_when_that_is_meant()
    {
        var file = new MemoryFile { Content = new byte[100_000] };
        await using var image = await DiskFormats.Named("raw").OpenAsync(file, new ImageContext(false, new MemoryFiles()));
        Assert.Equal(DiskError.InvalidOption, (await Assert.ThrowsAsync<DiskException>(() => ImageResize.RunAsync(image, 50_000))).Error);
        await ImageResize.RunAsync(image, 50_000, shrink: true);
        Assert.Equal(50_000, image.Length);
        await ImageResize.RunAsync(image, 3_000_000, preallocation: "full");
        Assert.Equal(3_000_000, file.Content.Length);
        file.FailAfter = 1;
        await Assert.ThrowsAsync<DiskException>(() => ImageResize.RunAsync(image, 4_000_000, preallocation: "full"));
    }

    private sealed class Collected : IProgress<double>
    {
        private readonly Lock _gate = new();

        public List<double> Values { get; } = [];

        public void Report(double value)
        {
            lock (_gate)
            {
                Values.Add(value);
            }
        }
    }
}
