using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

// Decimal adjustment and other instructions of the 8086 (Intel SDM vol. 2: AAA, AAD, AAM, AAS, DAA, DAS, BOUND, XLAT; SALC is undocumented there).
internal sealed unsafe partial class Vcpu
{
    private bool TryExecuteLegacy(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Daa:
                DecimalAdjust(subtract: false);
                return true;
            case Mnemonic.Das:
                DecimalAdjust(subtract: true);
                return true;
            case Mnemonic.Aaa:
                AsciiAdjust(0x106);
                return true;
            case Mnemonic.Aas:
                AsciiAdjust(-0x106);
                return true;
            case Mnemonic.Aam:
                uint divisor = instruction.Immediate8;
                if (divisor == 0)
                {
                    GuestFault.Raise(Vector.DivideError);
                }
                uint al = (uint)B->Gpr[0] & 0xFF;
                WriteRegister(Register.AX, ((al / divisor) << 8) | (al % divisor));
                SetStatusFlags(ResultFlags(al % divisor, 1));
                return true;
            case Mnemonic.Aad:
                uint ax = (uint)B->Gpr[0];
                uint sum = ((ax & 0xFF) + (((ax >> 8) & 0xFF) * instruction.Immediate8)) & 0xFF;
                WriteRegister(Register.AX, sum);
                SetStatusFlags(ResultFlags(sum, 1));
                return true;
            case Mnemonic.Salc:
                WriteRegister(Register.AL, (B->PackedFlags & PackedCf) != 0 ? 0xFFUL : 0);
                return true;
            case Mnemonic.Xlatb:
                TranslateByte(instruction);
                return true;
            case Mnemonic.Bound:
                CheckBounds(instruction);
                return true;
            default:
                return false;
        }
    }

    private void DecimalAdjust(bool subtract)
    {
        uint al = (uint)B->Gpr[0] & 0xFF, flags = 0, adjusted = al;
        bool carry = (B->PackedFlags & PackedCf) != 0;
        if ((al & 15) > 9 || (B->PackedFlags & 0x1000) != 0)
        {
            flags |= FlagAf;
            adjusted = subtract ? al - 6 : al + 6;

            // The low digit's own carry counts for DAS; DAA's is covered by the test of the whole byte below.
            carry |= adjusted > 0xFF;
        }
        if (al > 0x99 || (B->PackedFlags & PackedCf) != 0)
        {
            adjusted = subtract ? adjusted - 0x60 : adjusted + 0x60;
            carry = true;
        }
        else if (!subtract)
        {
            carry = false;
        }
        WriteRegister(Register.AL, adjusted & 0xFF);
        SetStatusFlags(flags | ResultFlags(adjusted & 0xFF, 1) | (carry ? FlagCf : 0));
    }

    // AAA and AAS: the 16-bit form of the adjustment, as processors since the 80286 do it.
    private void AsciiAdjust(int adjustment)
    {
        uint ax = (uint)B->Gpr[0] & 0xFFFF, flags = 0;
        if ((ax & 15) > 9 || (B->PackedFlags & 0x1000) != 0)
        {
            ax = (uint)(ax + adjustment);
            flags = FlagAf | FlagCf;
        }
        ax &= 0xFF0F;
        WriteRegister(Register.AX, ax);
        SetStatusFlags(flags | ResultFlags(ax & 0xFF, 1));
    }

    private void TranslateByte(in Instruction instruction)
    {
        int width = instruction.MemoryBase == Register.BX ? 2 : instruction.MemoryBase == Register.EBX ? 4 : 8;
        ulong offset = (B->Gpr[3] + (B->Gpr[0] & 0xFF)) & WidthMask(width);
        ulong linear = LinearAddress(instruction.MemorySegment - Register.ES, offset, 1, AccessKind.Read);
        WriteRegister(Register.AL, ReadLinear(linear, 1, UserMode));
    }

    private void CheckBounds(in Instruction instruction)
    {
        int size = instruction.Op0Register.GetSize();
        ulong offset = EffectiveOffset(instruction);
        ulong linear = LinearAddress(instruction.MemorySegment - Register.ES, offset, size * 2, AccessKind.Read, size);
        long lower = SignExtend(ReadLinear(linear, size, UserMode), size);
        long upper = SignExtend(ReadLinear((uint)(linear + (uint)size), size, UserMode), size);
        long index = SignExtend(ReadRegister(instruction.Op0Register), size);
        if (index < lower || index > upper)
        {
            GuestFault.Raise(Vector.BoundRange);
        }
    }

    private static long SignExtend(ulong value, int size) => (long)(value << (64 - (size * 8))) >> (64 - (size * 8));
}
