using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Nbd;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Nbd;

/// <summary>Our client against our server.</summary>
public sealed class NbdClientServerTests
{
    [Theory]
    [InlineData(0)]
    [InlineData(1)]
    [InlineData(2)]
    public async Task RandomOperationsReachTheDisk(int style)
    {
        var disk = new TestDisk(3_000_017);
        await using var served = new ServedDisk(disk, new NbdServerOptions { Shared = 0, Persistent = true, Newest = (NbdHeaderStyle)style });
        await using var client = await served.OpenAsync();
        Assert.Equal(3_000_017, client.Length);
        var model = new DiskModel(client, new Random(7));
        for (var step = 0; step < 200; step++)
        {
            await model.StepAsync(discardZeroes: true);
        }

        await model.CompareAsync();
        Assert.True(disk.Content.AsSpan().SequenceEqual(model.Content));
        Assert.True(disk.Flushes > 0);
    }

    [Fact]
    public async Task ManyRequestsRunAtOnceOnSeveralConnections()
    {
        var disk = new TestDisk(4 << 20);
        new Random(1).NextBytes(disk.Content);
        await using var served = new ServedDisk(disk);
        await using var one = await served.OpenAsync();
        await using var other = await served.OpenAsync();
        await Parallel.ForEachAsync(Enumerable.Range(0, 2000), new ParallelOptions { MaxDegreeOfParallelism = 150 }, async (index, _) =>
        {
            var random = new Random(index);
            var buffer = new byte[random.Next(1, 70_000)];
            var offset = random.Next(0, (4 << 20) - buffer.Length);
            await (index % 2 == 0 ? one : other).ReadAsync(offset, buffer);
            Assert.True(buffer.AsSpan().SequenceEqual(disk.Content.AsSpan(offset, buffer.Length)));
        });
    }

    [Fact]
    public async Task RepliesComeOutOfOrder()
    {
        var release = new TaskCompletionSource();
        var disk = new TestDisk(1 << 20) { BeforeRead = offset => offset == 0 ? release.Task : Task.CompletedTask };
        Array.Fill(disk.Content, (byte)5);
        await using var served = new ServedDisk(disk);
        await using var client = await served.OpenAsync();
        var slow = client.ReadAsync(0, new byte[512]).AsTask();
        await client.ReadAsync(4096, new byte[512]);
        await client.WriteAsync(8192, new byte[512]);
        await client.FlushAsync();
        Assert.False(slow.IsCompleted);
        release.SetResult();
        await slow;
    }

    [Fact]
    public async Task PayloadsBeyondTheLimitAreSplit()
    {
        var disk = new TestDisk(70 << 20);
        await using var served = new ServedDisk(disk);
        await using var client = await served.OpenAsync();
        var bytes = new byte[70 << 20];
        new Random(3).NextBytes(bytes);
        await client.WriteAsync(0, new IoVector([bytes.AsMemory(0, 1000), bytes.AsMemory(1000)]));
        Assert.True(disk.Content.AsSpan().SequenceEqual(bytes));
        var read = new byte[70 << 20];
        await client.ReadAsync(0, read);
        Assert.True(read.AsSpan().SequenceEqual(bytes));
    }

    [Fact]
    public async Task ReadsWithHolesAreWholeAndStatusIsTold()
    {
        var disk = new TestDisk(1 << 20);
        var random = new Random(11);
        for (var block = 0; block < 256; block++)
        {
            if (random.Next(2) == 0)
            {
                random.NextBytes(disk.Content.AsSpan(block * 4096, 4096));
            }
        }

        await using var served = new ServedDisk(disk, change: export => export with { Bitmaps = ["changed"], AllocationDepth = true });
        await using var client = await served.OpenAsync();
        var read = new byte[1 << 20];
        for (var round = 0; round < 50; round++)
        {
            var offset = random.Next(0, 1 << 19);
            var length = random.Next(1, 1 << 19);
            Array.Fill(read, (byte)0xaa);
            await client.ReadAsync(offset, read.AsMemory(0, length));
            Assert.True(read.AsSpan(0, length).SequenceEqual(disk.Content.AsSpan(offset, length)));
        }

        for (long offset = 0; offset < client.Length;)
        {
            var mine = await client.GetStatusAsync(offset, client.Length - offset);
            var theirs = await disk.GetStatusAsync(offset, client.Length - offset);
            Assert.Equal((theirs.Length, theirs.State), (mine.Length, mine.State));
            offset += mine.Length;
        }

        Assert.Equal(["changed"], client.BitmapNames);
        Assert.Equal((false, (1 << 19) - 5), await client.GetDirtyAsync("changed", 5, 1 << 20 >> 1));
        Assert.Equal((true, 100), await client.GetDirtyAsync("changed", 1 << 19, 100));
    }

    [Fact]
    public async Task FlagsReachTheDisk()
    {
        var disk = new TestDisk(1 << 20);
        await using var served = new ServedDisk(disk);
        await using var client = await served.OpenAsync();
        await client.WriteAsync(0, new byte[10], WriteOptions.ForceUnitAccess);
        Assert.Equal(WriteOptions.ForceUnitAccess, disk.LastWrite);
        foreach (var options in new[] { ZeroOptions.None, ZeroOptions.MayUnmap, ZeroOptions.Fast, ZeroOptions.MayUnmap | ZeroOptions.ForceUnitAccess })
        {
            await client.WriteZeroesAsync(0, 4096, options);
            Assert.Equal(options, disk.LastZero);
        }
    }

    [Fact]
    public async Task ErrorsAreTold()
    {
        var disk = new TestDisk(1 << 20);
        await using var served = new ServedDisk([new NbdExport("a", disk), new NbdExport("b", disk) { ReadOnly = true }]);
        await using var client = await served.OpenAsync(export: "a");
        disk.BeforeRead = _ => throw new DiskException(DiskError.InputOutput, "secret path");
        var failure = await Assert.ThrowsAsync<DiskException>(async () => await client.ReadAsync(0, new byte[512]));
        Assert.Equal(DiskError.InputOutput, failure.Error);
        disk.BeforeRead = _ => throw new InvalidOperationException("a fault");
        await Assert.ThrowsAsync<DiskException>(async () => await client.ReadAsync(0, new byte[512]));
        disk.BeforeRead = null;
        await client.ReadAsync(0, new byte[512]);
        disk.BeforeWrite = () => throw new DiskException(DiskError.NoSpace, "full");
        failure = await Assert.ThrowsAsync<DiskException>(async () => await client.WriteAsync(0, new byte[512]));
        Assert.Equal(DiskError.NoSpace, failure.Error);
        failure = await Assert.ThrowsAsync<DiskException>(async () => await client.ReadAsync(1 << 20, new byte[1]));
        Assert.Equal(DiskError.OutOfRange, failure.Error);

        failure = await Assert.ThrowsAsync<DiskException>(async () => await served.OpenAsync(export: "b"));
        Assert.Equal(DiskError.ReadOnly, failure.Error);
        await using var reader = await served.OpenAsync(export: "b", readOnly: true);
        Assert.True(reader.IsReadOnly);
        failure = await Assert.ThrowsAsync<DiskException>(async () => await served.OpenAsync(export: "c"));
        Assert.Equal(DiskError.NotFound, failure.Error);
        failure = await Assert.ThrowsAsync<DiskException>(async () => await NbdDisk.OpenAsync(NbdAddress.Parse("nbd+unix:///?socket=/nonexistent/s"), true));
        Assert.Equal(DiskError.Connection, failure.Error);
    }

    [Fact]
    public async Task TheSizeChangesOnlyWhereAllowed()
    {
        var disk = new TestDisk(1 << 20);
        await using var served = new ServedDisk([new NbdExport("a", disk) { AllowResize = true }, new NbdExport("b", disk)]);
        await using var client = await served.OpenAsync(export: "a");
        await client.ResizeAsync(2 << 20);
        Assert.Equal((2 << 20, 2 << 20), (client.Length, disk.Length));
        await client.WriteAsync((2 << 20) + 100, new byte[] { 9 });
        Assert.Equal(9, disk.Content[(2 << 20) + 100]);
        await using var other = await served.OpenAsync(export: "b");
        Assert.Equal(DiskError.Unsupported, (await Assert.ThrowsAsync<DiskException>(async () => await other.ResizeAsync(1))).Error);
        Assert.Equal(DiskError.NoSpace, (await Assert.ThrowsAsync<DiskException>(async () => await other.WriteAsync(other.Length, new byte[1]))).Error);
    }

    [Fact]
    public async Task AnAddressIsAnImage()
    {
        var disk = new TestDisk(1 << 20);
        new Random(4).NextBytes(disk.Content);
        await using var served = new ServedDisk(disk);
        await using (var image = await ImageOpener.OpenAsync(served.Address(), new ImageOpenOptions { Format = "raw" }))
        {
            Assert.Equal("raw", image.FormatName);
            Assert.Equal(disk.Content, await image.ReadBytesAsync(0, 1 << 20));
            await image.WriteAsync(5, new byte[] { 1, 2, 3 });
        }

        Assert.Equal([1, 2, 3], disk.Content.AsSpan(5, 3).ToArray());
    }

    [Theory]
    [InlineData("raw", false)]
    [InlineData("raw", true)]
    [InlineData("qcow2", false)]
    [InlineData("qcow2", true)]
    public async Task ImagesInFilesAreServedWhole(string format, bool readOnly)
    {
        using var folder = new TemporaryFolder();
        var content = new byte[5 << 20];
        var random = new Random(12);
        await using (var file = HostFile.Create(folder["i"], new HostFileOptions(false)))
        {
            await DiskFormats.Named(format).CreateAsync(file, content.Length, FormatOptions.Parse(DiskFormats.Named(format), []), new ImageContext(false, new FolderFiles(folder["i"], new ImageOpenOptions(), 0)));
        }

        await using (var image = await ImageOpener.OpenAsync(folder["i"], new ImageOpenOptions { Format = format }))
        {
            for (var count = 0; count < 60; count++)
            {
                var offset = random.Next(content.Length - 100_000);
                random.NextBytes(content.AsSpan(offset, random.Next(1, 100_000)));
            }

            for (var at = content.Length - 65536; at >= 0; at -= 65536) // backwards, so that neighbours in the disk are none in the file
            {
                if (content.AsSpan(at, 65536).ContainsAnyExcept((byte)0))
                {
                    await image.WriteAsync(at, content.AsMemory(at, 65536));
                }
            }
        }

        await using var opened = await ImageOpener.OpenAsync(folder["i"], new ImageOpenOptions { Format = format, ReadOnly = readOnly });
        await using var served = new ServedDisk(opened);
        await using var client = await served.OpenAsync(readOnly: true);
        await Parallel.ForEachAsync(Enumerable.Range(0, 300), async (index, _) =>
        {
            var own = new Random(index);
            var buffer = new byte[own.Next(1, 3_000_000)];
            var offset = own.Next(0, content.Length - buffer.Length);
            await client.ReadAsync(offset, buffer);
            Assert.True(buffer.AsSpan().SequenceEqual(content.AsSpan(offset, buffer.Length)), $"{offset} {buffer.Length}");
        });
    }

    [Fact]
    public async Task ALostServerIsTold()
    {
        var disk = new TestDisk(1 << 20);
        var hang = new TaskCompletionSource();
        disk.BeforeRead = _ => hang.Task;
        var served = new ServedDisk(disk, new NbdServerOptions { Shared = 0, Persistent = true, StopTimeout = TimeSpan.FromMilliseconds(50) });
        await using var client = await served.OpenAsync();
        var pending = client.ReadAsync(0, new byte[512]).AsTask();
        var stop = served.DisposeAsync().AsTask();
        Assert.Equal(DiskError.Connection, (await Assert.ThrowsAsync<DiskException>(async () => await pending)).Error);
        hang.SetResult();
        await stop;
        Assert.Equal(DiskError.Connection, (await Assert.ThrowsAsync<DiskException>(async () => await client.WriteAsync(0, new byte[512]))).Error);
    }

    [Fact]
    public async Task ALostServerIsWaitedForWhereTheAddressSaysSo()
    {
        using var folder = new TemporaryFolder();
        var disk = new TestDisk(1 << 20);
        var first = new ServedDisk(disk, socket: folder["s"]);
        await using var client = await first.OpenAsync("&x-reconnect=60");
        await client.WriteAsync(0, new byte[] { 1 });
        await first.DisposeAsync();
        var waiting = client.WriteAsync(1, new byte[] { 2 }).AsTask();
        await using var second = new ServedDisk(disk, socket: folder["s"]);
        await waiting;
        Assert.Equal([1, 2], disk.Content.AsSpan(0, 2).ToArray());
        Assert.Equal(DiskError.Connection, (await Assert.ThrowsAsync<DiskException>(async () => await client.FlushAsync())).Error);
        await client.FlushAsync();
    }

    [Fact]
    public async Task CancellingLeavesAServerThatDoesNotAnswer()
    {
        var hang = new TaskCompletionSource();
        var disk = new TestDisk(1 << 20) { BeforeRead = _ => hang.Task };
        await using var served = new ServedDisk(disk);
        await using var client = await served.OpenAsync();
        using var cancel = new CancellationTokenSource();
        var read = client.ReadAsync(0, new byte[512], cancel.Token).AsTask();
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => read);
        hang.SetResult();
    }

    [Fact]
    public async Task StoppingFinishesRequestsUnderWay()
    {
        var started = new TaskCompletionSource();
        var release = new TaskCompletionSource();
        var disk = new TestDisk(1 << 20)
        {
            BeforeWrite = () =>
            {
                started.SetResult();
                return release.Task;
            },
        };
        await using var served = new ServedDisk(disk);
        await using var client = await served.OpenAsync();
        var write = client.WriteAsync(0, new byte[] { 7 }).AsTask();
        await started.Task;
        await served.Server.StopAsync();
        Assert.False(served.Running.IsCompleted);
        release.SetResult();
        await write;
        await served.Running.WaitAsync(TimeSpan.FromSeconds(20));
        Assert.Equal(7, disk.Content[0]);
    }

    [Fact]
    public async Task TheServerEndsWithItsLastClientUnlessPersistent()
    {
        var disk = new TestDisk(1 << 20);
        await using var served = new ServedDisk(disk, new NbdServerOptions());
        using (served.Connect())
        {
            // chose no export: does not count
        }

        var client = await served.OpenAsync();
        Assert.False(served.Running.IsCompleted);
        await client.DisposeAsync();
        await served.Running.WaitAsync(TimeSpan.FromSeconds(20));
        Assert.False(File.Exists(served.Socket));
    }

    [Fact]
    public async Task MoreClientsThanSharedWait()
    {
        await using var served = new ServedDisk(new TestDisk(1 << 20), new NbdServerOptions { Shared = 1, Persistent = true });
        var first = await served.OpenAsync();
        var second = served.OpenAsync().AsTask();
        await first.ReadAsync(0, new byte[10]);
        Assert.False(second.IsCompleted);
        await first.DisposeAsync();
        await (await second).DisposeAsync();
    }

    [Theory]
    [InlineData("nbd://host", "host", 10809, null, "")]
    [InlineData("nbd://host:99/a%20b", "host", 99, null, "a b")]
    [InlineData("nbd://[::1]:7//x", "::1", 7, null, "/x")]
    [InlineData("nbd+unix:///e?socket=/tmp/s%20s", "", 10809, "/tmp/s s", "e")]
    public void AddressesAreUnderstood(string text, string host, int port, string? socket, string export)
    {
        var address = NbdAddress.Parse(text);
        Assert.Equal((host, port, socket, export, false), (address.Host, address.Port, address.Socket, address.Export, address.Tls));
    }

    [Theory]
    [InlineData("http://host")]
    [InlineData("nbd+unix:///e")]
    [InlineData("nbd://host:0/")]
    [InlineData("nbd://host:x/")]
    [InlineData("nbd://host/?socket=/s")]
    [InlineData("nbd://host/%zz")]
    [InlineData("nbd://host/?unknown=1")]
    [InlineData("nbds://host/?tls-verify-peer=2")]
    public void WrongAddressesAreRefused(string text) => Assert.Equal(DiskError.InvalidOption, Assert.Throws<DiskException>(() => NbdAddress.Parse(text)).Error);
}
