using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

// Near control transfers (Intel SDM vol. 2: JMP, CALL, RET, Jcc, LOOP/LOOPcc, JCXZ).
internal sealed unsafe partial class Vcpu
{
    private bool TryExecuteBranch(in Instruction instruction)
    {
        Code code = instruction.Code;
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Jmp:
                if (TryBranchTarget(instruction, out ulong target, out _))
                {
                    JumpNear(target);
                    return true;
                }
                return false;
            case Mnemonic.Call:
                if (TryBranchTarget(instruction, out target, out int size))
                {
                    CheckBranchTarget(target);
                    Push(B->NextRip, size);
                    B->NextRip = target;
                    return true;
                }
                return false;
            case Mnemonic.Ret:
                ReturnNear(code is Code.Retnw or Code.Retnw_imm16 ? 2 : code is Code.Retnd or Code.Retnd_imm16 ? 4 : 8,
                    code is Code.Retnw_imm16 or Code.Retnd_imm16 or Code.Retnq_imm16 ? instruction.Immediate16 : 0u);
                return true;
            case Mnemonic.Loop:
            case Mnemonic.Loope:
            case Mnemonic.Loopne:
                Loop(instruction);
                return true;
            case Mnemonic.Jcxz:
            case Mnemonic.Jecxz:
            case Mnemonic.Jrcxz:
                int width = instruction.Mnemonic == Mnemonic.Jcxz ? 2 : instruction.Mnemonic == Mnemonic.Jecxz ? 4 : 8;
                if ((B->Gpr[1] & WidthMask(width)) == 0)
                {
                    JumpNear(instruction.NearBranchTarget);
                }
                return true;
            default:
                if (!code.IsJccShortOrNear())
                {
                    return false;
                }
                if (Condition(instruction.ConditionCode))
                {
                    JumpNear(instruction.NearBranchTarget);
                }
                return true;
        }
    }

    /// <summary>Whether a condition of Jcc, SETcc, CMOVcc holds for the current flags.</summary>
    internal bool Condition(ConditionCode condition)
    {
        ulong packed = B->PackedFlags;
        bool carry = (packed & 0x100) != 0, parity = (packed & 0x400) != 0, zero = (packed & 0x4000) != 0, sign = (packed & 0x8000) != 0, overflow = (packed & 1) != 0;
        return condition switch
        {
            ConditionCode.o => overflow,
            ConditionCode.no => !overflow,
            ConditionCode.b => carry,
            ConditionCode.ae => !carry,
            ConditionCode.e => zero,
            ConditionCode.ne => !zero,
            ConditionCode.be => carry || zero,
            ConditionCode.a => !carry && !zero,
            ConditionCode.s => sign,
            ConditionCode.ns => !sign,
            ConditionCode.p => parity,
            ConditionCode.np => !parity,
            ConditionCode.l => sign != overflow,
            ConditionCode.ge => sign == overflow,
            ConditionCode.le => zero || sign != overflow,
            ConditionCode.g => !zero && sign == overflow,
            _ => throw new ArgumentOutOfRangeException(nameof(condition)),
        };
    }

    /// <summary>#GP(0) when RIP may not become <paramref name="target"/>: not canonical, or beyond the limit of CS.</summary>
    private void CheckBranchTarget(ulong target)
    {
        if (Code64 ? (ulong)((long)(target << 16) >> 16) != target : target > Segment(Seg.Cs)->Limit)
        {
            GuestFault.GeneralProtection();
        }
    }

    private void JumpNear(ulong target)
    {
        CheckBranchTarget(target);
        B->NextRip = target;
    }

    // False for far forms.
    private bool TryBranchTarget(in Instruction instruction, out ulong target, out int size)
    {
        switch (instruction.Op0Kind)
        {
            case OpKind.NearBranch16:
                (target, size) = (instruction.NearBranch16, 2);
                return true;
            case OpKind.NearBranch32:
                (target, size) = (instruction.NearBranch32, 4);
                return true;
            case OpKind.NearBranch64:
                (target, size) = (instruction.NearBranch64, 8);
                return true;
        }
        size = instruction.Code switch
        {
            Code.Jmp_rm16 or Code.Call_rm16 => 2,
            Code.Jmp_rm32 or Code.Call_rm32 => 4,
            Code.Jmp_rm64 or Code.Call_rm64 => 8,
            _ => 0,
        };
        target = size == 0 ? 0 : ReadOperand(instruction, 0) & WidthMask(size);
        return size != 0;
    }

    private void ReturnNear(int size, uint release)
    {
        ulong target = ReadLinear(LinearAddress(Seg.Ss, StackPointer, size, AccessKind.Read), size, UserMode);
        CheckBranchTarget(target);
        StackPointer += (uint)size + release;
        B->NextRip = target;
    }

    private void Loop(in Instruction instruction)
    {
        int width = instruction.Code switch
        {
            Code.Loopne_rel8_16_CX or Code.Loopne_rel8_32_CX or Code.Loope_rel8_16_CX or Code.Loope_rel8_32_CX or Code.Loop_rel8_16_CX or Code.Loop_rel8_32_CX => 2,
            Code.Loopne_rel8_16_RCX or Code.Loopne_rel8_64_RCX or Code.Loope_rel8_16_RCX or Code.Loope_rel8_64_RCX or Code.Loop_rel8_16_RCX or Code.Loop_rel8_64_RCX => 8,
            _ => 4,
        };
        ulong count = (B->Gpr[1] - 1) & WidthMask(width);
        bool taken = count != 0 && (instruction.Mnemonic == Mnemonic.Loop || Condition(ConditionCode.e) == (instruction.Mnemonic == Mnemonic.Loope));
        if (taken)
        {
            JumpNear(instruction.NearBranchTarget);
        }
        WriteWidth(ref B->Gpr[1], count, width);
    }

    /// <summary>Writes the low 2, 4 or 8 bytes of a register: 4 clear the upper half, 2 keep the rest.</summary>
    private static void WriteWidth(ref ulong register, ulong value, int width) => register = width switch
    {
        2 => (register & ~0xFFFFUL) | (value & 0xFFFF),
        4 => (uint)value,
        _ => value,
    };
}
