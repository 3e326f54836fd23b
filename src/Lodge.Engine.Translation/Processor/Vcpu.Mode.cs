using Lodge.Engine.Processor;

namespace Lodge.Engine.Translation.Processor;

/// <summary>Bits of <see cref="ProcessorBlock.Mode"/> above the TLB mode (bits 0-1).</summary>
internal static class ModeBits
{
    /// <summary>CPL 3.</summary>
    public const uint User = 1;

    /// <summary>64-bit code.</summary>
    public const uint Code64 = 1 << 2;

    /// <summary>x87 and MMX raise #NM or #UD (CR0.EM, CR0.TS).</summary>
    public const uint NoX87 = 1 << 3;

    /// <summary>SSE raises #UD or #NM.</summary>
    public const uint NoSse = 1 << 4;

    /// <summary>AVX raises #UD or #NM.</summary>
    public const uint NoAvx = 1 << 5;

    /// <summary>Only one instruction at a time by C#: real mode, virtual 8086, 16-bit code, segments that are not flat, single step, the guest's debug registers, alignment checks.</summary>
    public const uint Interpret = 1 << 6;

    /// <summary>CPL 0 (privileged instructions that T1 emits).</summary>
    public const uint Supervisor = 1 << 7;

    /// <summary>RDTSC raises #GP (CR4.TSD outside CPL 0).</summary>
    public const uint NoTsc = 1 << 8;

    /// <summary>Only in the key of a block: translated without shared access checks.</summary>
    public const uint Careful = 1 << 9;
}

internal sealed unsafe partial class Vcpu
{
    /// <summary>Recomputes the mode key after any change of segment attributes or bases, CPL, CR0, CR4, EFER, XCR0, EFLAGS.VM/AC/TF, DR7, IA32_FMASK.</summary>
    internal void UpdateMode()
    {
        ulong cr0 = B->Cr0, cr4 = B->Cr4;
        bool protectedMode = (cr0 & 1) != 0;
        uint cpl = !protectedMode ? 0 : Virtual8086 ? 3 : (uint)Segment(Seg.Ss)->Dpl;
        if (protectedMode && !Virtual8086)
        {
            cpl = B->Cpl;
        }
        else
        {
            B->Cpl = cpl;
        }
        uint mode = cpl == 3 ? 1u : (cr4 & (1UL << 21)) != 0 && (B->SystemFlags & (1UL << 18)) != 0 ? 2u : 0u;
        mode |= cpl == 0 ? ModeBits.Supervisor : 0;
        bool code64 = Code64;
        mode |= code64 ? ModeBits.Code64 : 0;
        bool taskSwitched = (cr0 & 8) != 0, emulate = (cr0 & 4) != 0;
        mode |= taskSwitched || emulate ? ModeBits.NoX87 : 0;
        bool noSse = taskSwitched || emulate || (cr4 & (1UL << 9)) == 0;
        mode |= noSse ? ModeBits.NoSse : 0;
        mode |= noSse || (cr4 & (1UL << 18)) == 0 || (B->Xcr0 & 6) != 6 ? ModeBits.NoAvx : 0;
        mode |= cpl != 0 && (cr4 & 4) != 0 ? ModeBits.NoTsc : 0;
        bool interpret = (B->SystemFlags & (1UL << 8)) != 0 || (B->Dr7 & 0xFF) != 0 || _debugInterpret || _forceInterpret;
        _checksAlignment = cpl == 3 && (cr0 & Cr0Bits.Am) != 0 && (B->SystemFlags & FlagBits.AlignmentCheck) != 0;
        interpret |= _checksAlignment;
        if (!code64)
        {
            interpret |= !protectedMode || Virtual8086 || !Segment(Seg.Cs)->Default32 || !Flat(Seg.Cs) || !Flat(Seg.Ds) || !Flat(Seg.Es) || !Flat(Seg.Ss) || !Segment(Seg.Ss)->Default32;
        }
        mode |= interpret ? ModeBits.Interpret : 0;
        uint changed = mode ^ B->Mode;
        B->Mode = mode;
        B->SystemCallMode = ModeOfSystemCall(mode);
        if ((changed & (ModeBits.NoX87 | ModeBits.NoSse | ModeBits.NoAvx)) != 0)
        {
            ClearJumpCache();
        }
        ComputeJumpKeys();
    }

    /// <summary>A segment that can be ignored: base 0, limit 4 GiB, present, readable, writable unless code, expand-up.</summary>
    private bool Flat(int index)
    {
        Segment* s = Segment(index);
        if (s->Base != 0 || s->Limit != uint.MaxValue || s->Unusable || !s->Present)
        {
            return false;
        }
        int type = s->Type;
        return index == Seg.Cs || (type & 0xE) == 2;
    }

    private bool _checksAlignment; // CR0.AM, EFLAGS.AC and CPL 3
    private bool _debugInterpret;
    private bool _forceInterpret;

    /// <summary>Everything is executed one instruction at a time by C# (T0). For tests; change it only while not running.</summary>
    internal bool ForceInterpret
    {
        get => _forceInterpret;
        set
        {
            _forceInterpret = value;
            UpdateMode();
        }
    }
}
