namespace Lodge.Machine.Devices.Interrupts.Pic8259;

/// <summary>Ports and bits of the 8259A (Intel data sheet 231468-003) and of the edge/level control registers (82371SB data sheet, 2.5.5).</summary>
internal static class Pic8259Registers
{
    /// <summary>First of the master's two ports.</summary>
    public const ushort MasterPort = 0x20;

    /// <summary>First of the slave's two ports.</summary>
    public const ushort SlavePort = 0xA0;

    /// <summary>ELCR1 (master) and ELCR2 (slave).</summary>
    public const ushort ElcrPort = 0x4D0;

    /// <summary>ICW1 instead of an OCW, at A0 = 0.</summary>
    public const byte Icw1 = 0x10;

    /// <summary>ICW1 IC4: ICW4 follows.</summary>
    public const byte Icw1Ic4 = 0x01;

    /// <summary>ICW1 SNGL: no cascade, no ICW3.</summary>
    public const byte Icw1Single = 0x02;

    /// <summary>ICW2: the part of the vector that is programmed.</summary>
    public const byte Icw2Vector = 0xF8;

    /// <summary>ICW4 AEOI.</summary>
    public const byte Icw4AutomaticEoi = 0x02;

    /// <summary>ICW4 SFNM: special fully nested mode.</summary>
    public const byte Icw4SpecialFullyNested = 0x10;

    /// <summary>OCW3 instead of OCW2, at A0 = 0.</summary>
    public const byte Ocw3 = 0x08;

    /// <summary>OCW2 L2-L0.</summary>
    public const byte Ocw2Level = 0x07;

    /// <summary>OCW2 R, SL and EOI.</summary>
    public const byte Ocw2Command = 0xE0;

    /// <summary>OCW2: rotate in automatic EOI mode (clear).</summary>
    public const byte Ocw2RotateInAeoiClear = 0x00;

    /// <summary>OCW2: non-specific EOI.</summary>
    public const byte Ocw2NonSpecificEoi = 0x20;

    /// <summary>OCW2: specific EOI.</summary>
    public const byte Ocw2SpecificEoi = 0x60;

    /// <summary>OCW2: rotate in automatic EOI mode (set).</summary>
    public const byte Ocw2RotateInAeoiSet = 0x80;

    /// <summary>OCW2: rotate on non-specific EOI.</summary>
    public const byte Ocw2RotateOnNonSpecificEoi = 0xA0;

    /// <summary>OCW2: set priority.</summary>
    public const byte Ocw2SetPriority = 0xC0;

    /// <summary>OCW2: rotate on specific EOI.</summary>
    public const byte Ocw2RotateOnSpecificEoi = 0xE0;

    /// <summary>OCW3 RIS: IS register on the next reads (with RR).</summary>
    public const byte Ocw3ReadIsr = 0x01;

    /// <summary>OCW3 RR: read register command.</summary>
    public const byte Ocw3ReadRegister = 0x02;

    /// <summary>OCW3 P: poll command.</summary>
    public const byte Ocw3Poll = 0x04;

    /// <summary>OCW3 SMM: special mask mode (with ESMM).</summary>
    public const byte Ocw3SpecialMask = 0x20;

    /// <summary>OCW3 ESMM.</summary>
    public const byte Ocw3EnableSpecialMask = 0x40;

    /// <summary>Poll byte: an interrupt is there.</summary>
    public const byte PollInterrupt = 0x80;

    /// <summary>ELCR1 bits that exist: IRQ 0, 1 and 2 are always edge-triggered.</summary>
    public const byte Elcr1Mask = 0xF8;

    /// <summary>ELCR2 bits that exist: IRQ 8 and 13 are always edge-triggered.</summary>
    public const byte Elcr2Mask = 0xDE;

    /// <summary>Input of the master to which the slave is wired.</summary>
    public const int CascadeInput = 2;

    /// <summary>Input that a spurious interrupt reports.</summary>
    public const int SpuriousInput = 7;
}
