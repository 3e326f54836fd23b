using System.Diagnostics;
using Lodge.Engine.Time;
using Lodge.Engine.Translation.Processor;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

public sealed unsafe class TimestampCounterTests
{
    [Fact]
    public void A_counter_is_measured_against_the_clock_that_drives_it()
    {
        // Three ticks for each tick of the monotonic clock: nothing that CPUID or the kernel claims agrees with it.
        long frequency = TimestampCounter.MeasureFrequency(() => (ulong)Stopwatch.GetTimestamp() * 3);
        Assert.Equal(3.0 * Stopwatch.Frequency, frequency, Stopwatch.Frequency * 0.03);
    }

    [Theory]
    [InlineData(1_000_000_000L)]
    [InlineData(2_700_000_000L)]
    [InlineData(999_999L)]
    [InlineData(5_123_456_789L)]
    public void Time_scale_keeps_full_precision(long frequency)
    {
        (uint multiplier, sbyte shift) = Vcpu.TimeScale(frequency);
        Assert.True(multiplier >= 1u << 31);
        Assert.Equal(1e9, Math.ScaleB(multiplier, shift - 32) * frequency, 1.0);
    }

    [Fact]
    public void Time_stamp_counters_stand_still_with_the_machine()
    {
        using var guest = new GuestFixture();
        guest.Vcpu.ResetRegisters();
        ulong before = guest.Partition.MachineTimestamp() + guest.B->TscOffset;
        Assert.Equal(0UL, before);
        Thread.SpinWait(100_000); // the host's counter goes on, the machine's clock was never started
        guest.Partition.ResynchronizeTime();
        Assert.Equal(before, guest.Partition.MachineTimestamp() + guest.B->TscOffset);
        Assert.Equal(guest.Partition.PowerOnTimestamp, 0 - guest.B->TscOffset);
    }
}
