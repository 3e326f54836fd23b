using System.Buffers.Binary;

namespace Lodge.Engine.Translation.Processor;

// Hardware task switches (Intel SDM vol. 3, chapter 8).
internal sealed unsafe partial class Vcpu
{
    /// <summary>What starts a task switch: decides busy bits, NT and the back link (table 8-2).</summary>
    private enum TaskSwitchCause
    {
        Jump,
        Call,
        Interrupt,
        Return,
    }

    private const int BusyBit = 2;

    /// <summary>
    /// Switches to the task of a TSS selector. Up to the point of no return faults are the old task's; after it they are the new one's, with
    /// B->Rip and B->NextRip there.
    /// </summary>
    /// <param name="selector">TSS.</param>
    /// <param name="cause">Why.</param>
    /// <param name="returnRip">Where the old task goes on.</param>
    /// <param name="flags">Flags image of the old task.</param>
    /// <param name="errorCode">Pushed on the new task's stack.</param>
    private void SwitchTask(ushort selector, TaskSwitchCause cause, ulong returnRip, ulong flags, uint? errorCode)
    {
        bool returning = cause == TaskSwitchCause.Return;
        Segment task = ReadTask(selector, returning);
        bool wide = (task.Type & 8) != 0;
        Span<byte> state = stackalloc byte[104];
        state = state[..(wide ? 104 : 44)];
        ReadLinear(task.Base, state, false);

        // Everything that is about to be written must be writable.
        bool oldWide = (B->Tr.Type & 8) != 0;
        int savedAt = oldWide ? 0x20 : 0x0E, savedSize = oldWide ? 0x40 : 0x1C;
        ProbeWrite(TableAddress(B->Tr.Base, (uint)savedAt), savedSize, false);
        bool nested = cause is TaskSwitchCause.Call or TaskSwitchCause.Interrupt;
        if (nested)
        {
            ProbeWrite(task.Base, 2, false);
        }
        TryDescriptorAddress(selector, 8, out ulong descriptor);
        ProbeWrite(descriptor + 5, 1, false);
        ushort oldSelector = B->Tr.Selector;
        bool oldDescribed = !IsNull(oldSelector) && TryDescriptorAddress(oldSelector, 8, out descriptor);
        if (oldDescribed)
        {
            ProbeWrite(descriptor + 5, 1, false);
        }

        if (!nested && oldDescribed)
        {
            ChangeDescriptorType(oldSelector, BusyBit, false);
        }
        SaveTask(oldWide, savedAt, savedSize, returnRip, flags);
        if (nested)
        {
            WriteLinear(task.Base, oldSelector, 2, false);
        }
        if (!returning)
        {
            ChangeDescriptorType(selector, BusyBit, true);
            task.Attributes |= BusyBit;
        }
        B->Tr = task;
        B->Cr0 |= 8;
        try
        {
            LoadTask(state, wide, nested, errorCode);
        }
        finally
        {
            UpdateMode();
        }
        if (wide && (state[100] & 1) != 0)
        {
            GuestFault.Raise(Vector.Debug, null, DebugTaskSwitch);
        }
    }

    // A TSS in the GDT, available, or busy for IRET; present and long enough.
    private Segment ReadTask(ushort selector, bool busy)
    {
        Vector wrong = busy ? Vector.InvalidTss : Vector.GeneralProtection;
        uint error = SelectorError(selector);
        if (IsNull(selector) || (selector & 4) != 0)
        {
            GuestFault.Raise(wrong, error);
        }
        Segment task = ReadSegment(selector, wrong);
        if (task.IsCodeOrData || (task.Type & ~8) != (busy ? TypeTss16 | BusyBit : TypeTss16))
        {
            GuestFault.Raise(wrong, error);
        }
        CheckPresent(task);
        if (task.Limit < ((task.Type & 8) != 0 ? 0x67u : 0x2Bu))
        {
            GuestFault.Raise(Vector.InvalidTss, error);
        }
        return task;
    }

    // EIP, EFLAGS, general registers, ES CS SS DS (FS GS); the fields between selectors keep what they hold.
    private void SaveTask(bool wide, int at, int size, ulong rip, ulong flags)
    {
        ulong address = TableAddress(B->Tr.Base, (uint)at);
        Span<byte> saved = stackalloc byte[0x40];
        saved = saved[..size];
        ReadLinear(address, saved, false);
        int width = wide ? 4 : 2;
        PutTaskField(saved, 0, width, (uint)rip);
        PutTaskField(saved, width, width, (uint)flags);
        for (int i = 0; i < 8; i++)
        {
            PutTaskField(saved, (2 + i) * width, width, (uint)B->Gpr[i]);
        }
        int segments = wide ? 6 : 4;
        for (int i = 0; i < segments; i++)
        {
            PutTaskField(saved, (10 + i) * width, 2, Segment(i)->Selector);
        }
        WriteLinear(address, saved, false);
    }

    private static void PutTaskField(Span<byte> saved, int at, int width, uint value)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(saved[at..], (ushort)value);
        if (width == 4)
        {
            BinaryPrimitives.WriteUInt16LittleEndian(saved[(at + 2)..], (ushort)(value >> 16));
        }
    }

    private static uint TaskField(ReadOnlySpan<byte> state, int at, bool wide) =>
        wide ? BinaryPrimitives.ReadUInt32LittleEndian(state[at..]) : BinaryPrimitives.ReadUInt16LittleEndian(state[at..]);

    private void LoadTask(ReadOnlySpan<byte> state, bool wide, bool nested, uint? errorCode)
    {
        int width = wide ? 4 : 2, at = wide ? 0x20 : 0x0E;
        uint rip = TaskField(state, at, wide);
        uint flags = TaskField(state, at + width, wide);
        for (int i = 0; i < 8; i++)
        {
            B->Gpr[i] = TaskField(state, at + ((2 + i) * width), wide);
        }
        Rflags = (flags & FlagBits.All) | (nested ? FlagBits.NestedTask : 0);
        B->Rip = rip;
        B->NextRip = rip;
        B->InterruptShadow = 0;
        B->Dr7 &= ~0x155UL; // L0-L3 and LE belong to the task
        // Selectors first: a fault on the way shows them all, with nothing loaded.
        for (int i = 0; i < 6; i++)
        {
            ushort selector = i < (wide ? 6 : 4) ? (ushort)TaskField(state, at + ((10 + i) * width), false) : (ushort)0;
            *Segment(i) = UnloadedSegment(selector);
        }
        B->Ldtr = UnloadedSegment((ushort)TaskField(state, wide ? 0x60 : 0x2A, false));
        bool virtual8086 = Virtual8086;
        B->Cpl = virtual8086 ? 3 : Segment(Seg.Cs)->Selector & 3u;
        UpdateDataWatch();
        if (wide && (B->Cr0 >> 31 & 1) != 0)
        {
            SetCr3(TaskField(state, 0x1C, true));
        }
        if (!IsNull(B->Ldtr.Selector))
        {
            B->Ldtr = ReadSystemSegment(B->Ldtr.Selector, Vector.InvalidTss, false);
        }
        if (virtual8086)
        {
            for (int i = 0; i < 6; i++)
            {
                *Segment(i) = RealSegment(i, Segment(i)->Selector);
            }
        }
        else
        {
            LoadTaskSegments();
        }
        if (errorCode is { } error)
        {
            StackCursor stack = CurrentStack();
            PushOn(ref stack, error, width);
            CommitStackPointer(stack);
        }
        if (rip > Segment(Seg.Cs)->Limit)
        {
            GuestFault.GeneralProtection();
        }
    }

    private static Segment UnloadedSegment(ushort selector) => new() { Selector = selector, Attributes = Translation.Processor.Segment.AttributeUnusable };

    // Segment checks of a new task: #TS where a load would be #GP (table 8-1).
    private void LoadTaskSegments()
    {
        ushort selector = Segment(Seg.Cs)->Selector;
        int cpl = selector & 3;
        Segment code = ReadTaskSegment(selector);
        if (!IsCode(code) || (IsConforming(code) ? code.Dpl > cpl : code.Dpl != cpl))
        {
            GuestFault.Raise(Vector.InvalidTss, SelectorError(selector));
        }
        CheckPresent(code);
        MarkAccessed(ref code);
        *Segment(Seg.Cs) = code;

        selector = Segment(Seg.Ss)->Selector;
        Segment stack = ReadTaskSegment(selector);
        if (!IsWritableData(stack) || stack.Dpl != cpl || (selector & 3) != cpl)
        {
            GuestFault.Raise(Vector.InvalidTss, SelectorError(selector));
        }
        if (!stack.Present)
        {
            GuestFault.Raise(Vector.StackFault, SelectorError(selector));
        }
        MarkAccessed(ref stack);
        *Segment(Seg.Ss) = stack;

        ReadOnlySpan<byte> rest = [Seg.Ds, Seg.Es, Seg.Fs, Seg.Gs];
        foreach (byte index in rest)
        {
            selector = Segment(index)->Selector;
            if (IsNull(selector))
            {
                continue;
            }
            Segment data = ReadTaskSegment(selector);
            if (!IsReadable(data) || (!IsConforming(data) && (data.Dpl < cpl || data.Dpl < (selector & 3))))
            {
                GuestFault.Raise(Vector.InvalidTss, SelectorError(selector));
            }
            CheckPresent(data);
            MarkAccessed(ref data);
            *Segment(index) = data;
        }
    }

    private Segment ReadTaskSegment(ushort selector)
    {
        if (IsNull(selector))
        {
            GuestFault.Raise(Vector.InvalidTss, SelectorError(selector));
        }
        return ReadSegment(selector, Vector.InvalidTss);
    }
}
