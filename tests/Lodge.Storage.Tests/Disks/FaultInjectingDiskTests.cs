using Lodge.Storage.Disks;
using Lodge.Storage.Tests.Harness;
using Xunit;

namespace Lodge.Storage.Tests.Disks;

public sealed class FaultInjectingDiskTests
{
    [Theory]
    [InlineData("read-error@2048", DiskFaultKind.ReadError, 2048, 2048, 1, 0)]
    [InlineData("read-error@5-9:0.5", DiskFaultKind.ReadError, 5, 9, 0.5, 0)]
    [InlineData("write-error:1%", DiskFaultKind.WriteError, 0, long.MaxValue, 0.01, 0)]
    [InlineData("flush-error", DiskFaultKind.FlushError, 0, long.MaxValue, 1, 0)]
    [InlineData("torn-write:0.25", DiskFaultKind.TornWrite, 0, long.MaxValue, 0.25, 0)]
    [InlineData("delay@0-99:20ms", DiskFaultKind.Delay, 0, 99, 1, 20)]
    [InlineData("delay:1.5s:10%", DiskFaultKind.Delay, 0, long.MaxValue, 0.1, 1500)]
    public void FaultsAreParsed(string text, DiskFaultKind kind, long first, long last, double rate, int milliseconds) =>
        Assert.Equal(new DiskFault(kind, first, last, rate, TimeSpan.FromMilliseconds(milliseconds)), DiskFault.Parse(text));

    [Theory]
    [InlineData("", "no kind ''")]
    [InlineData("reed-error", "no kind 'reed-error'")]
    [InlineData("read-error@", "''")]
    [InlineData("read-error@-1", "''")]
    [InlineData("read-error@9-5", "'9-5'")]
    [InlineData("read-error@9223372036854775807", "range")]
    [InlineData("read-error:0", "'0'")]
    [InlineData("read-error:101%", "'101%'")]
    [InlineData("read-error:NaN", "'NaN'")]
    [InlineData("read-error:1:2", "'2'")]
    [InlineData("flush-error@5", "no place")]
    [InlineData("delay", "missing")]
    [InlineData("delay:20", "'20'")]
    [InlineData("delay:2000000s", "hour")]
    public void WrongFaultsAreExplained(string text, string expected)
    {
        var failure = Assert.Throws<DiskException>(() => DiskFault.Parse(text));
        Assert.Equal(DiskError.InvalidOption, failure.Error);
        Assert.Contains(expected, failure.Message);
    }

    [Fact]
    public async Task ABadSectorFailsItsReadAfterThoseBeforeAndIsHealedByAWrite()
    {
        var disk = Make(out var file, "read-error@3-4");
        file.Content = Enumerable.Range(0, 5120).Select(at => (byte)(1 + (at / 512))).ToArray();
        var read = new byte[2560];
        var failure = await Assert.ThrowsAsync<DiskException>(async () => await disk.ReadAsync(256, read));
        Assert.Equal(DiskError.InputOutput, failure.Error);
        Assert.Contains("sector 3", failure.Message);
        Assert.Equal(3, read[1279]);
        Assert.Equal(0, read[1280]);
        await disk.ReadAsync(0, new byte[1536]);
        await disk.ReadAsync(2560, new byte[512]);

        // A part of a sector does not heal it, the whole does.
        await disk.WriteAsync(1536, new byte[511]);
        await Assert.ThrowsAsync<DiskException>(async () => await disk.ReadAsync(1536, new byte[1]));
        await disk.WriteAsync(1536, new byte[512]);
        await disk.ReadAsync(1536, new byte[512]);
        await Assert.ThrowsAsync<DiskException>(async () => await disk.ReadAsync(0, new byte[5120]));
        await disk.WriteZeroesAsync(0, 5120);
        await disk.ReadAsync(0, new byte[5120]);
    }

    [Fact]
    public async Task AFailedWriteHasWrittenTheSectorsBefore()
    {
        var disk = Make(out var file, "write-error@2");
        Assert.Contains("sector 2", (await Assert.ThrowsAsync<DiskException>(async () => await disk.WriteAsync(0, Filled(2048)))).Message);
        Assert.Equal(1023, Array.LastIndexOf(file.Content, (byte)7));
        await Assert.ThrowsAsync<DiskException>(async () => await disk.WriteZeroesAsync(1024, 10));
        await disk.WriteAsync(1536, Filled(512));
    }

    [Fact]
    public async Task ATornWriteSucceedsAndLosesItsLastSectors()
    {
        var disk = Make(out var file, "torn-write");
        var lengths = new HashSet<int>();
        for (var round = 0; round < 50; round++)
        {
            file.Content = new byte[5120];
            await disk.WriteAsync(100, Filled(3000));
            var end = Array.LastIndexOf(file.Content, (byte)7) + 1;
            Assert.Equal(0, end % 512);
            Assert.InRange(end, 512, 3072);
            lengths.Add(end);
        }

        Assert.True(lengths.Count > 2);
        await disk.WriteAsync(4096, Filled(512));
        Assert.Equal(4607, Array.LastIndexOf(file.Content, (byte)7));
    }

    [Fact]
    public async Task RatesAreMetAndTheSeedDecides()
    {
        var first = await CountAsync(5);
        Assert.InRange(first.Count, 50, 150);
        Assert.Equal(first, await CountAsync(5));
        Assert.NotEqual(first, await CountAsync(6));

        static async Task<List<int>> CountAsync(int seed)
        {
            var disk = new FaultInjectingDisk(new MemoryFile { Content = new byte[512] }, [DiskFault.Parse("flush-error:10%")], seed);
            var failed = new List<int>();
            for (var round = 0; round < 1000; round++)
            {
                try
                {
                    await disk.FlushAsync();
                }
                catch (DiskException)
                {
                    failed.Add(round);
                }
            }

            return failed;
        }
    }

    [Fact]
    public async Task DelaysHoldRequestsOfTheirSectors()
    {
        var time = new ManualTime();
        var disk = new FaultInjectingDisk(new MemoryFile { Content = new byte[5120] }, [DiskFault.Parse("delay@4:2s")], time: time);
        await disk.ReadAsync(0, new byte[2048]);
        await disk.FlushAsync();
        var slow = disk.ReadAsync(2048, new byte[10]).AsTask();
        time.Advance(TimeSpan.FromSeconds(1.9));
        Assert.False(slow.IsCompleted);
        time.Advance(TimeSpan.FromSeconds(0.2));
        await slow;
    }

    private static FaultInjectingDisk Make(out MemoryFile file, params string[] faults)
    {
        file = new MemoryFile { Content = new byte[5120] };
        return new FaultInjectingDisk(file, faults.Select(DiskFault.Parse));
    }

    private static byte[] Filled(int length) => Enumerable.Repeat((byte)7, length).ToArray();
}
