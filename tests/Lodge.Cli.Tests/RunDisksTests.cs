using Lodge.Cli.Run;
using Lodge.Machine;
using Lodge.Storage.Disks;
using Xunit;

namespace Lodge.Cli.Tests;

/// <summary>Disks of a machine that is held, on a host that hangs.</summary>
public sealed class RunDisksTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ADiskThatDoesNotAnswerIsNamed(bool takesTheThread)
    {
        using ManualResetEventSlim answered = new();
        HangingDisk disk = new(answered, takesTheThread);
        try
        {
            DeviceBusyException refused = Assert.Throws<DeviceBusyException>(() => RunDisks.Flush("disk3", disk, TimeSpan.FromMilliseconds(20)));
            Assert.Equal("disk3", refused.Device);
        }
        finally
        {
            answered.Set();
        }
        RunDisks.Flush("disk3", disk);
    }

    /// <summary>One whose flush ends when the host answers: later, or not on the caller's thread before.</summary>
    private sealed class HangingDisk(ManualResetEventSlim answered, bool takesTheThread) : IDisk
    {
        public long Length => 1 << 20;

        public int RequestAlignment => 512;

        public bool IsReadOnly => false;

        public ValueTask ReadAsync(long offset, IoVector destination, CancellationToken cancellation = default) => ValueTask.CompletedTask;

        public ValueTask WriteAsync(long offset, IoVector source, WriteOptions options = WriteOptions.None, CancellationToken cancellation = default) => ValueTask.CompletedTask;

        public ValueTask FlushAsync(CancellationToken cancellation = default)
        {
            if (takesTheThread)
            {
                answered.Wait(cancellation);
                return ValueTask.CompletedTask;
            }
            return new ValueTask(Task.Run(() => answered.Wait(cancellation), cancellation));
        }

        public ValueTask DisposeAsync() => ValueTask.CompletedTask;
    }
}
