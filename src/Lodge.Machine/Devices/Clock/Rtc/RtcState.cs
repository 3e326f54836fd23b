using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Clock.Rtc;

/// <summary>Saved state of the <see cref="Rtc"/>. Time goes on with the host's clock while a machine is saved.</summary>
public sealed record RtcState : ISavedState<RtcState>
{
    /// <summary>The 128 bytes, registers A and B among them; the time bytes count while <see cref="OffsetTicks"/> is frozen by the SET bit.</summary>
    public byte[] Cmos { get; init; } = new byte[RtcRegister.Size];

    /// <summary>Guest time less host time, in 100 ns units.</summary>
    public long OffsetTicks { get; init; }

    /// <summary>Guest time at which the clock was halted, in 100 ns units since year 1; 0 when it runs.</summary>
    public long HaltedTicks { get; init; }

    /// <summary>Selected byte and NMI mask (bit 7).</summary>
    public byte Index { get; init; }

    /// <summary>Register C.</summary>
    public byte Flags { get; init; }

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.Bytes(1, Cmos);
        writer.Int64(2, OffsetTicks);
        writer.Int64(3, HaltedTicks);
        writer.UInt64(4, Index);
        writer.UInt64(5, Flags);
    }

    /// <inheritdoc/>
    public static RtcState Read(StateReader reader)
    {
        byte[] cmos = reader.Bytes(1, RtcRegister.Size);
        return cmos.Length != RtcRegister.Size
            ? throw new SavedStateException($"CMOS has {cmos.Length} bytes, expected {RtcRegister.Size}")
            : new RtcState
            {
                Cmos = cmos,
                OffsetTicks = reader.Int64(2),
                HaltedTicks = (long)reader.UInt64(3, 0, (ulong)DateTime.MaxValue.Ticks),
                Index = reader.UInt8(4),
                Flags = reader.UInt8(5),
            };
    }
}
