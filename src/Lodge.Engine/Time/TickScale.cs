using System.Runtime.CompilerServices;

namespace Lodge.Engine.Time;

/// <summary>
/// Counts of one clock in ticks of another: count * multiplier / divisor, exact where the product has more than 64 bits, and bounded where the quotient has. In place of <see cref="Int128"/>: code that
/// uses that is not compiled ahead of time, so each start of a machine would compile it.
/// </summary>
public static class TickScale
{
    /// <summary>Rounded towards zero.</summary>
    /// <param name="count">Any.</param>
    /// <param name="multiplier">Not negative.</param>
    /// <param name="divisor">Positive.</param>
    public static long Truncated(long count, long multiplier, long divisor)
    {
        ulong magnitude = Math.Min(Truncated(count < 0 ? 0UL - (ulong)count : (ulong)count, (ulong)multiplier, (ulong)divisor), long.MaxValue);
        return count < 0 ? -(long)magnitude : (long)magnitude;
    }

    /// <summary>Rounded down.</summary>
    public static ulong Truncated(ulong count, ulong multiplier, ulong divisor)
    {
        ulong high = Math.BigMul(count, multiplier, out ulong low);
        return high == 0 ? low / divisor : Wide(high, low, divisor);
    }

    /// <summary>Rounded up: the first tick of the other clock that is not before this count.</summary>
    public static ulong Ceiling(ulong count, ulong multiplier, ulong divisor)
    {
        ulong high = Math.BigMul(count, multiplier, out ulong low);
        ulong raised = low + (divisor - 1);
        high += raised < low ? 1UL : 0; // no overflow: the product's upper half is less than all ones
        return high == 0 ? raised / divisor : Wide(high, raised, divisor);
    }

    // Rare: times of hours.
    [MethodImpl(MethodImplOptions.NoInlining)]
    private static ulong Wide(ulong high, ulong low, ulong divisor) => high >= divisor ? ulong.MaxValue : (ulong)(new UInt128(high, low) / divisor);
}
