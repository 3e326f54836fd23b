using Iced.Intel;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Translation.Processor;

/// <summary>What an instruction needs of the processor's state beyond being decodable (Intel SDM vol. 3, 2.5, 15.1, tables 15-1 to 15-3; vol. 2, 2.4-2.6).</summary>
internal enum AvailabilityClass : byte
{
    /// <summary>Not classified yet.</summary>
    Unknown = 0,

    /// <summary>Nothing (what the handler itself checks aside).</summary>
    Always,

    /// <summary>x87, FXSAVE, FXRSTOR: #NM by CR0.EM or CR0.TS.</summary>
    X87,

    /// <summary>MMX registers only: #UD by CR0.EM, #NM by CR0.TS.</summary>
    Mmx,

    /// <summary>XMM registers or MXCSR: #UD by CR0.EM or without CR4.OSFXSR, #NM by CR0.TS.</summary>
    Sse,

    /// <summary>VEX vector: #UD in real and virtual-8086 mode, without CR4.OSXSAVE or without SSE and AVX in XCR0; #NM by CR0.TS.</summary>
    Avx,

    /// <summary>The model does not have it: #UD.</summary>
    Never,

    /// <summary>WAIT: #NM by CR0.TS with CR0.MP.</summary>
    Wait,

    /// <summary>XSAVE, XSAVEOPT, XSAVEC, XRSTOR: #UD without CR4.OSXSAVE, #NM by CR0.TS.</summary>
    Xsave,

    /// <summary>VEX on general registers: #UD in real and virtual-8086 mode.</summary>
    VexGeneral,
}

internal sealed unsafe partial class Vcpu
{
    /// <summary>Without TZCNT and LZCNT their encodings are BSF and BSR with a prefix that means nothing (Intel SDM vol. 2, TZCNT, LZCNT).</summary>
    internal DecoderOptions DecoderOptions =>
        (Model.Has(CpuFeature.Bmi1) ? DecoderOptions.None : DecoderOptions.NoMPFX_0FBC) | (Model.Has(CpuFeature.Lzcnt) ? DecoderOptions.None : DecoderOptions.NoMPFX_0FBD);

    // By Iced's Code, which has fewer values.
    private readonly AvailabilityClass[] _availability = new AvailabilityClass[8192];

    /// <summary>What the instruction needs. Depends on the model only, so that it holds for translated code.</summary>
    internal AvailabilityClass ClassOf(in Instruction instruction)
    {
        AvailabilityClass known = _availability[(int)instruction.Code];
        return known != AvailabilityClass.Unknown ? known : _availability[(int)instruction.Code] = Classify(instruction);
    }

    /// <summary>Raises #UD when the model or CR0, CR4, XCR0 do not admit the instruction, #NM by CR0.TS or CR0.EM.</summary>
    /// <exception cref="GuestFault">#UD, #NM.</exception>
    internal void CheckAvailability(in Instruction instruction)
    {
        ulong cr0 = B->Cr0;
        bool undefined, deviceNotAvailable = (cr0 & Cr0Bits.Ts) != 0;
        switch (ClassOf(instruction))
        {
            case AvailabilityClass.Always:
                return;
            case AvailabilityClass.X87:
                undefined = false;
                deviceNotAvailable = (cr0 & (Cr0Bits.Ts | Cr0Bits.Em)) != 0;
                break;
            case AvailabilityClass.Wait:
                undefined = false;
                deviceNotAvailable = (cr0 & (Cr0Bits.Ts | Cr0Bits.Mp)) == (Cr0Bits.Ts | Cr0Bits.Mp);
                break;
            case AvailabilityClass.Mmx:
                undefined = (cr0 & Cr0Bits.Em) != 0;
                break;
            case AvailabilityClass.Sse:
                undefined = (cr0 & Cr0Bits.Em) != 0 || (B->Cr4 & Cr4Bits.Osfxsr) == 0;
                break;
            case AvailabilityClass.Avx:
                const ulong Vector = CpuModel.ComponentSse | CpuModel.ComponentAvx;
                undefined = !ProtectedMode || Virtual8086 || (B->Cr4 & Cr4Bits.Osxsave) == 0 || (B->Xcr0 & Vector) != Vector;
                break;
            case AvailabilityClass.Xsave:
                undefined = (B->Cr4 & Cr4Bits.Osxsave) == 0;
                break;
            case AvailabilityClass.VexGeneral:
                undefined = !ProtectedMode || Virtual8086;
                deviceNotAvailable = false;
                break;
            default:
                undefined = true;
                break;
        }
        if (undefined)
        {
            GuestFault.InvalidOpcode();
        }
        if (deviceNotAvailable)
        {
            GuestFault.Raise(Processor.Vector.DeviceNotAvailable);
        }
    }

    private AvailabilityClass Classify(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Vmcall or Mnemonic.Vmmcall:
                return AvailabilityClass.Always; // hypercalls, whatever the vendor
            case Mnemonic.Ud0 or Mnemonic.Ud1 or Mnemonic.Ud2:
                return AvailabilityClass.Never;
            case Mnemonic.Wait:
                return AvailabilityClass.Wait;
            case Mnemonic.Wbnoinvd or Mnemonic.Prefetchw or Mnemonic.Prefetchwt1 or Mnemonic.Cldemote or Mnemonic.Tzcnt or Mnemonic.Lzcnt
                or Mnemonic.Endbr32 or Mnemonic.Endbr64 or Mnemonic.Rdsspd or Mnemonic.Rdsspq:
                return AvailabilityClass.Always; // something older where the feature is not there: WBINVD, a hint, BSF, BSR, NOP
        }
        if (instruction.Encoding is EncodingKind.EVEX or EncodingKind.XOP or EncodingKind.MVEX or EncodingKind.D3NOW)
        {
            return AvailabilityClass.Never;
        }
        bool x87 = false, sse = false, mmx = false, avx = false, xsave = false;
        foreach (CpuidFeature feature in instruction.CpuidFeatures)
        {
            if (!ModelHas(feature))
            {
                return AvailabilityClass.Never;
            }
            x87 |= feature is CpuidFeature.FPU or CpuidFeature.FPU287 or CpuidFeature.FPU387 or CpuidFeature.FXSR;
            mmx |= feature == CpuidFeature.MMX;
            sse |= feature is CpuidFeature.SSE or CpuidFeature.SSE2 or CpuidFeature.SSE3 or CpuidFeature.SSSE3 or CpuidFeature.SSE4_1 or CpuidFeature.SSE4_2
                or CpuidFeature.AES or CpuidFeature.PCLMULQDQ or CpuidFeature.SHA or CpuidFeature.GFNI or CpuidFeature.SSE4A;
            avx |= feature is CpuidFeature.AVX or CpuidFeature.AVX2 or CpuidFeature.FMA or CpuidFeature.F16C or CpuidFeature.VAES or CpuidFeature.VPCLMULQDQ or CpuidFeature.AVX_VNNI;
            xsave |= feature is CpuidFeature.XSAVE or CpuidFeature.XSAVEOPT or CpuidFeature.XSAVEC;
        }
        if (instruction.Encoding == EncodingKind.VEX)
        {
            return avx ? AvailabilityClass.Avx : AvailabilityClass.VexGeneral;
        }
        if (xsave)
        {
            return instruction.Mnemonic is Mnemonic.Xgetbv or Mnemonic.Xsetbv ? AvailabilityClass.Always : AvailabilityClass.Xsave;
        }
        if (sse)
        {
            return ClassifySse(instruction);
        }
        return x87 ? AvailabilityClass.X87 : mmx ? AvailabilityClass.Mmx : AvailabilityClass.Always;
    }

    // Of what the SSE extensions brought, what has no XMM operand: cache control and fences need nothing, MMX forms need MMX.
    private static AvailabilityClass ClassifySse(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Prefetchnta or Mnemonic.Prefetcht0 or Mnemonic.Prefetcht1 or Mnemonic.Prefetcht2 or Mnemonic.Sfence or Mnemonic.Lfence or Mnemonic.Mfence
                or Mnemonic.Movnti or Mnemonic.Clflush or Mnemonic.Pause or Mnemonic.Crc32 or Mnemonic.Popcnt:
                return AvailabilityClass.Always;
            case Mnemonic.Fisttp:
                return AvailabilityClass.X87;
            case Mnemonic.Ldmxcsr or Mnemonic.Stmxcsr:
                return AvailabilityClass.Sse;
        }
        bool mmx = false;
        for (int i = 0; i < instruction.OpCount; i++)
        {
            if (instruction.GetOpKind(i) == OpKind.Register)
            {
                Register register = instruction.GetOpRegister(i);
                if (register.IsXMM())
                {
                    return AvailabilityClass.Sse;
                }
                mmx |= register.IsMM();
            }
        }
        return mmx ? AvailabilityClass.Mmx : AvailabilityClass.Sse;
    }

    private bool ModelHas(CpuidFeature feature) => feature switch
    {
        CpuidFeature.INTEL8086 or CpuidFeature.INTEL8086_ONLY or CpuidFeature.INTEL186 or CpuidFeature.INTEL286 or CpuidFeature.INTEL386 or CpuidFeature.INTEL486
            or CpuidFeature.X64 or CpuidFeature.CPUID or CpuidFeature.MULTIBYTENOP or CpuidFeature.PAUSE or CpuidFeature.RDPMC or CpuidFeature.CET_IBT
            or CpuidFeature.FPU287 or CpuidFeature.FPU387 => true,
        CpuidFeature.FPU => Model.Has(CpuFeature.Fpu),
        CpuidFeature.TSC => Model.Has(CpuFeature.Tsc),
        CpuidFeature.MSR => Model.Has(CpuFeature.Msr),
        CpuidFeature.CX8 => Model.Has(CpuFeature.Cmpxchg8b),
        CpuidFeature.SEP => Model.Has(CpuFeature.Sysenter),
        CpuidFeature.CMOV => Model.Has(CpuFeature.Cmov),
        CpuidFeature.CLFSH => Model.Has(CpuFeature.Clflush),
        CpuidFeature.MMX => Model.Has(CpuFeature.Mmx),
        CpuidFeature.FXSR => Model.Has(CpuFeature.Fxsr),
        CpuidFeature.SSE => Model.Has(CpuFeature.Sse),
        CpuidFeature.SSE2 => Model.Has(CpuFeature.Sse2),
        CpuidFeature.SSE3 => Model.Has(CpuFeature.Sse3),
        CpuidFeature.SSSE3 => Model.Has(CpuFeature.Ssse3),
        CpuidFeature.SSE4_1 => Model.Has(CpuFeature.Sse41),
        CpuidFeature.SSE4_2 => Model.Has(CpuFeature.Sse42),
        CpuidFeature.AES => Model.Has(CpuFeature.Aes),
        CpuidFeature.PCLMULQDQ => Model.Has(CpuFeature.Pclmulqdq),
        CpuidFeature.SHA => Model.Has(CpuFeature.Sha),
        CpuidFeature.GFNI => Model.Has(CpuFeature.Gfni),
        CpuidFeature.VAES => Model.Has(CpuFeature.Vaes),
        CpuidFeature.VPCLMULQDQ => Model.Has(CpuFeature.Vpclmulqdq),
        CpuidFeature.AVX => Model.Has(CpuFeature.Avx),
        CpuidFeature.AVX2 => Model.Has(CpuFeature.Avx2),
        CpuidFeature.AVX_VNNI => Model.Has(CpuFeature.AvxVnni),
        CpuidFeature.FMA => Model.Has(CpuFeature.Fma),
        CpuidFeature.F16C => Model.Has(CpuFeature.F16c),
        CpuidFeature.BMI1 => Model.Has(CpuFeature.Bmi1),
        CpuidFeature.BMI2 => Model.Has(CpuFeature.Bmi2),
        CpuidFeature.ADX => Model.Has(CpuFeature.Adx),
        CpuidFeature.MOVBE => Model.Has(CpuFeature.Movbe),
        CpuidFeature.POPCNT => Model.Has(CpuFeature.Popcnt),
        CpuidFeature.CMPXCHG16B => Model.Has(CpuFeature.Cmpxchg16b),
        CpuidFeature.MOVDIRI => Model.Has(CpuFeature.Movdiri),
        CpuidFeature.CLFLUSHOPT => Model.Has(CpuFeature.ClflushOpt),
        CpuidFeature.CLWB => Model.Has(CpuFeature.Clwb),
        CpuidFeature.XSAVE => Model.Has(CpuFeature.Xsave),
        CpuidFeature.XSAVEOPT => Model.Has(CpuFeature.XsaveOpt),
        CpuidFeature.XSAVEC => Model.Has(CpuFeature.XsaveC),
        CpuidFeature.FSGSBASE => Model.Has(CpuFeature.FsGsBase),
        CpuidFeature.INVPCID => Model.Has(CpuFeature.Invpcid),
        CpuidFeature.PKU => Model.Has(CpuFeature.Pku),
        CpuidFeature.RDPID => Model.Has(CpuFeature.Rdpid),
        CpuidFeature.RDRAND => Model.Has(CpuFeature.Rdrand),
        CpuidFeature.RDSEED => Model.Has(CpuFeature.Rdseed),
        CpuidFeature.RDTSCP => Model.Has(CpuFeature.Rdtscp),
        CpuidFeature.SMAP => Model.Has(CpuFeature.Smap),
        CpuidFeature.SYSCALL => Model.Has(CpuFeature.Syscall),
        _ => false,
    };
}
