using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

// Operands of instructions that C# executes (Intel SDM vol. 1, 3.7).
internal sealed unsafe partial class Vcpu
{
    /// <summary>The segment register number of the memory operand.</summary>
    internal static int SegmentNumber(in Instruction instruction) => instruction.MemorySegment - Register.ES;

    /// <summary>Offset part of the memory operand, truncated to the address size (without the segment).</summary>
    internal ulong EffectiveOffset(in Instruction instruction)
    {
        Register baseRegister = instruction.MemoryBase, index = instruction.MemoryIndex;
        ulong offset = instruction.MemoryDisplacement64;
        if (baseRegister is Register.RIP or Register.EIP)
        {
            // Iced has already added the next instruction's address.
            return baseRegister == Register.EIP ? (uint)offset : offset;
        }
        Register widthOf = baseRegister != Register.None ? baseRegister : index;
        int size = widthOf != Register.None ? widthOf.GetSize() : instruction.MemoryDisplSize;
        if (baseRegister != Register.None)
        {
            offset += ReadRegister(baseRegister);
        }
        if (index != Register.None)
        {
            offset += ReadRegister(index) * (ulong)instruction.MemoryIndexScale;
        }
        return size switch
        {
            2 => (ushort)offset,
            4 => (uint)offset,
            _ => offset,
        };
    }

    /// <summary>Linear address of the memory operand for an access of <paramref name="size"/> bytes.</summary>
    /// <exception cref="GuestFault">#GP, #SS.</exception>
    internal ulong OperandAddress(in Instruction instruction, int size, AccessKind access) =>
        LinearAddress(SegmentNumber(instruction), EffectiveOffset(instruction), size, access);

    /// <summary>Any operand of up to 8 bytes, zero-extended: general register, segment register (selector), immediate (sign-extended to operand size) or memory.</summary>
    /// <exception cref="GuestFault">#GP, #SS, #PF of a memory operand.</exception>
    internal ulong ReadOperand(in Instruction instruction, int operand)
    {
        switch (instruction.GetOpKind(operand))
        {
            case OpKind.Register:
                Register register = instruction.GetOpRegister(operand);
                return register.IsSegmentRegister() ? Segment(register - Register.ES)->Selector : ReadRegister(register);
            case OpKind.Memory:
                int size = OperandSize(instruction);
                return ReadLinear(OperandAddress(instruction, size, AccessKind.Read), size, B->Cpl == 3);
            case OpKind.Immediate8:
                return instruction.Immediate8;
            case OpKind.Immediate8_2nd:
                return instruction.Immediate8_2nd;
            case OpKind.Immediate16:
                return instruction.Immediate16;
            case OpKind.Immediate32:
                return instruction.Immediate32;
            case OpKind.Immediate64:
                return instruction.Immediate64;
            case OpKind.Immediate8to16:
                return (ushort)instruction.Immediate8to16;
            case OpKind.Immediate8to32:
                return (uint)instruction.Immediate8to32;
            case OpKind.Immediate8to64:
                return (ulong)instruction.Immediate8to64;
            case OpKind.Immediate32to64:
                return (ulong)instruction.Immediate32to64;
            default:
                throw new InvalidOperationException($"operand {operand} of {instruction.Code} is not a value");
        }
    }

    /// <summary>Writes a general register or memory operand of up to 8 bytes.</summary>
    /// <exception cref="GuestFault">#GP, #SS, #PF of a memory operand.</exception>
    internal void WriteOperand(in Instruction instruction, int operand, ulong value)
    {
        if (instruction.GetOpKind(operand) == OpKind.Register)
        {
            WriteRegister(instruction.GetOpRegister(operand), value);
            return;
        }
        int size = OperandSize(instruction);
        WriteLinear(OperandAddress(instruction, size, AccessKind.Write), value, size, B->Cpl == 3);
    }

    private static int OperandSize(in Instruction instruction)
    {
        int size = instruction.MemorySize.GetSize();
        return size is > 0 and <= 8 ? size : throw new InvalidOperationException($"{instruction.Code} has no memory operand of up to 8 bytes");
    }
}
