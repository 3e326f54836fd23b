namespace Lodge.Engine.Translation.Interrupts;

/// <summary>Offsets of the local APIC's registers in its page; in x2APIC mode MSR 0x800 + offset / 16 (Intel SDM vol. 3, tables 11-1 and 11-6).</summary>
internal static class ApicRegister
{
    public const uint Id = 0x20, Version = 0x30, TaskPriority = 0x80, ArbitrationPriority = 0x90, ProcessorPriority = 0xA0, EndOfInterrupt = 0xB0, RemoteRead = 0xC0;
    public const uint LogicalDestination = 0xD0, DestinationFormat = 0xE0, SpuriousInterrupt = 0xF0, InService = 0x100, TriggerMode = 0x180, InterruptRequest = 0x200;
    public const uint ErrorStatus = 0x280, InterruptCommandLow = 0x300, InterruptCommandHigh = 0x310, InitialCount = 0x380, CurrentCount = 0x390, DivideConfiguration = 0x3E0;

    /// <summary>x2APIC mode only.</summary>
    public const uint SelfIpi = 0x3F0;

    /// <summary>First of the local vector table's entries, in the order of <see cref="Lvt"/>.</summary>
    public const uint LocalVectorTable = 0x320;
}

/// <summary>Entries of the local vector table, in the order of their registers.</summary>
internal static class Lvt
{
    public const int Timer = 0, Thermal = 1, PerformanceCounter = 2, Lint0 = 3, Lint1 = 4, Error = 5, Count = 6;

    public const uint Vector = 0xFF, DeliveryMode = 0x700, LevelTriggered = 1 << 15, Masked = 1 << 16, TimerMode = 3 << 17;

    /// <summary>Writable bits of an entry (figure 11-8).</summary>
    public static uint Writable(int entry) => entry switch
    {
        Timer => Vector | Masked | TimerMode,
        Error => Vector | Masked,
        Lint0 or Lint1 => Vector | DeliveryMode | (1 << 13) | LevelTriggered | Masked,
        _ => Vector | DeliveryMode | Masked,
    };
}

/// <summary>Delivery modes of interrupt messages (11.6.1, 11.11.2).</summary>
internal enum DeliveryMode : uint
{
    Fixed = 0,
    LowestPriority = 1,
    SystemManagement = 2,
    Nmi = 4,
    Init = 5,
    StartUp = 6,
    External = 7,
}

/// <summary>Bits of the error status register (11.5.3).</summary>
[Flags]
internal enum ApicErrors : uint
{
    None = 0,
    SendIllegalVector = 1 << 5,
    ReceiveIllegalVector = 1 << 6,
    IllegalRegister = 1 << 7,
}

/// <summary>An interrupt message on its way to one or more local APICs.</summary>
/// <param name="Destination">APIC ID, or set of logical IDs.</param>
/// <param name="Logical">Destination mode.</param>
/// <param name="Mode">Delivery mode.</param>
/// <param name="Vector">Vector; start-up page for SIPI.</param>
/// <param name="Level">Level-triggered.</param>
internal readonly record struct InterruptMessage(uint Destination, bool Logical, DeliveryMode Mode, byte Vector, bool Level);

/// <summary>MSRs of the local APIC.</summary>
internal static class ApicMsr
{
    public const uint Base = 0x1B, TscDeadline = 0x6E0, X2ApicFirst = 0x800, X2ApicLast = 0x8FF;

    /// <summary>Bits of IA32_APIC_BASE.</summary>
    public const ulong Bootstrap = 1 << 8, X2Apic = 1 << 10, GlobalEnable = 1 << 11;

    /// <summary>Where the register page lies after reset.</summary>
    public const ulong DefaultAddress = 0xFEE0_0000;
}
