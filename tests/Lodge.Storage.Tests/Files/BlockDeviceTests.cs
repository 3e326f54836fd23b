using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Files;

/// <summary>Block devices, by loop devices; these need root.</summary>
public sealed class BlockDeviceTests : IDisposable
{
    private const int Size = 4 << 20;
    private readonly TemporaryFolder _folder = new();
    private string? _device;
    private bool _mounted;

    public void Dispose()
    {
        if (_device is not null)
        {
            QemuImg.RunProgram("losetup", "-d", _device);
        }

        if (_mounted)
        {
            QemuImg.RunProgram("umount", "-l", _folder["small"]);
        }

        _folder.Dispose();
    }

    [Theory]
    [InlineData(CacheMode.WriteBack)]
    [InlineData(CacheMode.None)]
    public async Task RandomOperationsEqualAnArray(CacheMode cache)
    {
        await File.WriteAllBytesAsync(_folder["disk"], new byte[Size]);
        Attach(_folder["disk"]);
        await using var file = HostFile.Open(_device!, new HostFileOptions(false, cache));
        Assert.True(file.IsDevice);
        Assert.Equal(Size, file.Length);
        var model = new DiskModel(file, new Random(9));
        for (var step = 0; step < 100; step++)
        {
            await model.StepAsync(100_000);
        }

        await model.CompareAsync();
        await file.FlushAsync();
        Assert.Equal(model.Content, await File.ReadAllBytesAsync(_folder["disk"]));
        await file.DiscardAsync(0, Size);
        Assert.Equal(BlockState.Data | BlockState.Allocated, (await file.GetStatusAsync(0, Size)).State);
        await file.ResizeAsync(Size);
        Assert.Equal(DiskError.Unsupported, (await Assert.ThrowsAsync<DiskException>(() => file.ResizeAsync(Size / 2).AsTask())).Error);
        Assert.Equal(DiskError.OutOfRange, (await Assert.ThrowsAsync<DiskException>(() => file.WriteAsync(Size - 1, new byte[2]).AsTask())).Error);
    }

    [Fact]
    public async Task AFailedFlushIsNeverForgotten()
    {
        // A device whose file has no room: what the page cache has taken cannot be written out.
        Directory.CreateDirectory(_folder["small"]);
        RequireRoot();
        var (status, output) = QemuImg.RunProgram("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", _folder["small"]);
        if (status != 0)
        {
            Assert.Skip("mount is not allowed here: " + output);
        }

        _mounted = true;
        await using (var sparse = File.Create(_folder["small/disk"]))
        {
            sparse.SetLength(Size);
        }

        Attach(_folder["small/disk"]);
        await using var file = HostFile.Open(_device!, new HostFileOptions(false));
        for (var offset = 0; offset < Size; offset += 65536)
        {
            await file.WriteAsync(offset, Enumerable.Repeat((byte)1, 65536).ToArray());
        }

        var first = await Assert.ThrowsAsync<DiskException>(() => file.FlushAsync().AsTask());
        Assert.Contains("may be lost", first.Message);

        // The kernel has dropped the pages and would call the next flush a success.
        QemuImg.RunProgram("mount", "-o", "remount,size=64m", _folder["small"]);
        await file.WriteAsync(0, new byte[4096]);
        await Assert.ThrowsAsync<DiskException>(() => file.FlushAsync().AsTask());
    }

    private static void RequireRoot()
    {
        if (Environment.UserName != "root")
        {
            Assert.Skip("loop devices need root");
        }
    }

    private void Attach(string path)
    {
        RequireRoot();
        QemuImg.RequireProgram("losetup", "util-linux");
        var (status, output) = QemuImg.RunProgram("losetup", "-f", "--show", path);
        if (status != 0)
        {
            Assert.Skip("loop devices are not to be had here: " + output);
        }

        _device = output.Trim();
    }
}
