using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

// The stack (Intel SDM vol. 1, 6.2; vol. 2: PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE).
internal sealed unsafe partial class Vcpu
{
    /// <summary>Bytes of the stack pointer in use: 8 in 64-bit code, else 4 or 2 by SS.B.</summary>
    internal int StackWidth => Code64 ? 8 : Segment(Seg.Ss)->Default32 ? 4 : 2;

    /// <summary>RSP, ESP or SP by the width of the stack; assigning truncates to that width.</summary>
    internal ulong StackPointer
    {
        get => B->Gpr[4] & WidthMask(StackWidth);
        set => WriteWidth(ref B->Gpr[4], value, StackWidth);
    }

    /// <summary>Pushes the low <paramref name="size"/> (2, 4 or 8) bytes. RSP changes only when the store succeeds.</summary>
    /// <exception cref="GuestFault">#SS or #PF.</exception>
    internal void Push(ulong value, int size)
    {
        ulong pointer = (B->Gpr[4] - (uint)size) & WidthMask(StackWidth);
        WriteLinear(LinearAddress(Seg.Ss, pointer, size, AccessKind.Write), value & WidthMask(size), size, UserMode);
        StackPointer = pointer;
    }

    /// <summary>Pops <paramref name="size"/> (2, 4 or 8) bytes, zero-extended.</summary>
    /// <exception cref="GuestFault">#SS or #PF; RSP is unchanged.</exception>
    internal ulong Pop(int size)
    {
        ulong pointer = StackPointer;
        ulong value = ReadLinear(LinearAddress(Seg.Ss, pointer, size, AccessKind.Read), size, UserMode);
        StackPointer = pointer + (uint)size;
        return value;
    }

    private bool TryExecuteStack(in Instruction instruction)
    {
        switch (instruction.Mnemonic)
        {
            case Mnemonic.Push:
                if (instruction.Op0Kind == OpKind.Register && instruction.Op0Register.IsSegmentRegister())
                {
                    return false;
                }
                Push(instruction.Op0Kind is OpKind.Register or OpKind.Memory ? ReadOperand(instruction, 0) : instruction.GetImmediate(0), -instruction.StackPointerIncrement);
                return true;
            case Mnemonic.Pop:
                if (instruction.Op0Kind == OpKind.Register && instruction.Op0Register.IsSegmentRegister())
                {
                    return false;
                }
                PopOperand(instruction);
                return true;
            case Mnemonic.Pusha:
            case Mnemonic.Pushad:
                PushAll(instruction.Code == Code.Pushaw ? 2 : 4);
                return true;
            case Mnemonic.Popa:
            case Mnemonic.Popad:
                PopAll(instruction.Code == Code.Popaw ? 2 : 4);
                return true;
            case Mnemonic.Pushf:
            case Mnemonic.Pushfd:
            case Mnemonic.Pushfq:
                PushFlags(instruction.Code == Code.Pushfw ? 2 : instruction.Code == Code.Pushfd ? 4 : 8);
                return true;
            case Mnemonic.Popf:
            case Mnemonic.Popfd:
            case Mnemonic.Popfq:
                PopFlags(instruction.Code == Code.Popfw ? 2 : instruction.Code == Code.Popfd ? 4 : 8);
                return true;
            case Mnemonic.Enter:
                Enter(instruction.Code == Code.Enterw_imm16_imm8 ? 2 : instruction.Code == Code.Enterd_imm16_imm8 ? 4 : 8, instruction.Immediate16, instruction.Immediate8_2nd & 31);
                return true;
            case Mnemonic.Leave:
                Leave(instruction.Code == Code.Leavew ? 2 : instruction.Code == Code.Leaved ? 4 : 8);
                return true;
            default:
                return false;
        }
    }

    // The address of a memory operand based on RSP uses the incremented RSP; a fault of the store leaves the old one.
    private void PopOperand(in Instruction instruction)
    {
        ulong before = B->Gpr[4];
        ulong value = Pop(instruction.StackPointerIncrement);
        if (instruction.Op0Kind == OpKind.Register)
        {
            WriteRegister(instruction.Op0Register, value);
            return;
        }
        try
        {
            WriteOperand(instruction, 0, value);
        }
        catch (GuestFault)
        {
            B->Gpr[4] = before;
            throw;
        }
    }

    private void PushAll(int size)
    {
        ulong mask = WidthMask(StackWidth), top = StackPointer;
        ulong* addresses = stackalloc ulong[8];
        for (int i = 0; i < 8; i++)
        {
            addresses[i] = LinearAddress(Seg.Ss, (top - ((uint)(i + 1) * (uint)size)) & mask, size, AccessKind.Write);
            ProbeWrite(addresses[i], size, UserMode);
        }
        for (int i = 0; i < 8; i++)
        {
            WriteLinear(addresses[i], B->Gpr[i] & WidthMask(size), size, UserMode);
        }
        StackPointer = top - (8 * (uint)size);
    }

    private void PopAll(int size)
    {
        ulong mask = WidthMask(StackWidth), top = StackPointer;
        ulong* values = stackalloc ulong[8];
        for (int i = 0; i < 8; i++)
        {
            values[i] = i == 3 ? 0 : ReadLinear(LinearAddress(Seg.Ss, (top + ((uint)i * (uint)size)) & mask, size, AccessKind.Read), size, UserMode);
        }
        for (int i = 0; i < 8; i++)
        {
            // The image of (E)SP, fourth from the top, is skipped.
            if (i != 3)
            {
                WriteWidth(ref B->Gpr[7 - i], values[i], size);
            }
        }
        StackPointer = top + (8 * (uint)size);
    }

    private void PushFlags(int size)
    {
        ulong flags = Rflags;
        if (Virtual8086 && IoPrivilegeLevel < 3)
        {
            // Virtual-8086 mode extensions: the task sees its virtual interrupt flag and IOPL 3 (vol. 3, 21.3.3.4).
            if ((B->Cr4 & 1) == 0 || size != 2)
            {
                GuestFault.GeneralProtection();
            }
            flags = (flags & ~(ulong)FlagIf) | FlagIopl | ((flags & FlagVif) != 0 ? FlagIf : 0);
        }
        Push(flags & ~(ulong)(FlagVm | FlagRf), size);
    }

    private void PopFlags(int size)
    {
        uint changeable = FlagCf | FlagPf | FlagAf | FlagZf | FlagSf | FlagTf | FlagDf | FlagOf | FlagNt | FlagAc | FlagId;
        if (!ProtectedMode || (!Virtual8086 && B->Cpl == 0))
        {
            changeable |= FlagIf | FlagIopl;
        }
        else if (!Virtual8086)
        {
            changeable |= B->Cpl <= (uint)IoPrivilegeLevel ? FlagIf : 0;
        }
        else if (IoPrivilegeLevel == 3)
        {
            changeable |= FlagIf;
        }
        else if ((B->Cr4 & 1) == 0 || size != 2)
        {
            GuestFault.GeneralProtection();
        }
        else
        {
            PopVirtualFlags(changeable & 0xFFFF);
            return;
        }
        changeable &= (uint)WidthMask(size);
        uint image = (uint)Pop(size);
        ChangeFlags((Rflags & ~(ulong)changeable) | (image & changeable));
    }

    // POPF in virtual-8086 mode with VME and IOPL below 3: IF of the image goes to VIF.
    private void PopVirtualFlags(uint changeable)
    {
        ulong flags = Rflags;
        uint image = (uint)ReadLinear(LinearAddress(Seg.Ss, StackPointer, 2, AccessKind.Read), 2, UserMode);
        if ((image & FlagTf) != 0 || ((flags & FlagVip) != 0 && (image & FlagIf) != 0))
        {
            GuestFault.GeneralProtection();
        }
        StackPointer += 2;
        flags = (flags & ~(ulong)(changeable | FlagVif)) | (image & changeable);
        ChangeFlags((image & FlagIf) != 0 ? flags | FlagVif : flags);
    }

    private void ChangeFlags(ulong value)
    {
        ulong changed = Rflags ^ value;
        Rflags = value;
        if ((changed & (FlagTf | FlagAc | FlagVm)) != 0)
        {
            UpdateMode();
        }
    }

    private void Enter(int size, uint allocation, int level)
    {
        int width = StackWidth;
        ulong mask = WidthMask(width), top = StackPointer, frame = (top - (uint)size) & mask, display = B->Gpr[5];
        int pushes = level == 0 ? 1 : level + 1;
        ulong final = (top - ((uint)pushes * (uint)size) - allocation) & mask;

        // All that can fault comes first, so that a restart finds memory as it was; the frame pointers may overlap what is pushed.
        for (int i = 1; i <= pushes; i++)
        {
            ProbeWrite(LinearAddress(Seg.Ss, (top - ((uint)i * (uint)size)) & mask, size, AccessKind.Write), size, UserMode);
        }
        for (int i = 1; i < level; i++)
        {
            ReadLinear(LinearAddress(Seg.Ss, (display - ((uint)i * (uint)size)) & mask, size, AccessKind.Read), size, UserMode);
        }
        ProbeWrite(LinearAddress(Seg.Ss, final, 1, AccessKind.Write), 1, UserMode);

        Push(display, size);
        for (int i = 1; i < level; i++)
        {
            Push(ReadLinear(LinearAddress(Seg.Ss, (display - ((uint)i * (uint)size)) & mask, size, AccessKind.Read), size, UserMode), size);
        }
        if (level > 0)
        {
            Push(frame, size);
        }
        WriteWidth(ref B->Gpr[5], frame, Math.Min(size, width));
        StackPointer = final;
    }

    private void Leave(int size)
    {
        ulong pointer = B->Gpr[5] & WidthMask(StackWidth);
        ulong value = ReadLinear(LinearAddress(Seg.Ss, pointer, size, AccessKind.Read), size, UserMode);
        StackPointer = pointer + (uint)size;
        WriteWidth(ref B->Gpr[5], value, size);
    }
}
