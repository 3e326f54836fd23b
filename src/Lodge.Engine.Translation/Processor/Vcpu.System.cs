using Iced.Intel;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Translation.Processor;

// System instructions by mnemonic (Intel SDM vol. 2 and vol. 3, 2.8).
internal sealed unsafe partial class Vcpu
{
    /// <summary>
    /// Executes MOV to and from control and debug registers, CLTS, LMSW, SMSW, INVLPG, INVPCID, cache control, MSRs, time stamp counters, CPUID, extended
    /// state, FS and GS bases, protection keys, random numbers, CLAC, STAC, HLT and hypercalls.
    /// </summary>
    /// <returns>False, with nothing done, when the instruction is none of these.</returns>
    /// <exception cref="GuestFault">The instruction faults.</exception>
    internal bool TryExecuteSystem(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Mov when instruction.Op0Kind == OpKind.Register && instruction.Op1Kind == OpKind.Register:
                return TryExecuteMoveSystem(instruction);
            case Mnemonic.Clts:
                ExecuteClts();
                return true;
            case Mnemonic.Lmsw:
                ExecuteLmsw(instruction);
                return true;
            case Mnemonic.Smsw:
                ExecuteSmsw(instruction);
                return true;
            case Mnemonic.Invlpg:
                ExecuteInvlpg(instruction);
                return true;
            case Mnemonic.Invpcid:
                ExecuteInvpcid(instruction);
                return true;
            case Mnemonic.Invd or Mnemonic.Wbinvd or Mnemonic.Wbnoinvd:
                RequireCpl0(); // caches are coherent
                return true;
            case Mnemonic.Clflush or Mnemonic.Clflushopt or Mnemonic.Clwb:
                ExecuteCacheLine(instruction);
                return true;
            case Mnemonic.Rdmsr:
                ExecuteRdmsr();
                return true;
            case Mnemonic.Wrmsr:
                ExecuteWrmsr();
                return true;
            case Mnemonic.Rdpmc:
                GuestFault.GeneralProtection(); // no counters: every index is invalid
                return true;
            case Mnemonic.Rdtsc:
                ExecuteRdtsc();
                return true;
            case Mnemonic.Rdtscp:
                ExecuteRdtsc();
                B->Gpr[1] = (uint)B->TscAux;
                return true;
            case Mnemonic.Rdpid:
                WriteRegister(instruction.Op0Register, (uint)B->TscAux);
                return true;
            case Mnemonic.Cpuid:
                ExecuteCpuid();
                return true;
            case Mnemonic.Xgetbv:
                ExecuteXgetbv();
                return true;
            case Mnemonic.Xsetbv:
                ExecuteXsetbv();
                return true;
            case Mnemonic.Hlt:
                RequireCpl0();
                B->Activity = (uint)ActivityState.Halted;
                return true;
            case Mnemonic.Vmcall or Mnemonic.Vmmcall:
                ExecuteHypercall();
                return true;
            case Mnemonic.Clac or Mnemonic.Stac:
                ExecuteAlignmentCheckFlag(instruction.Mnemonic == Mnemonic.Stac);
                return true;
            case Mnemonic.Swapgs:
                ExecuteSwapgs();
                return true;
            case Mnemonic.Rdfsbase or Mnemonic.Rdgsbase or Mnemonic.Wrfsbase or Mnemonic.Wrgsbase:
                ExecuteSegmentBase(instruction);
                return true;
            case Mnemonic.Rdpkru:
                ExecuteRdpkru();
                return true;
            case Mnemonic.Wrpkru:
                ExecuteWrpkru();
                return true;
            case Mnemonic.Rdrand or Mnemonic.Rdseed:
                ExecuteRandom(instruction);
                return true;
            default:
                return TryExecuteExtendedState(instruction);
        }
    }

    private bool TryExecuteMoveSystem(in Instruction instruction)
    {
        if (instruction.Op0Register.IsCR() || instruction.Op1Register.IsCR())
        {
            ExecuteMoveControl(instruction);
            return true;
        }
        if (instruction.Op0Register.IsDR() || instruction.Op1Register.IsDR())
        {
            ExecuteMoveDebug(instruction);
            return true;
        }
        return false;
    }

    private bool TryExecuteExtendedState(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Fxsave or Mnemonic.Fxsave64:
                ExecuteFxsave(instruction, instruction.Mnemonic == Mnemonic.Fxsave64);
                return true;
            case Mnemonic.Fxrstor or Mnemonic.Fxrstor64:
                ExecuteFxrstor(instruction, instruction.Mnemonic == Mnemonic.Fxrstor64);
                return true;
            case Mnemonic.Xsave or Mnemonic.Xsave64:
                ExecuteXsave(instruction, SaveForm.Plain, instruction.Mnemonic == Mnemonic.Xsave64);
                return true;
            case Mnemonic.Xsaveopt or Mnemonic.Xsaveopt64:
                ExecuteXsave(instruction, SaveForm.Optimized, instruction.Mnemonic == Mnemonic.Xsaveopt64);
                return true;
            case Mnemonic.Xsavec or Mnemonic.Xsavec64:
                ExecuteXsave(instruction, SaveForm.Compacted, instruction.Mnemonic == Mnemonic.Xsavec64);
                return true;
            case Mnemonic.Xrstor or Mnemonic.Xrstor64:
                ExecuteXrstor(instruction, instruction.Mnemonic == Mnemonic.Xrstor64);
                return true;
            case Mnemonic.Ldmxcsr or Mnemonic.Vldmxcsr:
                ExecuteLdmxcsr(instruction);
                return true;
            case Mnemonic.Stmxcsr or Mnemonic.Vstmxcsr:
                WriteOperand(instruction, 0, B->Mxcsr);
                return true;
            default:
                return false;
        }
    }

    private void ExecuteCacheLine(in Instruction instruction)
    {
        ulong linear = OperandAddress(instruction, 1, AccessKind.Read);
        Translate(linear, AccessKind.Read, B->Cpl == 3);
    }

    private void ExecuteRdtsc()
    {
        if (B->Cpl != 0 && (B->Cr4 & Cr4Bits.Tsd) != 0)
        {
            GuestFault.GeneralProtection();
        }
        SetEdxEax(ReadTsc());
    }

    private void ExecuteCpuid()
    {
        var context = new CpuidContext(Apic.ApicId, B->Cr4, B->Xcr0, Apic.Enabled, false);
        CpuidResult result = Model.Cpuid((uint)B->Gpr[0], (uint)B->Gpr[1], context);
        B->Gpr[0] = result.Eax;
        B->Gpr[3] = result.Ebx;
        B->Gpr[1] = result.Ecx;
        B->Gpr[2] = result.Edx;
    }

    private void ExecuteAlignmentCheckFlag(bool set)
    {
        if (B->Cpl != 0 || Virtual8086)
        {
            GuestFault.InvalidOpcode();
        }
        B->SystemFlags = set ? B->SystemFlags | FlagBits.AlignmentCheck : B->SystemFlags & ~FlagBits.AlignmentCheck;
        UpdateMode();
    }

    private void ExecuteSwapgs()
    {
        if (!Code64)
        {
            GuestFault.InvalidOpcode();
        }
        RequireCpl0();
        Segment* gs = Segment(Seg.Gs);
        (gs->Base, B->KernelGsBase) = (B->KernelGsBase, gs->Base);
    }

    private void ExecuteSegmentBase(in Instruction instruction)
    {
        if (!Code64 || (B->Cr4 & Cr4Bits.FsGsBase) == 0)
        {
            GuestFault.InvalidOpcode();
        }
        Segment* segment = Segment(instruction.Mnemonic is Mnemonic.Rdfsbase or Mnemonic.Wrfsbase ? Seg.Fs : Seg.Gs);
        if (instruction.Mnemonic is Mnemonic.Rdfsbase or Mnemonic.Rdgsbase)
        {
            WriteRegister(instruction.Op0Register, segment->Base);
            return;
        }
        ulong value = ReadRegister(instruction.Op0Register);
        if (!IsCanonical(value))
        {
            GuestFault.GeneralProtection();
        }
        segment->Base = value;
    }

    private void ExecuteRdpkru()
    {
        if ((B->Cr4 & Cr4Bits.Pke) == 0)
        {
            GuestFault.InvalidOpcode();
        }
        if ((uint)B->Gpr[1] != 0)
        {
            GuestFault.GeneralProtection();
        }
        SetEdxEax(B->Pkru);
    }

    private void ExecuteWrpkru()
    {
        if ((B->Cr4 & Cr4Bits.Pke) == 0)
        {
            GuestFault.InvalidOpcode();
        }
        if ((uint)B->Gpr[1] != 0 || (uint)B->Gpr[2] != 0)
        {
            GuestFault.GeneralProtection();
        }
        SetPkru((uint)B->Gpr[0]);
    }
}
