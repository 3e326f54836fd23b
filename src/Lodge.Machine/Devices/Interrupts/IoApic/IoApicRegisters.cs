namespace Lodge.Machine.Devices.Interrupts.IoApic;

/// <summary>Registers and bits of the I/O APIC (82093AA data sheet 290566-001, 3.0; EOI register: ICH9 data sheet, 13.5.5).</summary>
internal static class IoApicRegisters
{
    /// <summary>IOREGSEL: selects an indirect register.</summary>
    public const ulong IoRegSel = 0x00;

    /// <summary>IOWIN: the selected register.</summary>
    public const ulong IoWin = 0x10;

    /// <summary>EOIR: ends a level-triggered interrupt by vector (version 0x20 and later).</summary>
    public const ulong Eoi = 0x40;

    /// <summary>IOAPICID.</summary>
    public const byte Id = 0x00;

    /// <summary>IOAPICVER.</summary>
    public const byte VersionIndex = 0x01;

    /// <summary>IOAPICARB.</summary>
    public const byte Arbitration = 0x02;

    /// <summary>IOREDTBL0, low half; two registers for each input.</summary>
    public const byte RedirectionTable = 0x10;

    /// <summary>Bits 27:24 of IOAPICID and IOAPICARB.</summary>
    public const uint IdMask = 0x0F00_0000;

    /// <summary>Version 0x20: with the EOI register.</summary>
    public const uint VersionNumber = 0x20;

    /// <summary>Shift of the highest entry's number in IOAPICVER.</summary>
    public const int MaximumEntryShift = 16;

    /// <summary>INTVEC.</summary>
    public const ulong Vector = 0xFF;

    /// <summary>DELMOD.</summary>
    public const ulong DeliveryMode = 7UL << DeliveryModeShift;

    /// <summary>Place of DELMOD.</summary>
    public const int DeliveryModeShift = 8;

    /// <summary>DELMOD: fixed.</summary>
    public const uint Fixed = 0;

    /// <summary>DELMOD: lowest priority.</summary>
    public const uint LowestPriority = 1;

    /// <summary>DESTMOD: logical.</summary>
    public const ulong LogicalDestination = 1UL << 11;

    /// <summary>DELIVS, read-only: delivery is at once here, it always reads as idle.</summary>
    public const ulong DeliveryStatus = 1UL << 12;

    /// <summary>INTPOL. Kept for the guest; lines carry logical levels, the board being wired in the polarity that the firmware's tables say.</summary>
    public const ulong ActiveLow = 1UL << 13;

    /// <summary>Remote IRR, read-only: accepted and not yet ended.</summary>
    public const ulong RemoteIrr = 1UL << 14;

    /// <summary>Trigger mode: level.</summary>
    public const ulong Level = 1UL << 15;

    /// <summary>Interrupt mask.</summary>
    public const ulong Masked = 1UL << 16;

    /// <summary>Place of the destination field.</summary>
    public const int DestinationShift = 56;

    /// <summary>Bits that software writes.</summary>
    public const ulong Writable = Vector | DeliveryMode | LogicalDestination | ActiveLow | Level | Masked | (0xFFUL << DestinationShift);

    /// <summary>Message address of a local APIC (Intel SDM vol. 3, 11.11.1).</summary>
    public const ulong MessageAddress = 0xFEE0_0000;

    /// <summary>Place of the destination in a message address.</summary>
    public const int MessageDestinationShift = 12;

    /// <summary>Redirection hint in a message address.</summary>
    public const ulong MessageRedirectionHint = 1UL << 3;

    /// <summary>Logical destination mode in a message address.</summary>
    public const ulong MessageLogicalDestination = 1UL << 2;

    /// <summary>Level assert in message data.</summary>
    public const uint MessageAssert = 1U << 14;

    /// <summary>Level trigger in message data.</summary>
    public const uint MessageLevel = 1U << 15;
}
