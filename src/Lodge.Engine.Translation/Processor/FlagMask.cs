namespace Lodge.Engine.Translation.Processor;

/// <summary>Bits of RFLAGS (Intel SDM vol. 1, 3.4.3).</summary>
internal static class FlagMask
{
    public const ulong Trap = 1 << 8, Interrupt = 1 << 9, Direction = 1 << 10, Iopl = 3 << 12, NestedTask = 1 << 14, Resume = 1 << 16, Virtual8086 = 1 << 17,
        AlignmentCheck = 1 << 18, VirtualInterrupt = 1 << 19, VirtualInterruptPending = 1 << 20, Identification = 1 << 21;

    /// <summary>CF PF AF ZF SF OF.</summary>
    public const ulong Arithmetic = 0x8D5;

    /// <summary>Every bit that is not reserved.</summary>
    public const ulong All = 0x3F7FD5;
}
