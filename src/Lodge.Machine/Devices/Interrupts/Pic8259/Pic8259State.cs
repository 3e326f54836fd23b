using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Interrupts.Pic8259;

/// <summary>What the next byte at A0 = 1 is.</summary>
internal enum Pic8259Expectation : byte
{
    /// <summary>OCW1: the mask.</summary>
    Ocw,

    /// <summary>ICW2: the vector base.</summary>
    Icw2,

    /// <summary>ICW3: the cascade.</summary>
    Icw3,

    /// <summary>ICW4: modes.</summary>
    Icw4,
}

/// <summary>Registers of one 8259A, live and saved. The data sheet leaves them undefined at power-on; everything masked is the quiet choice.</summary>
internal sealed record Pic8259ChipState : ISavedState<Pic8259ChipState>
{
    public static int Version => 1;

    /// <summary>Levels of the inputs.</summary>
    public byte Inputs { get; set; }

    /// <summary>Rising edges not yet acknowledged.</summary>
    public byte EdgeLatch { get; set; }

    /// <summary>IMR.</summary>
    public byte Mask { get; set; } = 0xFF;

    /// <summary>ISR.</summary>
    public byte InService { get; set; }

    /// <summary>Inputs that are level-triggered.</summary>
    public byte Elcr { get; set; }

    /// <summary>ICW2.</summary>
    public byte VectorBase { get; set; }

    /// <summary>Input with the lowest priority; the next one has the highest.</summary>
    public byte LowestPriority { get; set; } = 7;

    /// <summary>Place in the initialization sequence.</summary>
    public Pic8259Expectation Next { get; set; }

    /// <summary>ICW1 IC4.</summary>
    public bool Icw4Needed { get; set; }

    /// <summary>ICW1 SNGL.</summary>
    public bool Single { get; set; }

    /// <summary>ICW4 AEOI.</summary>
    public bool AutomaticEoi { get; set; }

    /// <summary>Rotation in automatic EOI mode.</summary>
    public bool RotateInAutomaticEoi { get; set; }

    /// <summary>ICW4 SFNM.</summary>
    public bool SpecialFullyNested { get; set; }

    /// <summary>Special mask mode.</summary>
    public bool SpecialMask { get; set; }

    /// <summary>A read at A0 = 0 gives ISR, not IRR.</summary>
    public bool ReadInService { get; set; }

    /// <summary>The next read is a poll.</summary>
    public bool Poll { get; set; }

    public void Write(StateWriter writer)
    {
        writer.UInt64(1, Inputs);
        writer.UInt64(2, EdgeLatch);
        writer.UInt64(3, Mask);
        writer.UInt64(4, InService);
        writer.UInt64(5, Elcr);
        writer.UInt64(6, VectorBase);
        writer.UInt64(7, LowestPriority);
        writer.UInt64(8, (ulong)Next);
        writer.Bool(9, Icw4Needed);
        writer.Bool(10, Single);
        writer.Bool(11, AutomaticEoi);
        writer.Bool(12, RotateInAutomaticEoi);
        writer.Bool(13, SpecialFullyNested);
        writer.Bool(14, SpecialMask);
        writer.Bool(15, ReadInService);
        writer.Bool(16, Poll);
    }

    public static Pic8259ChipState Read(StateReader reader) => new()
    {
        Inputs = reader.UInt8(1),
        EdgeLatch = reader.UInt8(2),
        Mask = reader.UInt8(3, 0xFF),
        InService = reader.UInt8(4),
        Elcr = reader.UInt8(5),
        VectorBase = (byte)(reader.UInt8(6) & Pic8259Registers.Icw2Vector),
        LowestPriority = reader.UInt8(7, 7, 7),
        Next = (Pic8259Expectation)reader.UInt8(8, 0, (byte)Pic8259Expectation.Icw4),
        Icw4Needed = reader.Bool(9),
        Single = reader.Bool(10),
        AutomaticEoi = reader.Bool(11),
        RotateInAutomaticEoi = reader.Bool(12),
        SpecialFullyNested = reader.Bool(13),
        SpecialMask = reader.Bool(14),
        ReadInService = reader.Bool(15),
        Poll = reader.Bool(16),
    };
}

/// <summary>Saved state of the 8259 pair.</summary>
internal sealed record Pic8259State(Pic8259ChipState Master, Pic8259ChipState Slave) : ISavedState<Pic8259State>
{
    public static int Version => 1;

    public void Write(StateWriter writer)
    {
        writer.Nested(1, Master);
        writer.Nested(2, Slave);
    }

    public static Pic8259State Read(StateReader reader) =>
        new(reader.Nested(1, new Pic8259ChipState()), reader.Nested(2, new Pic8259ChipState()));
}
