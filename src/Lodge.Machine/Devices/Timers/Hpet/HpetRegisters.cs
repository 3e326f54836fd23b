namespace Lodge.Machine.Devices.Timers.Hpet;

/// <summary>Registers and bits of the HPET (IA-PC HPET specification 1.0a, 2.3).</summary>
internal static class HpetRegisters
{
    /// <summary>Number of timers.</summary>
    public const int TimerCount = 3;

    /// <summary>Nanoseconds in a period of the main counter (100 MHz).</summary>
    public const long Period = 10;

    /// <summary>Bytes of registers.</summary>
    public const ulong Length = MemoryMap.HpetLength;

    /// <summary>General Capabilities and ID Register (GCAP_ID).</summary>
    public const ulong Capabilities = 0x000;

    /// <summary>General Configuration Register (GEN_CONF).</summary>
    public const ulong Configuration = 0x010;

    /// <summary>General Interrupt Status Register (GINTR_STA).</summary>
    public const ulong InterruptStatus = 0x020;

    /// <summary>Main Counter Value Register (MAIN_CNT).</summary>
    public const ulong MainCounter = 0x0F0;

    /// <summary>First timer's registers.</summary>
    public const ulong FirstTimer = 0x100;

    /// <summary>Bytes from one timer's registers to the next one's.</summary>
    public const ulong TimerStride = 0x20;

    /// <summary>Timer N Configuration and Capability Register, from the timer's base.</summary>
    public const ulong TimerConfiguration = 0x00;

    /// <summary>Timer N Comparator Value Register.</summary>
    public const ulong TimerComparator = 0x08;

    /// <summary>Timer N FSB Interrupt Route Register: message data, then address.</summary>
    public const ulong TimerFsbRoute = 0x10;

    /// <summary>
    /// GCAP_ID: COUNTER_CLK_PERIOD in femtoseconds, VENDOR_ID 8086h, LEG_RT_CAP, COUNT_SIZE_CAP, NUM_TIM_CAP, REV_ID 1.
    /// </summary>
    public const ulong CapabilitiesValue =
        ((ulong)Period * 1_000_000 << 32) | (0x8086UL << 16) | (1UL << 15) | (1UL << 13) | ((TimerCount - 1UL) << 8) | 1;

    /// <summary>GEN_CONF ENABLE_CNF.</summary>
    public const ulong Enable = 1;

    /// <summary>GEN_CONF LEG_RT_CNF.</summary>
    public const ulong LegacyReplacement = 2;

    /// <summary>Tn_INT_TYPE_CNF: level.</summary>
    public const ulong TimerLevel = 1 << 1;

    /// <summary>Tn_INT_ENB_CNF.</summary>
    public const ulong TimerInterruptEnable = 1 << 2;

    /// <summary>Tn_TYPE_CNF: periodic.</summary>
    public const ulong TimerPeriodic = 1 << 3;

    /// <summary>Tn_PER_INT_CAP, read-only.</summary>
    public const ulong TimerPeriodicCapable = 1 << 4;

    /// <summary>Tn_SIZE_CAP, read-only: 64 bits.</summary>
    public const ulong TimerSizeCapable = 1 << 5;

    /// <summary>Tn_VAL_SET_CNF: the next store to the comparator of a periodic timer sets its accumulator. Reads as 0.</summary>
    public const ulong TimerValueSet = 1 << 6;

    /// <summary>Tn_32MODE_CNF.</summary>
    public const ulong Timer32Bit = 1 << 8;

    /// <summary>Place of Tn_INT_ROUTE_CNF.</summary>
    public const int TimerRouteShift = 9;

    /// <summary>Tn_INT_ROUTE_CNF.</summary>
    public const ulong TimerRoute = 0x1FUL << TimerRouteShift;

    /// <summary>Tn_FSB_EN_CNF.</summary>
    public const ulong TimerFsbEnable = 1 << 14;

    /// <summary>Tn_FSB_INT_DEL_CAP, read-only.</summary>
    public const ulong TimerFsbCapable = 1 << 15;

    /// <summary>Place of Tn_INT_ROUTE_CAP.</summary>
    public const int TimerRouteCapabilityShift = 32;

    /// <summary>Timer configuration bits that are kept as written.</summary>
    public const ulong TimerWritable = TimerLevel | TimerInterruptEnable | TimerPeriodic | TimerValueSet | Timer32Bit | TimerRoute | TimerFsbEnable;

    /// <summary>Where a message must go to be an interrupt (Intel SDM vol. 3, 11.11.1); others are dropped, never stored to RAM.</summary>
    public const ulong MessageAddress = 0xFEE0_0000;

    /// <summary>Bits that make an address one of those.</summary>
    public const ulong MessageAddressMask = 0xFFF0_0000;
}
