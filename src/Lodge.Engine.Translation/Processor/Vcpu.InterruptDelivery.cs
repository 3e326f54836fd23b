using Lodge.Engine.Processor;

namespace Lodge.Engine.Translation.Processor;

// Delivery of exceptions, interrupts, NMIs and software interrupts (Intel SDM vol. 3, chapter 7; real mode 22.1.4; virtual 8086 mode 22.3).
internal sealed unsafe partial class Vcpu
{
    /// <summary>Where an event comes from, which decides the EXT bit and the privilege check of its gate.</summary>
    private enum EventSource
    {
        /// <summary>Interrupt, NMI or exception: EXT, no privilege check.</summary>
        External,

        /// <summary>INT1: EXT, no privilege check, but an instruction.</summary>
        PrivilegedSoftware,

        /// <summary>INT n.</summary>
        Software,

        /// <summary>INT3, INTO: never by way of IOPL or the redirection bitmap.</summary>
        SoftwareTrap,
    }

    private const ulong DebugTaskSwitch = 0x8000, DebugDetect = 0x2000;

    /// <summary>
    /// Delivers an exception with B->Rip as its return address (past the instruction for traps). Faults on the way become what table 7-5 says, at
    /// last a double fault. Never throws. B->Rip is the handler afterwards.
    /// </summary>
    /// <returns>False: triple fault; the processor is shut down.</returns>
    internal bool DeliverException(Vector vector, uint? errorCode, ulong address) => DeliverEvent((byte)vector, true, errorCode, address);

    /// <summary>Delivers an external interrupt; otherwise as <see cref="DeliverException"/>.</summary>
    internal bool DeliverInterrupt(byte vector) => DeliverEvent(vector, false, null, 0);

    /// <summary>Delivers an NMI and blocks further ones until IRET; otherwise as <see cref="DeliverException"/>.</summary>
    internal bool DeliverNmi()
    {
        B->NmiBlocked = 1;
        return DeliverEvent((byte)Vector.Nmi, false, null, 0);
    }

    // An event that another engine had begun to deliver when the processor was saved.
    private PendingEvent? _pendingEvent;

    private void DeliverPending(in PendingEvent pending)
    {
        B->Activity = (uint)ActivityState.Active;
        switch (pending.Kind)
        {
            case PendingEventKind.Exception:
                // CR2 and DR6 already hold what the exception recorded.
                DeliverException((Vector)pending.Vector, pending.ErrorCode, (Vector)pending.Vector == Vector.PageFault ? B->Cr2 : B->Dr6 & 0xE00F);
                break;
            case PendingEventKind.Interrupt:
                DeliverInterrupt(pending.Vector);
                break;
            default:
                DeliverNmi();
                break;
        }
    }

    private bool DeliverEvent(byte vector, bool exception, uint? errorCode, ulong address)
    {
        B->InterruptShadow = 0;
        while (true)
        {
            ulong flags = Rflags;
            if (exception)
            {
                flags = RecordException((Vector)vector, address, flags);
            }
            try
            {
                InvokeHandler(vector, EventSource.External, errorCode, B->Rip, flags);
                B->Rip = B->NextRip;
                return true;
            }
            catch (GuestFault fault)
            {
                // A task switch may have moved RIP to the new task, whose fault this then is.
                if (fault.Vector == Vector.PageFault)
                {
                    B->Cr2 = fault.Address;
                }
                FaultClass first = exception ? ClassOf((Vector)vector) : FaultClass.Benign, second = ClassOf(fault.Vector);
                bool bad = second == FaultClass.Contributory || (second == FaultClass.PageFault && first != FaultClass.Contributory);
                if (exception && (Vector)vector == Vector.DoubleFault && second != FaultClass.Benign)
                {
                    B->Activity = (uint)ActivityState.Shutdown;
                    return false;
                }
                if (first != FaultClass.Benign && bad)
                {
                    (vector, errorCode, address) = ((byte)Vector.DoubleFault, 0, 0);
                }
                else
                {
                    (vector, errorCode, address) = ((byte)fault.Vector, WithExternalBit(fault), fault.Address);
                }
                exception = true;
            }
        }
    }

    /// <summary>
    /// INT n, INT3, INTO and INT1: the return address is B->NextRip, which becomes the handler. No #DF: a fault here is the instruction's own.
    /// </summary>
    /// <exception cref="GuestFault">#GP, #NP, #SS, #TS, #PF.</exception>
    internal void DeliverSoftwareInterrupt(byte vector) => InvokeHandler(vector, EventSource.Software, null, B->NextRip, Rflags & ~FlagBits.Resume);

    /// <summary>INT3 and INTO.</summary>
    internal void DeliverSoftwareTrap(Vector vector) => InvokeHandler((byte)vector, EventSource.SoftwareTrap, null, B->NextRip, Rflags & ~FlagBits.Resume);

    /// <summary>INT1 (ICEBP).</summary>
    internal void DeliverPrivilegedSoftwareException()
    {
        try
        {
            InvokeHandler((byte)Vector.Debug, EventSource.PrivilegedSoftware, null, B->NextRip, Rflags & ~FlagBits.Resume);
        }
        catch (GuestFault fault)
        {
            GuestFault.Raise(fault.Vector, WithExternalBit(fault), fault.Address);
        }
    }

    // Registers that an exception sets, and the flags image it pushes: RF for faults, so that the instruction restarts past its breakpoint (vol. 3, 19.3.1.1).
    private ulong RecordException(Vector vector, ulong address, ulong flags)
    {
        switch (vector)
        {
            case Vector.PageFault:
                B->Cr2 = address;
                return flags | FlagBits.Resume;
            case Vector.Debug:
                B->Dr6 = (B->Dr6 & ~0xFUL) | (address & 0xE00F);
                B->Dr7 &= ~(1UL << 13);
                return (address & DebugDetect) != 0 ? flags | FlagBits.Resume : flags;
            case Vector.Breakpoint or Vector.Overflow or Vector.MachineCheck:
                return flags;
            default:
                return flags | FlagBits.Resume;
        }
    }

    private enum FaultClass
    {
        Benign,
        Contributory,
        PageFault,
    }

    // Table 7-4; a double fault being delivered counts with the page faults: everything but a benign exception ends in shutdown.
    private static FaultClass ClassOf(Vector vector) => vector switch
    {
        Vector.DivideError or (>= Vector.InvalidTss and <= Vector.GeneralProtection) => FaultClass.Contributory,
        Vector.PageFault => FaultClass.PageFault,
        _ => FaultClass.Benign,
    };

    private static uint? WithExternalBit(GuestFault fault) =>
        fault.Vector is >= Vector.InvalidTss and <= Vector.GeneralProtection ? (fault.ErrorCode ?? 0) | 1 : fault.ErrorCode;

    // Enters the handler: registers change only when nothing can fault any more, task gates excepted. Leaves its address in B->NextRip.
    private void InvokeHandler(byte vector, EventSource source, uint? errorCode, ulong returnRip, ulong flags)
    {
        _trapFlagCountsAfter |= source is EventSource.Software or EventSource.SoftwareTrap;
        if (LongModeActive)
        {
            InvokeLongModeHandler(vector, source, errorCode, returnRip, flags);
        }
        else if (!ProtectedMode)
        {
            InvokeRealModeHandler(vector, returnRip, flags);
        }
        else if (!Virtual8086 || source != EventSource.Software || !TryRedirectInVirtual8086(vector, returnRip, flags))
        {
            InvokeProtectedHandler(vector, source, errorCode, returnRip, flags);
        }
    }

    private void InvokeLongModeHandler(byte vector, EventSource source, uint? errorCode, ulong returnRip, ulong flags)
    {
        uint at = vector * 16u, gateError = (vector * 8u) + 2;
        if (at + 15 > B->IdtrLimit)
        {
            GuestFault.GeneralProtection(gateError);
        }
        ulong* gate = stackalloc ulong[2];
        ReadLinear(B->IdtrBase + at, new Span<byte>(gate, 16), false);
        ulong low = gate[0];
        int type = (int)(low >> 40) & 0x1F;
        if (type is not (14 or 15))
        {
            GuestFault.GeneralProtection(gateError);
        }
        CheckGate(low, source, gateError);
        Segment code = ReadHandlerCode((ushort)(low >> 16));
        if (!code.Long || code.Default32)
        {
            GuestFault.GeneralProtection(SelectorError(code.Selector));
        }
        CheckPresent(code);
        ulong handler = (low & 0xFFFF) | ((low >> 32) & 0xFFFF_0000) | (gate[1] << 32);
        bool inner = !IsConforming(code) && (uint)code.Dpl < B->Cpl;
        uint cpl = inner ? (uint)code.Dpl : B->Cpl;
        int interruptStack = (int)(low >> 32) & 7;
        // The current stack is a 64-bit one for the pushes even when compatibility code was interrupted.
        StackCursor stack = inner || interruptStack != 0
            ? InnerStack64(cpl, interruptStack)
            : new StackCursor { Pointer = B->Gpr[4], Wide = true, User = cpl == 3 };
        if (!CanonicalAddress(handler))
        {
            GuestFault.GeneralProtection();
        }
        ulong* frame = stackalloc ulong[6];
        int first = errorCode is { } error ? 0 : 1;
        frame[0] = errorCode ?? 0;
        frame[1] = returnRip;
        frame[2] = Segment(Seg.Cs)->Selector;
        frame[3] = flags;
        frame[4] = B->Gpr[4];
        frame[5] = Segment(Seg.Ss)->Selector;
        int size = (6 - first) * 8;
        ulong pointer = (stack.Pointer & ~15UL) - (ulong)size;
        StackLinear(stack, pointer, size);
        WriteLinear(pointer, new ReadOnlySpan<byte>(frame + first, size), stack.User);
        MarkAccessed(ref code);
        B->Gpr[4] = pointer;
        if (inner)
        {
            *Segment(Seg.Ss) = stack.Segment;
        }
        Rflags = HandlerFlags(B->SystemFlags | (Rflags & FlagBits.Arithmetic), type == 14);
        CommitCode(code, cpl, handler);
    }

    private static ulong HandlerFlags(ulong flags, bool interruptGate) =>
        flags & ~(FlagBits.Trap | FlagBits.NestedTask | FlagBits.Resume | FlagBits.Virtual8086 | (interruptGate ? FlagBits.Interrupt : 0));

    // Privilege of software, then presence.
    private void CheckGate(ulong gate, EventSource source, uint gateError)
    {
        if (source >= EventSource.Software && ((gate >> 45) & 3) < B->Cpl)
        {
            GuestFault.GeneralProtection(gateError);
        }
        if ((gate & (1UL << 47)) == 0)
        {
            GuestFault.Raise(Vector.SegmentNotPresent, gateError);
        }
    }

    private Segment ReadHandlerCode(ushort selector)
    {
        if (IsNull(selector))
        {
            GuestFault.GeneralProtection();
        }
        Segment code = ReadSegment(selector, Vector.GeneralProtection);
        if (!IsCode(code) || (uint)code.Dpl > B->Cpl)
        {
            GuestFault.GeneralProtection(SelectorError(selector));
        }
        return code;
    }

    private void InvokeProtectedHandler(byte vector, EventSource source, uint? errorCode, ulong returnRip, ulong flags)
    {
        bool virtual8086 = Virtual8086;
        if (virtual8086 && source == EventSource.Software && (B->SystemFlags & FlagBits.Iopl) != FlagBits.Iopl)
        {
            GuestFault.GeneralProtection();
        }
        uint at = vector * 8u, gateError = at + 2;
        if (at + 7 > B->IdtrLimit)
        {
            GuestFault.GeneralProtection(gateError);
        }
        ulong gate = ReadLinear(TableAddress(B->IdtrBase, at), 8, false);
        int type = (int)(gate >> 40) & 0x1F;
        if (type is not (5 or 6 or 7 or 14 or 15))
        {
            GuestFault.GeneralProtection(gateError);
        }
        CheckGate(gate, source, gateError);
        if (type == TypeTaskGate)
        {
            SwitchTask((ushort)(gate >> 16), TaskSwitchCause.Interrupt, returnRip, flags, errorCode);
            return;
        }
        int size = type >= 14 ? 4 : 2;
        Segment code = ReadHandlerCode((ushort)(gate >> 16));
        CheckPresent(code);
        bool inner = !IsConforming(code) && (uint)code.Dpl < B->Cpl;
        if (virtual8086 && (!inner || code.Dpl != 0))
        {
            GuestFault.GeneralProtection(SelectorError(code.Selector));
        }
        uint cpl = inner ? (uint)code.Dpl : B->Cpl;
        ulong handler = (gate & 0xFFFF) | (size == 4 ? (gate >> 32) & 0xFFFF_0000 : 0);
        StackCursor stack = inner ? InnerStack(cpl) : CurrentStack();
        CheckCodeOffset(code, handler);
        if (virtual8086)
        {
            PushOn(ref stack, Segment(Seg.Gs)->Selector, size);
            PushOn(ref stack, Segment(Seg.Fs)->Selector, size);
            PushOn(ref stack, Segment(Seg.Ds)->Selector, size);
            PushOn(ref stack, Segment(Seg.Es)->Selector, size);
        }
        if (inner)
        {
            PushOn(ref stack, Segment(Seg.Ss)->Selector, size);
            PushOn(ref stack, B->Gpr[4], size);
        }
        PushOn(ref stack, flags, size);
        PushOn(ref stack, Segment(Seg.Cs)->Selector, size);
        PushOn(ref stack, returnRip, size);
        if (errorCode is { } error)
        {
            PushOn(ref stack, error, size);
        }
        MarkAccessed(ref code);
        if (virtual8086)
        {
            ReadOnlySpan<byte> dropped = [Seg.Es, Seg.Ds, Seg.Fs, Seg.Gs];
            foreach (byte segment in dropped)
            {
                *Segment(segment) = NullSegment(0);
            }
        }
        if (inner)
        {
            CommitInnerStack(stack);
        }
        else
        {
            CommitStackPointer(stack);
        }
        Rflags = HandlerFlags(Rflags, (type & 1) == 0);
        CommitCode(code, cpl, handler);
    }

    private void InvokeRealModeHandler(byte vector, ulong returnRip, ulong flags)
    {
        uint at = vector * 4u;
        if (at + 3 > B->IdtrLimit)
        {
            GuestFault.GeneralProtection((vector * 8u) + 2);
        }
        var entry = (uint)ReadLinear(TableAddress(B->IdtrBase, at), 4, false);
        InvokeInterruptVector(entry, returnRip, flags);
        Rflags &= ~(FlagBits.Interrupt | FlagBits.Trap | FlagBits.AlignmentCheck | FlagBits.Resume);
        UpdateMode();
    }

    // 8086 style: FLAGS, CS, IP.
    private void InvokeInterruptVector(uint entry, ulong returnRip, ulong flags)
    {
        StackCursor stack = CurrentStack();
        PushOn(ref stack, flags & 0xFFFF, 2);
        PushOn(ref stack, Segment(Seg.Cs)->Selector, 2);
        PushOn(ref stack, returnRip, 2);
        JumpRealMode((ushort)(entry >> 16), (ushort)entry);
        CommitStackPointer(stack);
    }

    /// <summary>CR4.VME: INT n goes to the program's own 8086 handler when its bit in the TSS is clear (vol. 3, 22.3.3.3 and table 22-2).</summary>
    private bool TryRedirectInVirtual8086(byte vector, ulong returnRip, ulong flags)
    {
        if ((B->Cr4 & 1) == 0 || (B->Tr.Type & 0xD) != TypeTss32 || B->Tr.Limit < 103)
        {
            return false;
        }
        uint map = (uint)ReadLinear(TableAddress(B->Tr.Base, 102), 2, false);
        uint at = map - 32 + (vector / 8u);
        if (map < 32 || at > B->Tr.Limit || (ReadLinear(TableAddress(B->Tr.Base, at), 1, false) & (1u << (vector & 7))) != 0)
        {
            return false;
        }
        // The vector table is at linear address 0 of the task, read with its own rights.
        var entry = (uint)ReadLinear(vector * 4u, 4, true);
        bool trusted = (flags & FlagBits.Iopl) == FlagBits.Iopl;
        if (!trusted)
        {
            flags = (flags & ~FlagBits.Interrupt) | FlagBits.Iopl | ((flags & FlagBits.VirtualInterrupt) != 0 ? FlagBits.Interrupt : 0);
        }
        InvokeInterruptVector(entry, returnRip, flags);
        Rflags &= ~(FlagBits.Trap | FlagBits.NestedTask | FlagBits.Resume | (trusted ? FlagBits.Interrupt : FlagBits.VirtualInterrupt));
        UpdateMode();
        return true;
    }
}
