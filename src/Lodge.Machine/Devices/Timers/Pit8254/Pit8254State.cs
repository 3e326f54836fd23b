using Lodge.Engine.State;
using static Lodge.Machine.Devices.Timers.Pit8254.Pit8254Registers;

namespace Lodge.Machine.Devices.Timers.Pit8254;

/// <summary>
/// Registers of one counter, live and saved. Ticks are periods of the input clock since machine time 0, so that a restored counter goes on
/// where machine time does.
/// </summary>
internal sealed record Pit8254CounterState : ISavedState<Pit8254CounterState>
{
    /// <summary>The greatest tick that a saved state may hold; leaves room for arithmetic.</summary>
    private const long MaximumTick = 1L << 60;

    private const int MaximumCount = 0x1_0000;

    public static int Version => 1;

    /// <summary>M2-M0, 0 to 5.</summary>
    public byte Mode { get; set; }

    /// <summary>RW1, RW0: 1 to 3.</summary>
    public byte Access { get; set; } = AccessLowHigh;

    /// <summary>Counts in BCD.</summary>
    public bool Bcd { get; set; }

    /// <summary>Level of GATE.</summary>
    public bool Gate { get; set; }

    /// <summary>The next store is the most significant byte of two.</summary>
    public bool WriteHighNext { get; set; }

    /// <summary>The least significant byte already stored.</summary>
    public byte WrittenLow { get; set; }

    /// <summary>The next load is the most significant byte of two.</summary>
    public bool ReadHighNext { get; set; }

    /// <summary>OL holds a latched count.</summary>
    public bool CountLatched { get; set; }

    /// <summary>OL.</summary>
    public ushort LatchedCount { get; set; }

    /// <summary>A latched status byte waits to be read.</summary>
    public bool StatusLatched { get; set; }

    /// <summary>The latched status byte.</summary>
    public byte LatchedStatus { get; set; }

    /// <summary>Count in force, 1 to 65536; 0 before the first one after a control word.</summary>
    public int Count { get; set; }

    /// <summary>Count that was written but not yet loaded; 0 when none.</summary>
    public int Pending { get; set; }

    /// <summary>Tick at which a pending count is loaded (modes 2 and 3).</summary>
    public long PendingTick { get; set; }

    /// <summary>The counting element was loaded from <see cref="Count"/>.</summary>
    public bool Loaded { get; set; }

    /// <summary>Tick at which it was loaded.</summary>
    public long LoadTick { get; set; }

    /// <summary>GATE holds it.</summary>
    public bool Paused { get; set; }

    /// <summary>Ticks counted when it was held.</summary>
    public long PausedElapsed { get; set; }

    /// <summary>What the counting element shows while not loaded.</summary>
    public ushort Idle { get; set; }

    /// <summary>Tick up to which rising edges of OUT have been reported.</summary>
    public long LastTick { get; set; }

    public void Write(StateWriter writer)
    {
        writer.UInt64(1, Mode);
        writer.UInt64(2, Access);
        writer.Bool(3, Bcd);
        writer.Bool(4, Gate);
        writer.Bool(5, WriteHighNext);
        writer.UInt64(6, WrittenLow);
        writer.Bool(7, ReadHighNext);
        writer.Bool(8, CountLatched);
        writer.UInt64(9, LatchedCount);
        writer.Bool(10, StatusLatched);
        writer.UInt64(11, LatchedStatus);
        writer.UInt64(12, (ulong)Count);
        writer.UInt64(13, (ulong)Pending);
        writer.UInt64(14, (ulong)PendingTick);
        writer.Bool(15, Loaded);
        writer.UInt64(16, (ulong)LoadTick);
        writer.Bool(17, Paused);
        writer.UInt64(18, (ulong)PausedElapsed);
        writer.UInt64(19, Idle);
        writer.UInt64(20, (ulong)LastTick);
    }

    public static Pit8254CounterState Read(StateReader reader)
    {
        var state = new Pit8254CounterState
        {
            Mode = reader.UInt8(1, 0, 5),
            Access = reader.UInt8(2, AccessLowHigh, AccessLowHigh),
            Bcd = reader.Bool(3),
            Gate = reader.Bool(4),
            WriteHighNext = reader.Bool(5),
            WrittenLow = reader.UInt8(6),
            ReadHighNext = reader.Bool(7),
            CountLatched = reader.Bool(8),
            LatchedCount = reader.UInt16(9),
            StatusLatched = reader.Bool(10),
            LatchedStatus = reader.UInt8(11),
            Count = reader.Int32(12, 0, MaximumCount),
            Pending = reader.Int32(13, 0, MaximumCount),
            PendingTick = Tick(reader, 14),
            Loaded = reader.Bool(15),
            LoadTick = Tick(reader, 16),
            Paused = reader.Bool(17),
            PausedElapsed = Tick(reader, 18),
            Idle = reader.UInt16(19),
            LastTick = Tick(reader, 20),
        };
        if (state.Access == AccessLatch || (state.Loaded && state.Count == 0))
        {
            throw new SavedStateException("saved state of an 8254 counter contradicts itself");
        }
        return state;
    }

    private static long Tick(StateReader reader, int field) => (long)reader.UInt64(field, 0, MaximumTick);
}

/// <summary>Saved state of the 8254.</summary>
internal sealed class Pit8254State : ISavedState<Pit8254State>
{
    /// <summary>Number of counters.</summary>
    public const int Counters = 3;

    public static int Version => 1;

    /// <summary>The counters in order.</summary>
    public IReadOnlyList<Pit8254CounterState> Counter { get; init; } = [];

    /// <summary>Port 61h as written.</summary>
    public byte StatusPort { get; init; }

    public void Write(StateWriter writer)
    {
        foreach (Pit8254CounterState counter in Counter)
        {
            writer.Nested(1, counter);
        }
        writer.UInt64(2, StatusPort);
    }

    public static Pit8254State Read(StateReader reader)
    {
        IReadOnlyList<Pit8254CounterState> counters = reader.NestedList<Pit8254CounterState>(1, Counters);
        return counters.Count == Counters
            ? new Pit8254State { Counter = counters, StatusPort = reader.UInt8(2, 0, StatusPortWritable) }
            : throw new SavedStateException($"saved state of an 8254 has {counters.Count} counters");
    }
}
