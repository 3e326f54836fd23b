namespace Lodge.Engine.Translation.Processor;

// IRET, IRETD, IRETQ (Intel SDM vol. 2; vol. 3, 7.12, 22.3.1 and 22.3.3.4).
internal sealed unsafe partial class Vcpu
{
    private void InterruptReturn(int size)
    {
        // NMIs are unblocked even by an IRET that faults (vol. 3, 7.7.1).
        B->NmiBlocked = 0;
        if (!ProtectedMode)
        {
            StackCursor stack = CurrentStack();
            ulong rip = PopFrom(ref stack, size);
            var selector = (ushort)PopFrom(ref stack, size);
            ulong flags = PopFrom(ref stack, size);
            JumpRealMode(selector, rip);
            CommitStackPointer(stack);
            LoadFlags(flags, size == 2 ? FlagBits.All & 0xFFFF : 0x257FD5);
        }
        else if (Virtual8086)
        {
            ReturnInVirtual8086(size);
        }
        else if ((B->SystemFlags & FlagBits.NestedTask) != 0)
        {
            if (LongModeActive)
            {
                GuestFault.GeneralProtection();
            }
            var selector = (ushort)ReadLinear(TableAddress(B->Tr.Base, 0), 2, false);
            SwitchTask(selector, TaskSwitchCause.Return, B->NextRip, Rflags & ~FlagBits.NestedTask, null);
        }
        else
        {
            ReturnInProtectedMode(size);
        }
    }

    private void LoadFlags(ulong value, ulong mask)
    {
        Rflags = (Rflags & ~mask) | (value & mask);
        UpdateMode();
    }

    private void ReturnInVirtual8086(int size)
    {
        bool extended = (B->SystemFlags & FlagBits.Iopl) != FlagBits.Iopl;
        if (extended && ((B->Cr4 & 1) == 0 || size != 2))
        {
            GuestFault.GeneralProtection();
        }
        StackCursor stack = CurrentStack();
        ulong rip = PopFrom(ref stack, size);
        var selector = (ushort)PopFrom(ref stack, size);
        ulong flags = PopFrom(ref stack, size);
        // IOPL, VM, VIF and VIP stay.
        ulong mask = (size == 2 ? 0xFFFF : FlagBits.All) & ~(FlagBits.Iopl | FlagBits.Virtual8086 | FlagBits.VirtualInterrupt | FlagBits.VirtualInterruptPending);
        if (extended)
        {
            // CR4.VME: the program's IF is VIF.
            bool enables = (flags & FlagBits.Interrupt) != 0;
            if ((flags & FlagBits.Trap) != 0 || (enables && (B->SystemFlags & FlagBits.VirtualInterruptPending) != 0))
            {
                GuestFault.GeneralProtection();
            }
            flags = (flags & ~FlagBits.VirtualInterrupt) | (enables ? FlagBits.VirtualInterrupt : 0);
            mask = (mask & ~FlagBits.Interrupt) | FlagBits.VirtualInterrupt;
        }
        JumpRealMode(selector, rip);
        CommitStackPointer(stack);
        LoadFlags(flags, mask & (FlagBits.All | FlagBits.VirtualInterrupt));
    }

    private void ReturnInProtectedMode(int size)
    {
        StackCursor stack = CurrentStack();
        bool wide = stack.Wide;
        ulong rip = PopFrom(ref stack, size);
        var selector = (ushort)PopFrom(ref stack, size);
        ulong flags = PopFrom(ref stack, size);
        if ((flags & FlagBits.Virtual8086) != 0 && size == 4 && B->Cpl == 0 && !LongModeActive)
        {
            ReturnToVirtual8086(stack, rip, selector, flags);
            return;
        }
        Segment code = PrepareReturnCode(selector);
        uint oldCpl = B->Cpl, rpl = selector & 3u;
        bool outer = rpl != oldCpl;
        if (wide || outer)
        {
            ulong pointer = PopFrom(ref stack, size);
            Segment stackSegment = PrepareReturnStack((ushort)PopFrom(ref stack, size), code, rpl);
            CheckCodeOffset(code, rip);
            MarkAccessed(ref code);
            CommitReturnStack(stackSegment, pointer, code, 0);
        }
        else
        {
            CheckCodeOffset(code, rip);
            MarkAccessed(ref code);
            CommitStackPointer(stack);
        }
        ulong mask = FlagBits.Arithmetic | FlagBits.Trap | FlagBits.Direction | FlagBits.NestedTask;
        mask |= size != 2 ? FlagBits.Resume | FlagBits.AlignmentCheck | FlagBits.Identification : 0;
        mask |= oldCpl <= ((B->SystemFlags >> 12) & 3) ? FlagBits.Interrupt : 0;
        mask |= oldCpl == 0 ? FlagBits.Iopl : 0;
        mask |= oldCpl == 0 && size != 2 ? FlagBits.VirtualInterrupt | FlagBits.VirtualInterruptPending : 0;
        Rflags = (Rflags & ~mask) | (flags & mask);
        CommitCode(code, rpl, rip);
        if (outer)
        {
            DropPrivilegedSegments();
        }
    }

    private void ReturnToVirtual8086(StackCursor stack, ulong rip, ushort code, ulong flags)
    {
        if (rip > 0xFFFF)
        {
            GuestFault.GeneralProtection();
        }
        ulong pointer = PopFrom(ref stack, 4);
        ReadOnlySpan<byte> order = [Seg.Ss, Seg.Es, Seg.Ds, Seg.Fs, Seg.Gs];
        Span<ushort> selectors = stackalloc ushort[6];
        foreach (byte segment in order)
        {
            selectors[segment] = (ushort)PopFrom(ref stack, 4);
        }
        selectors[Seg.Cs] = code;
        Rflags = flags & FlagBits.All;
        for (int i = 0; i < 6; i++)
        {
            *Segment(i) = RealSegment(i, selectors[i]);
        }
        B->Gpr[4] = pointer;
        B->Cpl = 3;
        B->NextRip = rip;
        UpdateMode();
    }
}
