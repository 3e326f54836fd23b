using System.Diagnostics;
using System.Globalization;
using System.Runtime.Intrinsics.X86;

namespace Lodge.Engine.Time;

/// <summary>The host's time stamp counter: how fast it counts.</summary>
public static class TimestampCounter
{
    private const int CalibrationMicroseconds = 2000, CheckMicroseconds = 400;

    /// <summary>
    /// Frequency in Hz of the counter that <paramref name="read"/> returns (RDTSC): from CPUID leaf 0x15, else from the hypervisor's leaf 0x40000010,
    /// else measured for 2 ms (0.4 ms where one of these agrees) against the monotonic clock and, where the kernel's own figure agrees, replaced by that.
    /// </summary>
    /// <param name="read">RDTSC. Must count as the processor's TSC does when CPUID is to be believed; a measurement checks it.</param>
    public static long MeasureFrequency(Func<ulong> read)
    {
        ArgumentNullException.ThrowIfNull(read);
        // A figure that a short measurement confirms is right; without one it takes longer to measure well.
        long measured = Measure(read, CheckMicroseconds);
        if ((Agrees(FromCrystal(), measured) ?? Agrees(FromHypervisor(), measured) ?? Agrees(FromKernel(), measured)) is { } told)
        {
            return told;
        }
        measured = Measure(read, CalibrationMicroseconds);
        return Agrees(FromCrystal(), measured) ?? Agrees(FromHypervisor(), measured) ?? Agrees(FromKernel(), measured) ?? measured;
    }

    private static long? Agrees(long claimed, long measured) => claimed > 0 && Math.Abs(claimed - measured) <= measured / 500 ? claimed : null;

    private static long Measure(Func<ulong> read, int microseconds)
    {
        (ulong counter, long time) Sample()
        {
            // Of several readings the one that was interrupted least.
            (ulong Counter, long Time) best = default;
            long width = long.MaxValue;
            for (int i = 0; i < 8; i++)
            {
                long before = Stopwatch.GetTimestamp();
                ulong counter = read();
                long after = Stopwatch.GetTimestamp();
                if (after - before < width)
                {
                    width = after - before;
                    best = (counter, before + (width / 2));
                }
            }
            return best;
        }
        (ulong startCounter, long startTime) = Sample();
        long wait = Stopwatch.Frequency * microseconds / 1_000_000;
        while (Stopwatch.GetTimestamp() - startTime < wait)
        {
            Thread.SpinWait(20);
        }
        (ulong endCounter, long endTime) = Sample();
        return (long)((double)(endCounter - startCounter) * Stopwatch.Frequency / (endTime - startTime));
    }

    private static long FromCrystal()
    {
        if (!X86Base.IsSupported || (uint)X86Base.CpuId(0, 0).Eax < 0x15)
        {
            return 0;
        }
        (int denominator, int numerator, int crystal, _) = X86Base.CpuId(0x15, 0);
        return denominator == 0 ? 0 : (long)((ulong)(uint)crystal * (uint)numerator / (uint)denominator);
    }

    private static long FromHypervisor()
    {
        const int HypervisorBit = 31;
        if (!X86Base.IsSupported || ((uint)X86Base.CpuId(1, 0).Ecx >> HypervisorBit) == 0 || (uint)X86Base.CpuId(0x4000_0000, 0).Eax is < 0x4000_0010 or > 0x4000_FFFF)
        {
            return 0;
        }
        return (uint)X86Base.CpuId(0x4000_0010, 0).Eax * 1000L;
    }

    // Linux derives bogomips from the TSC frequency, to 5 kHz: bogomips = 2 * MHz.
    private static long FromKernel()
    {
        try
        {
            using var reader = new StreamReader("/proc/cpuinfo");
            for (int i = 0; i < 64 && reader.ReadLine() is { } line; i++)
            {
                if (line.StartsWith("bogomips", StringComparison.Ordinal)
                    && double.TryParse(line.AsSpan(line.IndexOf(':') + 1), NumberStyles.Float, CultureInfo.InvariantCulture, out double value))
                {
                    return (long)Math.Round(value * 500_000);
                }
            }
        }
        catch (IOException)
        {
            // No /proc: the measurement stands.
        }
        catch (UnauthorizedAccessException)
        {
            // Likewise.
        }
        return 0;
    }
}
