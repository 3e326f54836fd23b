using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Images;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests;

public sealed class RawTests
{
    [Fact]
    public async Task RandomOperationsEqualAnArray()
    {
        using var folder = new TemporaryFolder();
        await using (var file = HostFile.Create(folder["disk.raw"], new HostFileOptions(false)))
        {
            await file.ResizeAsync(3_000_000);
        }

        await using var image = await ImageOpener.OpenAsync(folder["disk.raw"], new ImageOpenOptions { Format = "raw" });
        var model = new DiskModel(image, new Random(1));
        for (var step = 0; step < 300; step++)
        {
            await model.StepAsync();
        }

        await model.CompareAsync();
    }

    [Fact]
    public async Task ARequestBeyondTheEndIsRefused()
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllBytesAsync(folder["disk.raw"], new byte[1000]);
        await using var image = await ImageOpener.OpenAsync(folder["disk.raw"], new ImageOpenOptions { Format = "raw" });
        var failure = await Assert.ThrowsAsync<DiskException>(async () => await image.WriteAsync(999, new byte[2]));
        Assert.Equal(DiskError.OutOfRange, failure.Error);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task DiscardsFreeRoomOnlyIfTheyShall(bool discard)
    {
        using var folder = new TemporaryFolder();
        await File.WriteAllBytesAsync(folder["disk.raw"], Enumerable.Repeat((byte)1, 1 << 20).ToArray());
        await using var image = await ImageOpener.OpenAsync(folder["disk.raw"], new ImageOpenOptions { Format = "raw", Discard = discard });
        await image.TryDiscardAsync(0, 1 << 19);
        await image.ZeroAsync(1 << 19, 1 << 19);
        await image.FlushAsync();
        Assert.Equal(discard ? 0 : 1, (await image.ReadBytesAsync(0, 1))[0]);
        Assert.Equal(0, (await image.ReadBytesAsync(1 << 19, 1))[0]);
        Assert.InRange(image.File.AllocatedLength, discard ? 0 : 1 << 20, discard ? 1 << 16 : 2 << 20);
    }
}
