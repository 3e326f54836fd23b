namespace Lodge.Engine.Translation.Processor;

/// <summary>Bits of CR0 (Intel SDM vol. 3, 2.5).</summary>
internal static class Cr0Bits
{
    public const ulong Pe = 1, Mp = 2, Em = 4, Ts = 8, Et = 16, Ne = 32, Wp = 1 << 16, Am = 1 << 18, Nw = 1 << 29, Cd = 1 << 30, Pg = 1UL << 31;
    public const ulong All = Pe | Mp | Em | Ts | Et | Ne | Wp | Am | Nw | Cd | Pg;
}

/// <summary>Bits of CR4 (Intel SDM vol. 3, 2.5).</summary>
internal static class Cr4Bits
{
    public const ulong Vme = 1, Pvi = 2, Tsd = 4, De = 8, Pse = 16, Pae = 32, Mce = 64, Pge = 128, Pce = 256, Osfxsr = 512, Osxmmexcpt = 1024, Umip = 2048,
        FsGsBase = 1 << 16, Pcide = 1 << 17, Osxsave = 1 << 18, Smep = 1 << 20, Smap = 1 << 21, Pke = 1 << 22;
}

/// <summary>Bits of IA32_EFER (Intel SDM vol. 3, 2.2.1; AMD APM vol. 2, 3.1.7 for automatic IBRS).</summary>
internal static class EferBits
{
    public const ulong Sce = 1, Lme = 1 << 8, Lma = 1 << 10, Nxe = 1 << 11, AutomaticIbrs = 1 << 21;
}

/// <summary>What is held for one instruction (<see cref="ProcessorBlock.InterruptShadow"/>).</summary>
internal static class Shadow
{
    /// <summary>After STI: interrupts.</summary>
    public const uint Sti = 1;

    /// <summary>After MOV or POP to SS: interrupts and debug exceptions (Intel SDM vol. 3, 6.8.3).</summary>
    public const uint StackSegment = 2;
}

/// <summary>Bits of RFLAGS that the system chapters use.</summary>
internal static class FlagBits
{
    public const ulong Trap = 1 << 8, Interrupt = 1 << 9, Iopl = 3 << 12, NestedTask = 1 << 14, Resume = 1 << 16, Virtual8086 = 1 << 17, AlignmentCheck = 1 << 18,
        Direction = 1 << 10, VirtualInterrupt = 1 << 19, VirtualInterruptPending = 1 << 20, Identification = 1 << 21;

    /// <summary>CF PF AF ZF SF OF.</summary>
    public const ulong Arithmetic = 0x8D5;

    /// <summary>Every bit that is not reserved.</summary>
    public const ulong All = 0x3F7FD5;
}
