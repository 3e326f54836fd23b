using Iced.Intel;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Translation.Processor;

/// <summary>
/// One virtual processor of the software engine, in one file per chapter of the manual. All of it runs on the vCPU's own thread unless a member says
/// otherwise. Registers live in the unmanaged <see cref="ProcessorBlock"/>.
/// </summary>
internal sealed unsafe partial class Vcpu
{
    /// <summary>The processor's registers.</summary>
    internal readonly ProcessorBlock* B;

    /// <summary>Guest RAM.</summary>
    internal readonly GuestMemory Memory;

    /// <summary>Devices.</summary>
    internal readonly IMachineBus Bus;

    /// <summary>What CPUID says.</summary>
    internal readonly CpuModel Model;

    /// <summary>The owning partition.</summary>
    internal readonly TranslationPartition Partition;

    internal Vcpu(TranslationPartition partition, ProcessorBlock* block)
    {
        Partition = partition;
        B = block;
        Memory = partition.Options.Memory;
        Bus = partition.Options.Bus;
        Model = partition.Options.Model;
        _writable = new ulong[(Memory.Size >> 18) + 1];
        InitializeTlb();
    }

    /// <summary>Segment register by number; 6 is LDTR, 7 TR.</summary>
    internal Segment* Segment(int index) => &B->Segment0 + index;

    /// <summary>RFLAGS as the guest sees it.</summary>
    internal ulong Rflags
    {
        get
        {
            ulong packed = B->PackedFlags;
            return ((packed >> 8) & 0xD5) | ((packed & 1) << 11) | B->SystemFlags;
        }

        set
        {
            B->PackedFlags = ((value & 0xD5) << 8) | 0x200 | ((value >> 11) & 1);
            B->SystemFlags = (value & ~0x8D5UL) | 2;
        }
    }

    /// <summary>CR0.PE.</summary>
    internal bool ProtectedMode => (B->Cr0 & 1) != 0;

    /// <summary>RFLAGS.VM in protected mode.</summary>
    internal bool Virtual8086 => (B->SystemFlags & (1UL << 17)) != 0 && ProtectedMode;

    /// <summary>EFER.LMA.</summary>
    internal bool LongModeActive => (B->Efer & (1UL << 10)) != 0;

    /// <summary>64-bit code segment in long mode.</summary>
    internal bool Code64 => LongModeActive && Segment(Seg.Cs)->Long;

    /// <summary>16, 32 or 64: default operand/address width of the current code segment.</summary>
    internal int CodeBits => Code64 ? 64 : Segment(Seg.Cs)->Default32 ? 32 : 16;

    /// <summary>Reads a general register in the width of <paramref name="register"/> (AL...R15), zero-extended.</summary>
    internal ulong ReadRegister(Register register)
    {
        int number = register.GetNumber();
        switch (register.GetSize())
        {
            case 1:
                return register is >= Register.AH and <= Register.BH
                    ? (B->Gpr[register - Register.AH] >> 8) & 0xFF
                    : B->Gpr[ByteNumber(register)] & 0xFF;
            case 2:
                return B->Gpr[number] & 0xFFFF;
            case 4:
                return B->Gpr[number] & 0xFFFF_FFFF;
            default:
                return B->Gpr[number];
        }
    }

    /// <summary>Writes a general register with the architecture's rules: 32-bit writes clear the upper half, narrower ones keep the rest.</summary>
    internal void WriteRegister(Register register, ulong value)
    {
        int number = register.GetNumber();
        switch (register.GetSize())
        {
            case 1 when register is >= Register.AH and <= Register.BH:
                ref ulong high = ref B->Gpr[register - Register.AH];
                high = (high & ~0xFF00UL) | ((value & 0xFF) << 8);
                break;
            case 1:
                ref ulong low = ref B->Gpr[ByteNumber(register)];
                low = (low & ~0xFFUL) | (value & 0xFF);
                break;
            case 2:
                B->Gpr[number] = (B->Gpr[number] & ~0xFFFFUL) | (value & 0xFFFF);
                break;
            case 4:
                B->Gpr[number] = value & 0xFFFF_FFFF;
                break;
            default:
                B->Gpr[number] = value;
                break;
        }
    }

    private static int ByteNumber(Register register) => register switch
    {
        >= Register.AL and <= Register.BL => register - Register.AL,
        >= Register.SPL and <= Register.R15L => register - Register.SPL + 4,
        _ => throw new ArgumentOutOfRangeException(nameof(register)),
    };
}
