using Iced.Intel;

namespace Lodge.Engine.Translation.Execution;

/// <summary>How an instruction is carried out.</summary>
internal enum InstructionKind : byte
{
    /// <summary>Not classified yet.</summary>
    Unknown = 0,

    /// <summary>By C# in every tier (privileged, rare, or changing control flow in ways that T1 does not emit).</summary>
    Helper,

    /// <summary>Re-encoded with renamed registers: the host CPU is its semantics.</summary>
    Copy,

    /// <summary>Copied, and uses x87/MMX state.</summary>
    CopyX87,

    /// <summary>No operation (hints, reserved NOP space without the extension).</summary>
    Nop,

    /// <summary>LEA.</summary>
    Lea,

    /// <summary>Emitted by the translator itself in T1: branches, stack, strings, flags of the system kind; C# in T0.</summary>
    Flow,
}

/// <summary>
/// Classifies every instruction once. What may be copied is a positive list: an instruction of an instruction-set extension that is not named here is
/// never executed on the host, whatever the guest writes.
/// </summary>
internal static class InstructionKinds
{
    private static readonly InstructionKind[] Table = new InstructionKind[IcedConstants.CodeEnumCount];

    /// <summary>Kind of an instruction.</summary>
    public static InstructionKind Of(in Instruction instruction)
    {
        InstructionKind kind = Table[(int)instruction.Code];
        if (kind == InstructionKind.Unknown)
        {
            Table[(int)instruction.Code] = kind = Classify(instruction);
        }
        return kind;
    }

    private static InstructionKind Classify(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Nop or Mnemonic.Endbr32 or Mnemonic.Endbr64 or Mnemonic.Rdsspd or Mnemonic.Rdsspq or Mnemonic.Reservednop
                or Mnemonic.Prefetchnta or Mnemonic.Prefetcht0 or Mnemonic.Prefetcht1 or Mnemonic.Prefetcht2 or Mnemonic.Prefetchw or Mnemonic.Prefetch
                or Mnemonic.Prefetchwt1 or Mnemonic.Prefetchit0 or Mnemonic.Prefetchit1 or Mnemonic.Cldemote or Mnemonic.Bndcl or Mnemonic.Bndcn or Mnemonic.Bndcu or Mnemonic.Bndldx or Mnemonic.Bndmk
                or Mnemonic.Bndmov or Mnemonic.Bndstx:
                return InstructionKind.Nop;
            case Mnemonic.Lea:
                return InstructionKind.Lea;
            case Mnemonic.Push or Mnemonic.Pop or Mnemonic.Leave or Mnemonic.Call or Mnemonic.Ret or Mnemonic.Jmp or Mnemonic.Cli or Mnemonic.Sti
                or Mnemonic.Pushfq or Mnemonic.Rdtsc or Mnemonic.Cld:
                return InstructionKind.Flow;
            case Mnemonic.Fxsave or Mnemonic.Fxsave64 or Mnemonic.Fxrstor or Mnemonic.Fxrstor64 or Mnemonic.Ldmxcsr or Mnemonic.Stmxcsr
                or Mnemonic.Vldmxcsr or Mnemonic.Vstmxcsr or Mnemonic.Rdrand or Mnemonic.Rdseed or Mnemonic.Clflush or Mnemonic.Clflushopt or Mnemonic.Clwb
                or Mnemonic.Maskmovq or Mnemonic.Maskmovdqu or Mnemonic.Vmaskmovdqu or Mnemonic.Vmaskmovps or Mnemonic.Vmaskmovpd or Mnemonic.Vpmaskmovd
                or Mnemonic.Vpmaskmovq or Mnemonic.Xlatb or Mnemonic.Lahf or Mnemonic.Sahf or Mnemonic.Salc or Mnemonic.Daa or Mnemonic.Das or Mnemonic.Aaa
                or Mnemonic.Aas or Mnemonic.Aam or Mnemonic.Aad or Mnemonic.Bound or Mnemonic.Enter or Mnemonic.Arpl or Mnemonic.Lar or Mnemonic.Lsl
                or Mnemonic.Verr or Mnemonic.Verw or Mnemonic.Smsw or Mnemonic.Sldt or Mnemonic.Str or Mnemonic.Sgdt or Mnemonic.Sidt or Mnemonic.Pushf
                or Mnemonic.Pushfd or Mnemonic.Popf or Mnemonic.Popfd or Mnemonic.Popfq or Mnemonic.Pusha or Mnemonic.Pushad or Mnemonic.Popa
                or Mnemonic.Popad or Mnemonic.Std or Mnemonic.Into or Mnemonic.Lds or Mnemonic.Les or Mnemonic.Lfs or Mnemonic.Lgs or Mnemonic.Lss
                or Mnemonic.Rdpmc or Mnemonic.Rdtscp or Mnemonic.Cpuid or Mnemonic.Wbinvd or Mnemonic.Invd or Mnemonic.Monitor or Mnemonic.Mwait
                or Mnemonic.Vmcall or Mnemonic.Vmmcall or Mnemonic.Umonitor or Mnemonic.Umwait or Mnemonic.Tpause:
                return InstructionKind.Helper;
        }
        Code code = instruction.Code;
        if (code.IsJccShortOrNear())
        {
            return InstructionKind.Flow;
        }
        if (code.FlowControl() != FlowControl.Next || code.IsPrivileged() || code.IsStackInstruction() || instruction.IsStringInstruction
            || code.Encoding() is not (EncodingKind.Legacy or EncodingKind.VEX) || instruction.IsVsib)
        {
            return InstructionKind.Helper;
        }
        for (int i = 0; i < instruction.OpCount; i++)
        {
            if (instruction.GetOpKind(i) == OpKind.Register)
            {
                Register register = instruction.GetOpRegister(i);
                if (!(register.IsGPR() || register.IsXMM() || register.IsYMM() || register.IsMM() || register.IsST()))
                {
                    return InstructionKind.Helper;
                }
            }
            else if (instruction.GetOpKind(i) is not (OpKind.Memory or OpKind.Immediate8 or OpKind.Immediate16 or OpKind.Immediate32 or OpKind.Immediate64
                or OpKind.Immediate8to16 or OpKind.Immediate8to32 or OpKind.Immediate8to64 or OpKind.Immediate32to64 or OpKind.Immediate8_2nd))
            {
                return InstructionKind.Helper;
            }
        }
        bool x87 = false;
        foreach (CpuidFeature feature in code.CpuidFeatures())
        {
            switch (feature)
            {
                case CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387 or CpuidFeature.MMX or CpuidFeature.CMOV when IsX87OrMmx(instruction):
                    x87 = true;
                    break;
                case CpuidFeature.GFNI or CpuidFeature.VAES or CpuidFeature.VPCLMULQDQ or CpuidFeature.AVX_VNNI or CpuidFeature.MOVDIRI
                    or CpuidFeature.INTEL8086 or CpuidFeature.INTEL186 or CpuidFeature.INTEL286 or CpuidFeature.INTEL386 or CpuidFeature.INTEL486
                    or CpuidFeature.X64 or CpuidFeature.CX8 or CpuidFeature.CMOV or CpuidFeature.SSE or CpuidFeature.SSE2 or CpuidFeature.SSE3
                    or CpuidFeature.SSSE3 or CpuidFeature.SSE4_1 or CpuidFeature.SSE4_2 or CpuidFeature.AES or CpuidFeature.PCLMULQDQ or CpuidFeature.SHA
                    or CpuidFeature.AVX or CpuidFeature.AVX2 or CpuidFeature.FMA or CpuidFeature.F16C or CpuidFeature.BMI1 or CpuidFeature.BMI2
                    or CpuidFeature.ADX or CpuidFeature.MOVBE or CpuidFeature.POPCNT or CpuidFeature.LZCNT or CpuidFeature.CMPXCHG16B
                    or CpuidFeature.PAUSE or CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387 or CpuidFeature.MMX:
                    break;
                default:
                    return InstructionKind.Helper;
            }
        }
        x87 |= IsX87OrMmx(instruction);
        return x87 ? InstructionKind.CopyX87 : InstructionKind.Copy;
    }

    private static bool IsX87OrMmx(in Instruction instruction)
    {
        if (instruction.Mnemonic is Mnemonic.Emms or Mnemonic.Wait)
        {
            return true;
        }
        foreach (CpuidFeature feature in instruction.Code.CpuidFeatures())
        {
            if (feature is CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387 or CpuidFeature.MMX)
            {
                return true;
            }
        }
        // By the code, not the instance: the class of mm/m64 operands must not depend on which form comes first.
        OpCodeInfo code = instruction.Code.ToOpCode();
        for (int i = 0; i < instruction.OpCount; i++)
        {
            if (code.GetOpKind(i) == OpCodeOperandKind.mm_or_mem)
            {
                return true;
            }
            if (instruction.GetOpKind(i) == OpKind.Register && (instruction.GetOpRegister(i).IsMM() || instruction.GetOpRegister(i).IsST()))
            {
                return true;
            }
            if (instruction.GetOpKind(i) == OpKind.Memory && instruction.Mnemonic.ToString().StartsWith('F'))
            {
                return true;
            }
        }
        return false;
    }
}

internal static class IcedConstants
{
    /// <summary>Number of values of <see cref="Code"/> in the pinned version of Iced.</summary>
    public static readonly int CodeEnumCount = Enum.GetValues<Code>().Length + 1;
}
