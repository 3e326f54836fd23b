using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

// MOV, POP, PUSH and Lxx of segment registers (Intel SDM vol. 2, MOV; vol. 3, 6.5-6.7).
internal sealed unsafe partial class Vcpu
{
    /// <summary>Loads DS, ES, FS, GS or SS with all checks.</summary>
    /// <exception cref="GuestFault">#GP, #SS, #NP with the selector; #PF of the table.</exception>
    internal void LoadSegment(int segment, ushort selector) => CommitSegment(segment, PrepareSegment(segment, selector));

    private void CommitSegment(int segment, in Segment value)
    {
        *Segment(segment) = value;
        // In 64-bit code only CS, and never FS or GS, shape the mode.
        if (segment < Seg.Fs && !Code64)
        {
            UpdateMode();
        }
    }

    // All checks of a load, and what it would load.
    private Segment PrepareSegment(int segment, ushort selector)
    {
        if (!ProtectedMode || Virtual8086)
        {
            return RealSegment(segment, selector);
        }
        if (segment == Seg.Ss)
        {
            return PrepareStackSegment(selector);
        }
        if (IsNull(selector))
        {
            return NullSegment(selector);
        }
        Segment value = ReadSegment(selector, Vector.GeneralProtection);
        int rpl = selector & 3;
        if (!IsReadable(value) || (!IsConforming(value) && (rpl > value.Dpl || B->Cpl > (uint)value.Dpl)))
        {
            GuestFault.GeneralProtection(SelectorError(selector));
        }
        if (!value.Present)
        {
            GuestFault.Raise(Vector.SegmentNotPresent, SelectorError(selector));
        }
        MarkAccessed(ref value);
        return value;
    }

    private Segment PrepareStackSegment(ushort selector)
    {
        uint rpl = selector & 3u;
        if (IsNull(selector))
        {
            if (!Code64 || B->Cpl == 3 || rpl != B->Cpl)
            {
                GuestFault.GeneralProtection();
            }
            return NullSegment(selector);
        }
        Segment value = ReadSegment(selector, Vector.GeneralProtection);
        if (rpl != B->Cpl || !IsWritableData(value) || (uint)value.Dpl != B->Cpl)
        {
            GuestFault.GeneralProtection(SelectorError(selector));
        }
        if (!value.Present)
        {
            GuestFault.Raise(Vector.StackFault, SelectorError(selector));
        }
        MarkAccessed(ref value);
        return value;
    }

    // Unusable; the DPL follows the RPL, so that a null SS still tells its privilege level.
    private static Segment NullSegment(ushort selector) => new()
    {
        Selector = selector,
        Attributes = Translation.Processor.Segment.AttributeUnusable | ((selector & 3u) << 5),
    };

    // Real mode keeps limit and size of the last protected-mode load ("unreal" mode); virtual 8086 mode fixes them (22.2).
    private Segment RealSegment(int segment, ushort selector)
    {
        Segment value = *Segment(segment);
        bool virtual8086 = Virtual8086;
        value.Selector = selector;
        value.Base = (ulong)selector << 4;
        if (virtual8086 || value.Unusable)
        {
            value.Limit = 0xFFFF;
            value.Attributes = 0;
        }
        value.Attributes = virtual8086 ? 0xF3 : (value.Attributes & 0xC000) | (segment == Seg.Cs ? 0x9Bu : 0x93u);
        return value;
    }

    private static int SegmentOf(Register register) => register - Register.ES;

    private void ExecuteMoveSegment(in Instruction instruction)
    {
        if (instruction.Op0Kind == OpKind.Register && instruction.Op0Register.IsSegmentRegister())
        {
            int segment = SegmentOf(instruction.Op0Register);
            if (segment == Seg.Cs)
            {
                GuestFault.InvalidOpcode();
            }
            LoadSegment(segment, ReadSelector(instruction, 1));
            if (segment == Seg.Ss)
            {
                B->InterruptShadow = Shadow.StackSegment;
            }
            return;
        }
        WriteSelector(instruction, Segment(SegmentOf(instruction.Op1Register))->Selector);
    }

    // A selector operand: 16 bits in memory, the low 16 of a register of any width.
    private ushort ReadSelector(in Instruction instruction, int operand) => instruction.GetOpKind(operand) == OpKind.Register
        ? (ushort)ReadRegister(instruction.GetOpRegister(operand))
        : (ushort)ReadLinear(OperandAddress(instruction, 2, AccessKind.Read), 2, B->Cpl == 3);

    private void WriteSelector(in Instruction instruction, ushort value)
    {
        if (instruction.Op0Kind == OpKind.Register)
        {
            WriteRegister(instruction.Op0Register, value);
        }
        else
        {
            WriteLinear(OperandAddress(instruction, 2, AccessKind.Write), value, 2, B->Cpl == 3);
        }
    }

    // PUSH of a 32-bit wide segment register stores 16 bits only, as recent processors do (SDM vol. 2, PUSH).
    private void ExecutePushSegment(Register register, int size)
    {
        StackCursor stack = CurrentStack();
        PushOn(ref stack, Segment(SegmentOf(register))->Selector, size == 4 ? 2 : size, size);
        CommitStackPointer(stack);
    }

    private void ExecutePopSegment(Register register, int size)
    {
        int segment = SegmentOf(register);
        StackCursor stack = CurrentStack();
        ushort selector = (ushort)PopFrom(ref stack, size);
        Segment value = PrepareSegment(segment, selector);
        CommitStackPointer(stack);
        CommitSegment(segment, value);
        if (segment == Seg.Ss)
        {
            B->InterruptShadow = Shadow.StackSegment;
        }
    }

    private void ExecuteLoadFarPointer(in Instruction instruction, int segment)
    {
        ulong offset = ReadFarPointer(instruction, instruction.Op0Register.GetSize(), out ushort selector);
        Segment value = PrepareSegment(segment, selector);
        WriteRegister(instruction.Op0Register, offset);
        CommitSegment(segment, value);
    }

    // m16:16, m16:32, m16:64: offset first.
    private ulong ReadFarPointer(in Instruction instruction, int size, out ushort selector)
    {
        ulong linear = OperandAddress(instruction, size + 2, AccessKind.Read);
        bool user = B->Cpl == 3;
        ulong offset = ReadLinear(linear, size, user);
        ulong second = linear + (ulong)size;
        selector = (ushort)ReadLinear(LongModeActive ? second : (uint)second, 2, user);
        return offset;
    }
}
