using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Files;

public sealed class HostFileTests
{
    private const int Size = 3_000_100;

    [Theory]
    [InlineData(CacheMode.WriteBack)]
    [InlineData(CacheMode.None)]
    [InlineData(CacheMode.WriteThrough)]
    [InlineData(CacheMode.DirectSync)]
    [InlineData(CacheMode.Unsafe)]
    public async Task RandomOperationsEqualAnArray(CacheMode cache)
    {
        using var folder = new TemporaryFolder();
        await using var file = Create(folder["disk"], cache);
        await file.ResizeAsync(Size);
        var model = new DiskModel(file, new Random((int)cache));
        for (var step = 0; step < (cache is CacheMode.WriteBack or CacheMode.Unsafe ? 400 : 120); step++)
        {
            await model.StepAsync(step % 20 == 0 ? 1_000_000 : 50_000);
        }

        await model.CompareAsync();
        Assert.Equal(model.Content, await File.ReadAllBytesAsync(folder["disk"]));
    }

    [Theory]
    [InlineData(CacheMode.WriteBack)]
    [InlineData(CacheMode.None)]
    public async Task AWriteBeyondTheEndGrowsTheFileByJustThat(CacheMode cache)
    {
        using var folder = new TemporaryFolder();
        await using var file = Create(folder["disk"], cache);
        await file.WriteAsync(10_000, new byte[] { 1, 2, 3 });
        Assert.Equal(10_003, file.Length);
        await file.WriteAsync(10_003, new byte[] { 4 });
        await file.WriteZeroesAsync(20_000, 7);
        Assert.Equal(20_007, file.Length);
        Assert.Equal(20_007, new FileInfo(folder["disk"]).Length);
        Assert.Equal([0, 1, 2, 3, 4, 0], await file.ReadBytesAsync(9_999, 6));
        Assert.Equal(20_007, (await file.ReadBytesAsync(0, 1 << 20)).Length);
    }

    [Theory]
    [InlineData(CacheMode.WriteBack)]
    [InlineData(CacheMode.None)]
    public async Task WritersOfTheSameBlocksLoseNothingOfEachOther(CacheMode cache)
    {
        using var folder = new TemporaryFolder();
        await using var file = Create(folder["disk"], cache);
        await file.ResizeAsync(8200);
        await Task.WhenAll(Enumerable.Range(0, 8).Select(worker => Task.Run(async () =>
        {
            for (var at = worker * 20; at < 8200; at += 160)
            {
                await file.WriteAsync(at, Enumerable.Repeat((byte)worker, Math.Min(20, 8200 - at)).ToArray());
            }
        })));
        var bytes = await file.ReadBytesAsync(0, 8200);
        Assert.All(Enumerable.Range(0, 8200), at => Assert.Equal(at / 20 % 8, bytes[at]));
        Assert.Equal(8200, new FileInfo(folder["disk"]).Length);
    }

    [Theory]
    [InlineData(CacheMode.WriteBack)]
    [InlineData(CacheMode.None)]
    public async Task ManyPiecesGoInOneRequest(CacheMode cache)
    {
        using var folder = new TemporaryFolder();
        await using var file = Create(folder["disk"], cache);
        var random = new Random(4);
        var content = new byte[200_000];
        random.NextBytes(content);
        await file.WriteAsync(3, Split(content, random));
        var read = new byte[content.Length];
        await file.ReadAsync(3, Split(read, random));
        Assert.Equal(content, read);
    }

    [Fact]
    public async Task ManyRequestsAreInFlightAtOnce()
    {
        using var folder = new TemporaryFolder();
        await using var file = Create(folder["disk"], CacheMode.None);
        await file.ResizeAsync(1 << 20);
        var requests = Enumerable.Range(0, 256).Select(block => file.WriteAsync(block * 4096, Enumerable.Repeat((byte)block, 4096).ToArray()).AsTask()).ToArray();
        await Task.WhenAll(requests);
        var reads = Enumerable.Range(0, 256).Select(async block => (block, bytes: await file.ReadBytesAsync(block * 4096, 4096))).ToArray();
        foreach (var (block, bytes) in await Task.WhenAll(reads))
        {
            Assert.All(bytes, value => Assert.Equal((byte)block, value));
        }
    }

    [Fact]
    public async Task HolesAreSeenMadeAndFilled()
    {
        using var folder = new TemporaryFolder();
        await using var file = Create(folder["disk"], CacheMode.WriteBack);
        await file.ResizeAsync(8 << 20);
        await file.WriteAsync(1 << 20, new byte[1 << 20]);
        var hole = await file.GetStatusAsync(0, 8 << 20);
        if (hole.State.HasFlag(BlockState.Data))
        {
            Assert.Skip("the file system of the temporary folder does not tell holes");
        }

        Assert.Equal(new BlockExtent(1 << 20, BlockState.Zero | BlockState.Allocated, 0, 0), hole);
        Assert.Equal(new BlockExtent(1 << 20, BlockState.Data | BlockState.Allocated, 0, 1 << 20), await file.GetStatusAsync(1 << 20, 7 << 20));
        Assert.Equal(6 << 20, (await file.GetStatusAsync(2 << 20, 6 << 20)).Length);
        Assert.InRange(file.AllocatedLength, 1 << 20, 2 << 20);

        // What was known of a hole is forgotten when it is written to.
        await file.WriteAsync(3 << 20, new byte[4096]);
        Assert.Equal(BlockState.Data | BlockState.Allocated, (await file.GetStatusAsync(3 << 20, 4096)).State);

        await file.DiscardAsync((1 << 20) + 1, (1 << 20) - 2);
        Assert.Equal(BlockState.Data | BlockState.Allocated, (await file.GetStatusAsync(1 << 20, 10)).State);
        Assert.Equal(BlockState.Zero | BlockState.Allocated, (await file.GetStatusAsync((1 << 20) + 4096, 10)).State);
        await file.WriteZeroesAsync(0, 8 << 20);
        Assert.Equal(new BlockExtent(8 << 20, BlockState.Zero | BlockState.Allocated, 0, 0), await file.GetStatusAsync(0, 8 << 20));
        Assert.InRange(file.AllocatedLength, 0, 1 << 16);

        await file.WriteZeroesAsync(0, 4 << 20, ZeroOptions.None);
        Assert.InRange(file.AllocatedLength, 4 << 20, 5 << 20);
        await file.AllocateAsync(4 << 20, 8 << 20);
        Assert.Equal(12 << 20, file.Length);
        Assert.InRange(file.AllocatedLength, 12 << 20, 13 << 20);
    }

    [Fact]
    public async Task DiscardedPartsOfUnitsAreLeft()
    {
        using var folder = new TemporaryFolder();
        await using var file = Create(folder["disk"], CacheMode.WriteBack);
        await file.WriteAsync(0, Enumerable.Repeat((byte)7, 20_000).ToArray());
        await file.DiscardAsync(100, 3000);
        Assert.All(await file.ReadBytesAsync(0, 20_000), value => Assert.Equal(7, value));
    }

    [Fact]
    public async Task RequestsOutsideAreRefused()
    {
        using var folder = new TemporaryFolder();
        await using var file = Create(folder["disk"], CacheMode.WriteBack);
        await file.ResizeAsync(1000);
        await FailsAsync(DiskError.OutOfRange, () => file.ReadAsync(999, new byte[2]));
        await FailsAsync(DiskError.OutOfRange, () => file.ReadAsync(-1, new byte[2]));
        await FailsAsync(DiskError.OutOfRange, () => file.ReadAsync(long.MaxValue, new byte[2]));
        await FailsAsync(DiskError.OutOfRange, () => file.WriteAsync(long.MaxValue, new byte[2]));
        await FailsAsync(DiskError.OutOfRange, () => file.WriteAsync(-1, new byte[2]));
        await FailsAsync(DiskError.OutOfRange, () => file.ResizeAsync(-1));
        await FailsAsync(DiskError.NoSpace, () => file.WriteAsync(long.MaxValue - 10, new byte[2]));
        Assert.Equal(1000, file.Length);
    }

    [Fact]
    public async Task ReadOnlyMeansThatNothingChanges()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllBytesAsync(folder["disk"], new byte[5000]);
        File.SetUnixFileMode(folder["disk"], UnixFileMode.UserRead);
        await using var file = HostFile.Open(folder["disk"], new HostFileOptions(true));
        await FailsAsync(DiskError.ReadOnly, () => file.WriteAsync(0, new byte[1]));
        await FailsAsync(DiskError.ReadOnly, () => file.WriteZeroesAsync(0, 10));
        await FailsAsync(DiskError.ReadOnly, () => file.DiscardAsync(0, 5000));
        await FailsAsync(DiskError.ReadOnly, () => file.ResizeAsync(1));
        await FailsAsync(DiskError.ReadOnly, () => file.AllocateAsync(0, 1));
        await file.FlushAsync();
    }

    [Fact]
    public void WhatIsNoFileIsRefused()
    {
        using var folder = new TemporaryFolder();
        Assert.Equal(DiskError.NotFound, Assert.Throws<DiskException>(() => Open(folder["missing"])).Error);
        Assert.Equal(DiskError.NotFound, Assert.Throws<DiskException>(() => Open("")).Error);
        Assert.Equal(DiskError.NotFound, Assert.Throws<DiskException>(() => Open("a\0b")).Error);
        Assert.Contains("a folder", Assert.Throws<DiskException>(() => Open(folder.Path)).Message);
        Assert.Contains("a character device", Assert.Throws<DiskException>(() => Open("/dev/zero")).Message);
        Assert.Equal(0, QemuImg.RunProgram("mkfifo", folder["pipe"]).Status);
        Assert.Contains("a pipe", Assert.Throws<DiskException>(() => Open(folder["pipe"])).Message);
        File.WriteAllText(folder["there"], "x");
        Assert.Equal(DiskError.Exists, Assert.Throws<DiskException>(() => HostFile.Create(folder["there"], new HostFileOptions(false))).Error);
    }

    [Fact]
    public void AFileSystemWithoutDirectIoIsNamed()
    {
        // procfs has regular files and no direct I/O on any kernel.
        var failure = Assert.Throws<DiskException>(() => HostFile.Open("/proc/version", new HostFileOptions(true, CacheMode.None, Lock: false)));
        Assert.Equal(DiskError.Unsupported, failure.Error);
        Assert.Contains("cache=writeback", failure.Message);
    }

    [Fact]
    public async Task AFileThatIsCutByOthersIsAnErrorNotZeroes()
    {
        using var folder = new TemporaryFolder();
        await using var file = Create(folder["disk"], CacheMode.WriteBack);
        await file.WriteAsync(0, new byte[10_000]);
        using (var other = File.Open(folder["disk"], FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
        {
            other.SetLength(5000);
        }

        await FailsAsync(DiskError.InputOutput, () => file.ReadAsync(4000, new byte[6000]));
    }

    [Fact]
    public async Task AFullFileSystemIsNoSpace()
    {
        if (Environment.UserName != "root")
        {
            Assert.Skip("mounting a small tmpfs needs root");
        }

        using var folder = new TemporaryFolder();
        Directory.CreateDirectory(folder["small"]);
        var (status, output) = QemuImg.RunProgram("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder["small"]);
        if (status != 0)
        {
            Assert.Skip("mount is not allowed here: " + output);
        }

        try
        {
            await using (var file = Create(folder["small/disk"], CacheMode.WriteBack))
            {
                await file.ResizeAsync(1 << 20);
                await file.WriteAsync(0, new byte[100_000]);
                await FailsAsync(DiskError.NoSpace, () => file.WriteAsync(100_000, new byte[500_000]));
                await FailsAsync(DiskError.NoSpace, () => file.AllocateAsync(0, 1 << 20));
                await file.FlushAsync();

                // Room that is given back can be used again.
                await file.DiscardAsync(0, 1 << 20);
                await file.WriteAsync(0, new byte[60_000]);
                await file.WriteZeroesAsync(0, 60_000, ZeroOptions.None);
            }
        }
        finally
        {
            QemuImg.RunProgram("umount", folder["small"]);
        }
    }

    [Fact]
    public async Task ACachedReadAllocatesNothing()
    {
        using var folder = new TemporaryFolder();
        await using var file = Create(folder["disk"], CacheMode.WriteBack);
        var buffer = new byte[4096];
        await file.WriteAsync(0, new byte[1 << 16]);
        for (var round = 0; round < 100; round++)
        {
            await file.ReadAsync(4096, buffer);
            await file.WriteAsync(4096, buffer);
        }

        if (!file.ReadAsync(4096, buffer).IsCompletedSuccessfully)
        {
            Assert.Skip("the file system of the temporary folder cannot tell what is cached");
        }

        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var round = 0; round < 1000; round++)
        {
            Assert.True(file.ReadAsync(4096, buffer).IsCompletedSuccessfully);
            Assert.True(file.WriteAsync(4096, buffer).IsCompletedSuccessfully);
        }

        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 999);
    }

    private static HostFile Create(string path, CacheMode cache)
    {
        try
        {
            return HostFile.Create(path, new HostFileOptions(false, cache));
        }
        catch (DiskException failure) when (failure.Error == DiskError.Unsupported)
        {
            Assert.Skip("the file system of the temporary folder has no direct I/O");
            throw;
        }
    }

    private static HostFile Open(string path) => HostFile.Open(path, new HostFileOptions(false));

    private static async Task FailsAsync(DiskError error, Func<ValueTask> request) =>
        Assert.Equal(error, (await Assert.ThrowsAsync<DiskException>(() => request().AsTask())).Error);

    private static IoVector Split(byte[] bytes, Random random)
    {
        var pieces = new List<Memory<byte>>();
        for (var at = 0; at < bytes.Length;)
        {
            var length = Math.Min(random.Next(0, 3000), bytes.Length - at);
            pieces.Add(bytes.AsMemory(at, length));
            at += length;
        }

        return new IoVector([.. pieces]);
    }
}
