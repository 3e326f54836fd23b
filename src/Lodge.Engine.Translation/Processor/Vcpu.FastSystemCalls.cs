namespace Lodge.Engine.Translation.Processor;

// SYSCALL, SYSRET, SYSENTER, SYSEXIT (Intel SDM vol. 2; vol. 3, 5.8.7). The good paths neither throw nor allocate: translated code calls them.
internal sealed unsafe partial class Vcpu
{
    internal const uint FlatData = 0xC093, FlatCode64 = 0xA09B, UserDpl = 0x60;
    private const uint FlatCode32 = 0xC09B;

    /// <summary>
    /// SYSCALL with the address of the following instruction; continues at <c>NextRip</c>.
    /// </summary>
    /// <exception cref="GuestFault">#UD: not enabled; on an Intel model not 64-bit code.</exception>
    internal void EnterSyscall(ulong returnRip)
    {
        _trapFlagCountsAfter = true;
        bool code64 = Code64;
        if ((B->Efer & 1) == 0 || (!code64 && !(Model.IsAmd && ProtectedMode)))
        {
            GuestFault.InvalidOpcode();
        }
        ulong flags = Rflags & ~FlagBits.Resume;
        B->Gpr[1] = returnRip;
        ulong target;
        uint code = FlatCode64;
        if (LongModeActive)
        {
            B->Gpr[11] = flags;
            flags &= ~B->SyscallMask;
            target = code64 ? B->Lstar : B->Cstar;
        }
        else
        {
            flags &= ~(FlagBits.Interrupt | FlagBits.Virtual8086);
            target = (uint)B->Star;
            code = FlatCode32;
        }
        Rflags = flags;
        ushort selector = (ushort)((B->Star >> 32) & 0xFFFC);
        SetFlat(Seg.Cs, selector, code);
        SetFlat(Seg.Ss, (ushort)(selector + 8), FlatData);
        B->Cpl = 0;
        B->NextRip = target;
        UpdateMode();
    }

    /// <summary>SYSRET; <paramref name="wide"/>: with REX.W, to 64-bit code. Continues at <c>NextRip</c>.</summary>
    /// <exception cref="GuestFault">#UD: not enabled; #GP(0): CPL not 0, or RCX not canonical (in CPL 0, as Intel's processors do).</exception>
    internal void LeaveSyscall(bool wide)
    {
        if ((B->Efer & 1) == 0 || (!Code64 && !(Model.IsAmd && ProtectedMode)))
        {
            GuestFault.InvalidOpcode();
        }
        if (B->Cpl != 0 || (wide && !CanonicalAddress(B->Gpr[1])))
        {
            GuestFault.GeneralProtection();
        }
        Rflags = LongModeActive ? (B->Gpr[11] & 0x3C7FD7) | 2 : Rflags | FlagBits.Interrupt;
        ushort selector = (ushort)(B->Star >> 48);
        SetFlat(Seg.Cs, (ushort)((wide ? selector + 16 : selector) | 3), (wide ? FlatCode64 : FlatCode32) | UserDpl);
        SetFlat(Seg.Ss, (ushort)((selector + 8) | 3), FlatData | UserDpl);
        B->Cpl = 3;
        B->NextRip = wide ? B->Gpr[1] : (uint)B->Gpr[1];
        UpdateMode();
    }

    // What generated code may do alone: SYSCALL from 64-bit code of CPL 3, which clears TF and AC, and SYSRETQ from CPL 0.
    private uint ModeOfSystemCall(uint mode)
    {
        const ulong TrapAndAlignment = FlagBits.Trap | FlagBits.AlignmentCheck;
        if ((mode & ModeBits.Code64) == 0 || (mode & ModeBits.Interpret) != 0 || (B->Efer & EferBits.Sce) == 0 || (B->SyscallMask & TrapAndAlignment) != TrapAndAlignment)
        {
            return 0;
        }
        return B->Cpl switch
        {
            3 => (mode & ~(ModeBits.User | ModeBits.NoTsc)) | ModeBits.Supervisor,
            0 => (mode & ~(3 | ModeBits.Supervisor)) | ModeBits.User | ((B->Cr4 & Cr4Bits.Tsd) != 0 ? ModeBits.NoTsc : 0),
            _ => 0,
        };
    }

    /// <summary>SYSENTER; continues at <c>NextRip</c>.</summary>
    /// <exception cref="GuestFault">#GP(0): real mode or IA32_SYSENTER_CS is null; #UD on an AMD model in long mode.</exception>
    internal void EnterSysenter()
    {
        _trapFlagCountsAfter = true;
        RefuseSysenterInLongModeOfAmd();
        if (!ProtectedMode || (B->SysenterCs & 0xFFFC) == 0)
        {
            GuestFault.GeneralProtection();
        }
        bool wide = LongModeActive;
        Rflags &= ~(FlagBits.Virtual8086 | FlagBits.Interrupt | FlagBits.Resume);
        ushort selector = (ushort)(B->SysenterCs & 0xFFFC);
        SetFlat(Seg.Cs, selector, wide ? FlatCode64 : FlatCode32);
        SetFlat(Seg.Ss, (ushort)(selector + 8), FlatData);
        B->Cpl = 0;
        B->Gpr[4] = wide ? B->SysenterEsp : (uint)B->SysenterEsp;
        B->NextRip = wide ? B->SysenterEip : (uint)B->SysenterEip;
        UpdateMode();
    }

    /// <summary>SYSEXIT; <paramref name="wide"/>: with REX.W, to 64-bit code. Continues at <c>NextRip</c>.</summary>
    /// <exception cref="GuestFault">#GP(0): real mode, CPL not 0, IA32_SYSENTER_CS null, RCX or RDX not canonical; #UD on an AMD model in long mode.</exception>
    internal void LeaveSysenter(bool wide)
    {
        RefuseSysenterInLongModeOfAmd();
        if (!ProtectedMode || B->Cpl != 0 || (B->SysenterCs & 0xFFFC) == 0 || (wide && (!CanonicalAddress(B->Gpr[1]) || !CanonicalAddress(B->Gpr[2]))))
        {
            GuestFault.GeneralProtection();
        }
        ushort selector = (ushort)(((B->SysenterCs & 0xFFFC) + (wide ? 32u : 16u)) | 3);
        SetFlat(Seg.Cs, selector, (wide ? FlatCode64 : FlatCode32) | UserDpl);
        SetFlat(Seg.Ss, (ushort)(selector + 8), FlatData | UserDpl);
        B->Cpl = 3;
        B->Gpr[4] = wide ? B->Gpr[1] : (uint)B->Gpr[1];
        B->NextRip = wide ? B->Gpr[2] : (uint)B->Gpr[2];
        UpdateMode();
    }

    // AMD APM vol. 3: SYSENTER and SYSEXIT are invalid in long mode.
    private void RefuseSysenterInLongModeOfAmd()
    {
        if (Model.IsAmd && LongModeActive)
        {
            GuestFault.InvalidOpcode();
        }
    }

    private void SetFlat(int segment, ushort selector, uint attributes)
    {
        Segment* s = Segment(segment);
        s->Base = 0;
        s->Limit = uint.MaxValue;
        s->Attributes = attributes;
        s->Selector = selector;
    }
}
