using Lodge.Storage.Disks;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Disks;

public sealed class RateLimitedDiskTests
{
    private readonly ManualTime _time = new();

    [Fact]
    public async Task OperationsGoAtTheirRateAfterTheBurst()
    {
        var disk = Make(new DiskLimits { Operations = new DiskRate(100, 5) });
        var requests = Enumerable.Range(0, 25).Select(_ => disk.ReadAsync(0, new byte[1]).AsTask()).ToArray();
        Assert.Equal(5, await SettleAsync(requests, 5));

        // Ten milliseconds each.
        for (var done = 6; done <= 25; done++)
        {
            Advance(10);
            Assert.Equal(done, await SettleAsync(requests, done));
        }

        // A rest fills the bucket, but not beyond the burst.
        Advance(10_000);
        requests = Enumerable.Range(0, 10).Select(_ => disk.WriteAsync(0, new byte[1]).AsTask()).ToArray();
        Assert.Equal(5, await SettleAsync(requests, 5));
    }

    [Fact]
    public async Task ALargeRequestPaysForItselfAfterwards()
    {
        var disk = Make(new DiskLimits { Bytes = new DiskRate(1000, 100) });
        await disk.WriteAsync(0, new byte[4096]);
        Task[] next = [disk.ReadAsync(0, new byte[100]).AsTask()];
        Advance(4000);
        Assert.Equal(0, await SettleAsync(next, 0));
        Advance(100);
        Assert.Equal(1, await SettleAsync(next, 1));
    }

    [Fact]
    public async Task ReadsAndWritesHaveTheirOwnLimits()
    {
        var disk = Make(new DiskLimits { ReadOperations = new DiskRate(1, 1), WriteBytes = new DiskRate(1000, 1000) });
        await disk.ReadAsync(0, new byte[4096]);
        await disk.WriteAsync(0, new byte[1000]);
        Task[] waiting = [disk.ReadAsync(0, new byte[1]).AsTask(), disk.WriteAsync(0, new byte[500]).AsTask()];
        await disk.FlushAsync();
        Advance(500);
        Assert.Equal(1, await SettleAsync(waiting, 1));
        Assert.True(waiting[1].IsCompleted);
        Advance(500);
        Assert.Equal(2, await SettleAsync(waiting, 2));
    }

    [Fact]
    public async Task AChangeHoldsForThoseWhoWait()
    {
        var disk = Make(new DiskLimits { Operations = new DiskRate(1, 1) });
        await disk.ReadAsync(0, new byte[1]);
        var requests = Enumerable.Range(0, 100).Select(_ => disk.ReadAsync(0, new byte[1]).AsTask()).ToArray();
        Assert.Equal(0, await SettleAsync(requests, 0));
        disk.Limits = DiskLimits.None;
        Assert.Equal(100, await SettleAsync(requests, 100));
    }

    [Fact]
    public async Task ACancelledRequestCostsNothing()
    {
        var disk = Make(new DiskLimits { Operations = new DiskRate(1, 1) });
        await disk.ReadAsync(0, new byte[1]);
        using var stop = new CancellationTokenSource();
        var cancelled = disk.ReadAsync(0, new byte[1], stop.Token).AsTask();
        Task[] next = [disk.ReadAsync(0, new byte[1]).AsTask()];
        await stop.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => cancelled);
        Advance(1000);
        Assert.Equal(1, await SettleAsync(next, 1));
    }

    [Fact]
    public void LimitsHaveNames()
    {
        var limits = DiskLimits.None.With("bps", "20M").With("iops-rd", "100").With("iops-rd-max", "500");
        Assert.Equal(new DiskRate(20 << 20), limits.Bytes);
        Assert.Equal(new DiskRate(100, 500), limits.ReadOperations);
        Assert.All(DiskLimits.Names, name => Assert.NotEqual(DiskLimits.None, DiskLimits.None.With(name, "1")));
        Assert.Contains("bps", Assert.Throws<DiskException>(() => DiskLimits.None.With("speed", "1")).Message);
        Assert.Throws<DiskException>(() => DiskLimits.None.With("bps", "0"));
        Assert.Throws<DiskException>(() => DiskLimits.None.With("bps", "fast"));
        Assert.Contains("iops", Assert.Throws<DiskException>(() => Make(DiskLimits.None.With("iops-max", "5"))).Message);
    }

    private RateLimitedDisk Make(DiskLimits limits) => new(new MemoryFile { Content = new byte[8192] }, limits, _time);

    private void Advance(int milliseconds) => _time.Advance(TimeSpan.FromMilliseconds(milliseconds));

    /// <summary>How many are done once as many are done as there should be, or nothing more happens.</summary>
    private async Task<int> SettleAsync(Task[] requests, int expected)
    {
        for (var round = 0; round < 200 && (requests.Count(request => request.IsCompleted) < expected || (expected < requests.Length && _time.Waiting == 0)); round++)
        {
            await Task.Delay(5);
        }

        return requests.Count(request => request.IsCompletedSuccessfully);
    }
}
