using Iced.Intel;

namespace Lodge.Engine.Translation.Processor;

// LGDT, LIDT, LLDT, LTR and their stores; LAR, LSL, VERR, VERW, ARPL (Intel SDM vol. 2; vol. 3, 2.4 and 5.10).
internal sealed unsafe partial class Vcpu
{
    private const ulong ZeroFlagPacked = 0x40 << 8;

    private void RequireProtectedMode()
    {
        if (!ProtectedMode || Virtual8086)
        {
            GuestFault.InvalidOpcode();
        }
    }

    // size: bytes of the base that the operand size gives: 3 (16-bit), 4 or 8.
    private void ExecuteLoadTable(in Instruction instruction, bool interrupt, int size)
    {
        RequireCpl0();
        int stored = size == 8 ? 8 : 4;
        ulong linear = OperandAddress(instruction, 2 + stored, AccessKind.Read);
        ushort limit = (ushort)ReadLinear(linear, 2, false);
        ulong address = ReadLinear(LongModeActive ? linear + 2 : (uint)(linear + 2), stored, false);
        if (size == 3)
        {
            address &= 0xFF_FFFF;
        }
        if (!CanonicalAddress(address))
        {
            GuestFault.GeneralProtection();
        }
        if (interrupt)
        {
            B->IdtrBase = address;
            B->IdtrLimit = limit;
        }
        else
        {
            B->GdtrBase = address;
            B->GdtrLimit = limit;
        }
    }

    // All of the 32-bit base is stored whatever the operand size, as processors since the 80386 do.
    private void ExecuteStoreTable(in Instruction instruction, bool interrupt)
    {
        RefuseUnderUmip();
        int stored = Code64 ? 8 : 4;
        ulong linear = OperandAddress(instruction, 2 + stored, AccessKind.Write);
        ulong address = interrupt ? B->IdtrBase : B->GdtrBase;
        Span<byte> data = stackalloc byte[10];
        BitConverter.TryWriteBytes(data, (ushort)(interrupt ? B->IdtrLimit : B->GdtrLimit));
        BitConverter.TryWriteBytes(data[2..], address);
        WriteLinear(linear, data[..(2 + stored)], B->Cpl == 3);
    }

    private void ExecuteLoadLdt(in Instruction instruction)
    {
        RequireProtectedMode();
        RequireCpl0();
        ushort selector = ReadSelector(instruction, 0);
        B->Ldtr = IsNull(selector) ? NullSegment(selector) : ReadSystemSegment(selector, Vector.GeneralProtection, false);
    }

    private void ExecuteLoadTask(in Instruction instruction)
    {
        RequireProtectedMode();
        RequireCpl0();
        ushort selector = ReadSelector(instruction, 0);
        if (IsNull(selector))
        {
            GuestFault.GeneralProtection();
        }
        Segment task = ReadSystemSegment(selector, Vector.GeneralProtection, true);
        ChangeDescriptorType(selector, 2, true);
        task.Attributes |= 2;
        B->Tr = task;
    }

    // LDT, or available TSS, of the GDT; 16-byte descriptors in long mode. Wrong: the vector given; absent: #NP.
    private Segment ReadSystemSegment(ushort selector, Vector vector, bool task)
    {
        uint error = SelectorError(selector);
        if ((selector & 4) != 0)
        {
            GuestFault.Raise(vector, error);
        }
        Segment value = ReadSegment(selector, vector);
        bool right = !value.IsCodeOrData
            && (task ? value.Type == TypeTss32 || (value.Type == TypeTss16 && !LongModeActive) : value.Type == TypeLdt);
        if (!right)
        {
            GuestFault.Raise(vector, error);
        }
        if (!value.Present)
        {
            GuestFault.Raise(task || vector != Vector.InvalidTss ? Vector.SegmentNotPresent : Vector.InvalidTss, error);
        }
        if (LongModeActive)
        {
            ulong upper = ReadUpperDescriptor(selector, vector);
            value.Base |= upper << 32;
            if (((upper >> 40) & 0x1F) != 0 || !CanonicalAddress(value.Base))
            {
                GuestFault.Raise(vector, error);
            }
        }
        return value;
    }

    private void SetZero(bool zero) => B->PackedFlags = zero ? B->PackedFlags | ZeroFlagPacked : B->PackedFlags & ~ZeroFlagPacked;

    // LAR and LSL.
    private void ExecuteInspect(in Instruction instruction, bool limit)
    {
        RequireProtectedMode();
        ushort selector = ReadSelector(instruction, 1);
        bool visible = TryInspect(selector, out ulong descriptor, out Segment segment);
        if (visible && !segment.IsCodeOrData)
        {
            // Bit n: type n can be inspected: TSSs, LDT; by LAR gates too.
            int types = LongModeActive ? limit ? 0x0A04 : 0x1A04 : limit ? 0x0A0E : 0x1A3E;
            visible = (types & (1 << segment.Type)) != 0;
        }
        SetZero(visible);
        if (visible)
        {
            WriteRegister(instruction.Op0Register, limit ? segment.Limit : (descriptor >> 32) & 0xF0FF00);
        }
    }

    private void ExecuteVerify(in Instruction instruction, bool write)
    {
        RequireProtectedMode();
        ushort selector = ReadSelector(instruction, 0);
        SetZero(TryInspect(selector, out _, out Segment segment) && (write ? IsWritableData(segment) : IsReadable(segment)));
    }

    // A descriptor that the program may know of: in its table, and privileged enough unless a conforming code segment.
    private bool TryInspect(ushort selector, out ulong descriptor, out Segment segment)
    {
        descriptor = 0;
        segment = default;
        if (IsNull(selector) || !TryDescriptorAddress(selector, 8, out ulong address))
        {
            return false;
        }
        descriptor = ReadLinear(address, 8, false);
        segment = ParseDescriptor(selector, descriptor);
        return IsConforming(segment) || ((uint)segment.Dpl >= B->Cpl && segment.Dpl >= (selector & 3));
    }

    private void ExecuteAdjustRpl(in Instruction instruction)
    {
        RequireProtectedMode();
        ushort requested = ReadSelector(instruction, 1);
        ushort selector = ReadSelector(instruction, 0);
        bool lower = (selector & 3) < (requested & 3);
        if (lower)
        {
            ushort adjusted = (ushort)((selector & ~3) | (requested & 3));
            if (instruction.Op0Kind == OpKind.Register)
            {
                // 16 bits whatever the operand size, unlike STR and SLDT.
                ref ulong register = ref B->Gpr[instruction.Op0Register.GetNumber()];
                register = (register & ~0xFFFFUL) | adjusted;
            }
            else
            {
                WriteSelector(instruction, adjusted);
            }
        }
        SetZero(lower);
    }
}
