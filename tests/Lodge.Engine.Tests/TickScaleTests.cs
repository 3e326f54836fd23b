using Lodge.Engine.Time;
using Xunit;

namespace Lodge.Engine.Tests;

/// <summary>Ticks of one clock in those of another, against arithmetic of 128 bits.</summary>
public sealed class TickScaleTests
{
    private static readonly ulong[] s_edges = [0, 1, 2, 999_999_999, 1_000_000_000, uint.MaxValue, 1UL << 32, long.MaxValue - 1, long.MaxValue, 1UL << 63, ulong.MaxValue - 1, ulong.MaxValue];

    [Fact]
    public void It_is_exact_and_bounded()
    {
        var random = new Random(1);
        ulong Any() => random.Next(4) == 0 ? s_edges[random.Next(s_edges.Length)] : (ulong)random.NextInt64() >> random.Next(63);
        for (int i = 0; i < 200_000; i++)
        {
            ulong count = Any(), multiplier = Any(), divisor = Math.Max(1, Any());
            UInt128 product = (UInt128)count * multiplier;
            Assert.Equal(Bounded(product / divisor), TickScale.Truncated(count, multiplier, divisor));
            Assert.Equal(Bounded((product / divisor) + (product % divisor == 0 ? 0u : 1u)), TickScale.Ceiling(count, multiplier, divisor));
            long signed = unchecked((long)count), ratio = (long)(multiplier >> 1), by = (long)Math.Max(1, divisor >> 1);
            Assert.Equal((long)Int128.Clamp((Int128)signed * ratio / by, -long.MaxValue, long.MaxValue), TickScale.Truncated(signed, ratio, by));
        }
    }

    private static ulong Bounded(UInt128 value) => value > ulong.MaxValue ? ulong.MaxValue : (ulong)value;
}
