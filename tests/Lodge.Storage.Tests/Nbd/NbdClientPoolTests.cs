using Lodge.Storage.Disks;
using Lodge.Storage.Nbd;
using Xunit;

namespace Lodge.Storage.Tests.Nbd;

/// <summary>Several connections to one export.</summary>
public sealed class NbdClientPoolTests
{
    private const int Piece = 256 * 1024;

    [Fact]
    public async Task LargeTransfersRunOverSeveralConnectionsWithTheRightContent()
    {
        var disk = new TestDisk(16 << 20);
        new Random(1).NextBytes(disk.Content);
        var expected = disk.Content.ToArray();
        await using var served = new ServedDisk(disk);
        await using var client = await served.OpenAsync();
        Assert.Equal(1, client.Connections);
        for (var round = 0; round < 50 && (round < 2 || client.Connections < 4); round++)
        {
            await Parallel.ForEachAsync(Enumerable.Range(0, (16 << 20) / Piece), new ParallelOptions { MaxDegreeOfParallelism = 8 }, async (index, _) =>
            {
                var buffer = new byte[Piece];
                await client.ReadAsync(index * Piece, buffer);
                Assert.True(buffer.AsSpan().SequenceEqual(expected.AsSpan(index * Piece, Piece)));
                Array.Reverse(buffer);
                await client.WriteAsync(index * Piece, buffer);
            });
            await client.FlushAsync();
            for (var at = 0; at < expected.Length; at += Piece)
            {
                expected.AsSpan(at, Piece).Reverse();
            }

            Assert.True(disk.Content.AsSpan().SequenceEqual(expected));
        }

        Assert.Equal(4, client.Connections);
    }

    [Fact]
    public async Task AServerThatTakesOneConnectionIsNotWaitedFor()
    {
        var disk = new TestDisk(4 << 20);
        await using var served = new ServedDisk(disk, new NbdServerOptions { Shared = 1, Persistent = true });
        await using var client = await served.OpenAsync();
        await Parallel.ForEachAsync(Enumerable.Range(0, 200), new ParallelOptions { MaxDegreeOfParallelism = 8 }, async (index, _) =>
            await client.WriteAsync(index % 16 * Piece, new byte[Piece]));
        Assert.Equal(1, client.Connections);
    }

    [Fact]
    public async Task WhenTheServerGoesAllRequestsFailOnAllConnections()
    {
        var hold = new TaskCompletionSource();
        var reads = 0;
        var disk = new TestDisk(4 << 20);
        Array.Fill(disk.Content, (byte)5); // holes are not read
        await using var served = new ServedDisk(disk);
        await using var client = await served.OpenAsync();
        for (var round = 0; round < 500 && client.Connections < 4; round++)
        {
            await Task.WhenAll(Enumerable.Range(0, 8).Select(index => client.ReadAsync(index * Piece, new byte[Piece]).AsTask()));
        }

        Assert.Equal(4, client.Connections);
        disk.BeforeRead = _ => Interlocked.Increment(ref reads) > 0 ? hold.Task : Task.CompletedTask;
        var waiting = Enumerable.Range(0, 8).Select(index => client.ReadAsync(index * Piece, new byte[Piece]).AsTask()).ToArray();
        for (var patience = 0; Volatile.Read(ref reads) < 4; patience++)
        {
            Assert.True(patience < 5_000, "the server did not get the requests");
            await Task.Delay(1);
        }

        try
        {
            client.Abort();
            foreach (var task in waiting)
            {
                Assert.Equal(DiskError.Connection, (await Assert.ThrowsAsync<DiskException>(() => task.WaitAsync(TimeSpan.FromSeconds(20)))).Error);
            }

            Assert.Equal(DiskError.Connection, (await Assert.ThrowsAsync<DiskException>(() => client.ReadAsync(0, new byte[512]).AsTask())).Error);
        }
        finally
        {
            hold.SetResult();
        }
    }
}
