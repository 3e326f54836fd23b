using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

// Instructions on single flags (Intel SDM vol. 2: CLI, STI, CLD, STD, CLC, STC, CMC, LAHF, SAHF).
internal sealed unsafe partial class Vcpu
{
    private const ulong PackedCf = 1UL << 8;

    private bool TryExecuteFlagInstruction(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Cli:
                B->SystemFlags &= ~(ulong)(ControlsInterruptFlag() ? FlagIf : FlagVif);
                return true;
            case Mnemonic.Sti:
                SetInterruptFlag();
                return true;
            case Mnemonic.Cld:
                B->SystemFlags &= ~(ulong)FlagDf;
                return true;
            case Mnemonic.Std:
                B->SystemFlags |= FlagDf;
                return true;
            case Mnemonic.Clc:
                B->PackedFlags &= ~PackedCf;
                return true;
            case Mnemonic.Stc:
                B->PackedFlags |= PackedCf;
                return true;
            case Mnemonic.Cmc:
                B->PackedFlags ^= PackedCf;
                return true;
            case Mnemonic.Lahf:
                WriteRegister(Register.AH, ((B->PackedFlags >> 8) & 0xD5) | 2);
                return true;
            case Mnemonic.Sahf:
                B->PackedFlags = (B->PackedFlags & 1) | (B->Gpr[0] & 0xD500) | 0x200;
                return true;
            default:
                return false;
        }
    }

    // True when CLI and STI act on IF, false when on VIF (virtual-8086 mode extensions, protected-mode virtual interrupts); else #GP(0).
    private bool ControlsInterruptFlag()
    {
        if (!ProtectedMode)
        {
            return true;
        }
        if (Virtual8086 ? IoPrivilegeLevel == 3 : B->Cpl <= (uint)IoPrivilegeLevel)
        {
            return true;
        }
        if (Virtual8086 ? (B->Cr4 & 1) == 0 : (B->Cr4 & 2) == 0 || B->Cpl != 3)
        {
            GuestFault.GeneralProtection();
        }
        return false;
    }

    private void SetInterruptFlag()
    {
        if (ControlsInterruptFlag())
        {
            if ((B->SystemFlags & FlagIf) == 0)
            {
                B->SystemFlags |= FlagIf;
                B->InterruptShadow = Shadow.Sti;
            }
            return;
        }
        if ((B->SystemFlags & FlagVip) != 0)
        {
            GuestFault.GeneralProtection();
        }
        B->SystemFlags |= FlagVif;
    }
}
