using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

// Debug registers (Intel SDM vol. 3, 19.2; vol. 2, MOV DRn).
internal sealed unsafe partial class Vcpu
{
    private const ulong Dr6Fixed = 0xFFFF_0FF0, Dr6Writable = 0xE00F;
    private const ulong Dr7Fixed = 0x400, Dr7Writable = 0xFFFF_23FF;
    private const ulong Dr7GeneralDetect = 1 << 13, Dr6GeneralDetect = 1 << 13;

    private void ExecuteMoveDebug(in Instruction instruction)
    {
        bool load = instruction.Op0Register.IsDR();
        int number = (load ? instruction.Op0Register : instruction.Op1Register) - Register.DR0;
        if (number > 7 || (number is 4 or 5 && (B->Cr4 & Cr4Bits.De) != 0))
        {
            GuestFault.InvalidOpcode();
        }
        if (number is 4 or 5)
        {
            number += 2;
        }
        RequireCpl0();
        if ((B->Dr7 & Dr7GeneralDetect) != 0)
        {
            GuestFault.Raise(Vector.Debug, null, Dr6GeneralDetect);
        }
        ulong* addresses = &B->Dr0;
        if (!load)
        {
            WriteRegister(instruction.Op0Register, number switch
            {
                6 => B->Dr6,
                7 => B->Dr7,
                _ => addresses[number],
            });
            return;
        }
        ulong value = ReadRegister(instruction.Op1Register);
        switch (number)
        {
            case <= 3:
                addresses[number] = value;
                UpdateMode();
                break;
            case 6:
                if (value >> 32 != 0)
                {
                    GuestFault.GeneralProtection();
                }
                B->Dr6 = (value & Dr6Writable) | Dr6Fixed;
                break;
            default:
                if (value >> 32 != 0)
                {
                    GuestFault.GeneralProtection();
                }
                B->Dr7 = (value & Dr7Writable) | Dr7Fixed;
                UpdateDataWatch();
                UpdateMode();
                break;
        }
    }
}
