using Lodge.Engine.State;
using static Lodge.Machine.Devices.Timers.Hpet.HpetRegisters;

namespace Lodge.Machine.Devices.Timers.Hpet;

/// <summary>Registers of one timer, live and saved.</summary>
internal sealed record HpetTimerState : ISavedState<HpetTimerState>
{
    /// <summary>Never matches.</summary>
    public const long Never = long.MaxValue;

    public static int Version => 1;

    /// <summary>The writable bits of the configuration.</summary>
    public ulong Configuration { get; set; }

    /// <summary>Comparator; of a periodic timer the accumulator.</summary>
    public ulong Comparator { get; set; } = ulong.MaxValue;

    /// <summary>What a periodic timer adds at each match: the value last written to the comparator.</summary>
    public ulong Period { get; set; }

    /// <summary>FSB route: data in the low half, address in the high half.</summary>
    public ulong FsbRoute { get; set; }

    /// <summary>Tick of machine time at which the comparator will match, or <see cref="Never"/>.</summary>
    public long MatchTick { get; set; } = Never;

    public void Write(StateWriter writer)
    {
        writer.UInt64(1, Configuration);
        writer.UInt64(2, Comparator);
        writer.UInt64(3, Period);
        writer.UInt64(4, FsbRoute);
        writer.UInt64(5, (ulong)MatchTick);
    }

    public static HpetTimerState Read(StateReader reader)
    {
        var state = new HpetTimerState
        {
            Configuration = reader.UInt64(1) & TimerWritable,
            Comparator = reader.UInt64(2, ulong.MaxValue),
            Period = reader.UInt64(3),
            FsbRoute = reader.UInt64(4),
            MatchTick = (long)reader.UInt64(5, Never, Never),
        };
        if ((state.Configuration & Timer32Bit) != 0)
        {
            state.Comparator &= uint.MaxValue;
            state.Period &= uint.MaxValue;
        }
        return state;
    }
}

/// <summary>Registers of the HPET, live and saved.</summary>
internal sealed class HpetState : ISavedState<HpetState>
{
    public static int Version => 1;

    /// <summary>GEN_CONF.</summary>
    public ulong Configuration { get; set; }

    /// <summary>GINTR_STA.</summary>
    public ulong InterruptStatus { get; set; }

    /// <summary>While halted, the main counter; while it counts, what to add to the ticks of machine time to get it.</summary>
    public ulong Counter { get; set; }

    /// <summary>The timers.</summary>
    public HpetTimerState[] Timer { get; private init; } = [new(), new(), new()];

    public void Write(StateWriter writer)
    {
        writer.UInt64(1, Configuration);
        writer.UInt64(2, InterruptStatus);
        writer.UInt64(3, Counter);
        foreach (HpetTimerState timer in Timer)
        {
            writer.Nested(4, timer);
        }
    }

    public static HpetState Read(StateReader reader)
    {
        IReadOnlyList<HpetTimerState> timers = reader.NestedList<HpetTimerState>(4, TimerCount);
        return timers.Count == TimerCount
            ? new HpetState
            {
                Configuration = reader.UInt64(1, 0, Enable | LegacyReplacement),
                InterruptStatus = reader.UInt64(2, 0, (1UL << TimerCount) - 1),
                Counter = reader.UInt64(3),
                Timer = [.. timers],
            }
            : throw new SavedStateException($"saved state of an HPET has {timers.Count} timers");
    }
}
