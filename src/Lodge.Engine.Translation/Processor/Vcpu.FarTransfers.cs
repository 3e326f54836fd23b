namespace Lodge.Engine.Translation.Processor;

// Far JMP, CALL and RET (Intel SDM vol. 2; vol. 3, 6.8).
internal sealed unsafe partial class Vcpu
{
    /// <summary>What a call gate holds; Size is that of its pushes.</summary>
    private readonly record struct CallGate(ushort Selector, ulong Offset, int Parameters, int Size);

    private void FarJump(ushort selector, ulong offset)
    {
        if (!ProtectedMode || Virtual8086)
        {
            JumpRealMode(selector, offset);
            return;
        }
        Segment target = ReadTransferTarget(selector, out ulong descriptor);
        if (target.IsCodeOrData)
        {
            CheckDirectTarget(target);
            CheckCodeOffset(target, offset);
            CommitCode(target, B->Cpl, offset);
            return;
        }
        switch (target.Type)
        {
            case TypeCallGate16 when !LongModeActive:
            case TypeCallGate32:
                CallGate gate = ReadCallGate(selector, target, descriptor);
                Segment code = ReadGateTarget(gate);
                if (!IsConforming(code) && (uint)code.Dpl != B->Cpl)
                {
                    GuestFault.GeneralProtection(SelectorError(gate.Selector));
                }
                CheckPresent(code);
                CheckCodeOffset(code, gate.Offset);
                CommitCode(code, B->Cpl, gate.Offset);
                break;
            default:
                TransferToTask(selector, target, descriptor, TaskSwitchCause.Jump);
                break;
        }
    }

    private void FarCall(ushort selector, ulong offset, int size)
    {
        StackCursor stack = CurrentStack();
        if (!ProtectedMode || Virtual8086)
        {
            PushOn(ref stack, Segment(Seg.Cs)->Selector, size);
            PushOn(ref stack, B->NextRip, size);
            JumpRealMode(selector, offset);
            CommitStackPointer(stack);
            return;
        }
        Segment target = ReadTransferTarget(selector, out ulong descriptor);
        if (target.IsCodeOrData)
        {
            CheckDirectTarget(target);
            CheckCodeOffset(target, offset);
            PushOn(ref stack, Segment(Seg.Cs)->Selector, size);
            PushOn(ref stack, B->NextRip, size);
            CommitCode(target, B->Cpl, offset);
            CommitStackPointer(stack);
            return;
        }
        switch (target.Type)
        {
            case TypeCallGate16 when !LongModeActive:
            case TypeCallGate32:
                CallThroughGate(ReadCallGate(selector, target, descriptor));
                break;
            default:
                TransferToTask(selector, target, descriptor, TaskSwitchCause.Call);
                break;
        }
    }

    private void CallThroughGate(in CallGate gate)
    {
        Segment code = ReadGateTarget(gate);
        CheckPresent(code);
        ushort oldCode = Segment(Seg.Cs)->Selector;
        StackCursor stack = CurrentStack();
        if (IsConforming(code) || (uint)code.Dpl == B->Cpl)
        {
            CheckCodeOffset(code, gate.Offset);
            stack.Wide = LongModeActive || stack.Wide;
            PushOn(ref stack, oldCode, gate.Size);
            PushOn(ref stack, B->NextRip, gate.Size);
            CommitCode(code, B->Cpl, gate.Offset);
            CommitStackPointer(stack);
            return;
        }
        uint cpl = (uint)code.Dpl;
        StackCursor inner = LongModeActive ? InnerStack64(cpl, 0) : InnerStack(cpl);
        CheckCodeOffset(code, gate.Offset);
        PushOn(ref inner, Segment(Seg.Ss)->Selector, gate.Size);
        PushOn(ref inner, B->Gpr[4], gate.Size);
        for (int i = gate.Parameters - 1; i >= 0; i--)
        {
            StackCursor parameter = stack;
            Skip(ref parameter, (ulong)(i * gate.Size));
            PushOn(ref inner, PopFrom(ref parameter, gate.Size), gate.Size);
        }
        PushOn(ref inner, oldCode, gate.Size);
        PushOn(ref inner, B->NextRip, gate.Size);
        MarkAccessed(ref code);
        CommitInnerStack(inner);
        CommitCode(code, cpl, gate.Offset);
    }

    /// <summary>The stack of an inner level in the current TSS, checked (vol. 2, CALL and INT n: "inter-privilege").</summary>
    private StackCursor InnerStack(uint cpl)
    {
        bool wide = (B->Tr.Type & 8) != 0;
        uint at = wide ? 4 + (8 * cpl) : 2 + (4 * cpl);
        int size = wide ? 4 : 2;
        if (B->Tr.Unusable || at + (uint)size + 1 > B->Tr.Limit)
        {
            GuestFault.Raise(Vector.InvalidTss, SelectorError(B->Tr.Selector));
        }
        ulong pointer = ReadLinear(TableAddress(B->Tr.Base, at), size, false);
        var selector = (ushort)ReadLinear(TableAddress(B->Tr.Base, at + (uint)size), 2, false);
        if (IsNull(selector))
        {
            GuestFault.Raise(Vector.InvalidTss, 0);
        }
        Segment segment = ReadSegment(selector, Vector.InvalidTss);
        uint error = SelectorError(selector);
        if ((selector & 3u) != cpl || (uint)segment.Dpl != cpl || !IsWritableData(segment))
        {
            GuestFault.Raise(Vector.InvalidTss, error);
        }
        if (!segment.Present)
        {
            GuestFault.Raise(Vector.StackFault, error);
        }
        MarkAccessed(ref segment);
        return new StackCursor { Segment = segment, Pointer = pointer, ErrorCode = error, User = cpl == 3 };
    }

    /// <summary>RSPn, or ISTn when <paramref name="interruptStack"/> is not 0, of the 64-bit TSS (vol. 3, 8.7). SS becomes null.</summary>
    private StackCursor InnerStack64(uint cpl, int interruptStack)
    {
        uint at = interruptStack != 0 ? 0x24 + (8 * ((uint)interruptStack - 1)) : 4 + (8 * cpl);
        if (B->Tr.Unusable || at + 7 > B->Tr.Limit)
        {
            GuestFault.Raise(Vector.InvalidTss, SelectorError(B->Tr.Selector));
        }
        ulong pointer = ReadLinear(B->Tr.Base + at, 8, false);
        if (!CanonicalAddress(pointer))
        {
            GuestFault.Raise(Vector.StackFault, 0);
        }
        return new StackCursor { Segment = NullSegment((ushort)cpl), Pointer = pointer, Wide = true, User = cpl == 3 };
    }

    private void CommitInnerStack(in StackCursor stack)
    {
        *Segment(Seg.Ss) = stack.Segment;
        CommitStackPointer(stack);
    }

    private void FarReturn(int size, ushort released)
    {
        StackCursor stack = CurrentStack();
        ulong rip = PopFrom(ref stack, size);
        var selector = (ushort)PopFrom(ref stack, size);
        if (!ProtectedMode || Virtual8086)
        {
            JumpRealMode(selector, rip);
            Skip(ref stack, released);
            CommitStackPointer(stack);
            return;
        }
        Segment code = PrepareReturnCode(selector);
        uint rpl = selector & 3u;
        Skip(ref stack, released);
        if (rpl == B->Cpl)
        {
            CheckCodeOffset(code, rip);
            MarkAccessed(ref code);
            CommitStackPointer(stack);
            CommitCode(code, rpl, rip);
            return;
        }
        ulong pointer = PopFrom(ref stack, size);
        Segment stackSegment = PrepareReturnStack((ushort)PopFrom(ref stack, size), code, rpl);
        CheckCodeOffset(code, rip);
        MarkAccessed(ref code);
        CommitReturnStack(stackSegment, pointer, code, released);
        CommitCode(code, rpl, rip);
        DropPrivilegedSegments();
    }

    // Code segment of a RET or IRET to the same or an outer level.
    private Segment PrepareReturnCode(ushort selector)
    {
        if (IsNull(selector))
        {
            GuestFault.GeneralProtection();
        }
        Segment code = ReadSegment(selector, Vector.GeneralProtection);
        int rpl = selector & 3;
        if (!IsCode(code) || (uint)rpl < B->Cpl || (IsConforming(code) ? code.Dpl > rpl : code.Dpl != rpl) || IsMixedWidth(code))
        {
            GuestFault.GeneralProtection(SelectorError(selector));
        }
        CheckPresent(code);
        return code;
    }

    private Segment PrepareReturnStack(ushort selector, in Segment code, uint cpl)
    {
        uint error = SelectorError(selector);
        if (IsNull(selector))
        {
            if (!LongModeActive || !code.Long || cpl == 3)
            {
                GuestFault.GeneralProtection();
            }
            return NullSegment((ushort)((selector & ~3u) | cpl));
        }
        Segment segment = ReadSegment(selector, Vector.GeneralProtection);
        if ((selector & 3u) != cpl || !IsWritableData(segment) || (uint)segment.Dpl != cpl)
        {
            GuestFault.GeneralProtection(error);
        }
        if (!segment.Present)
        {
            GuestFault.Raise(Vector.StackFault, error);
        }
        MarkAccessed(ref segment);
        return segment;
    }

    // A 16-bit stack segment takes the low half of the pointer only, in every operand size.
    private void CommitReturnStack(in Segment segment, ulong pointer, in Segment code, ulong released)
    {
        *Segment(Seg.Ss) = segment;
        bool wide = LongModeActive && code.Long;
        B->Gpr[4] = wide ? pointer + released
            : segment.Default32 ? (uint)(pointer + released)
            : (B->Gpr[4] & 0xFFFF_0000) | (ushort)(pointer + released);
    }

    // After a return to an outer level no data segment of the inner level stays loaded. Null ones keep their base (FS and GS of long mode).
    private void DropPrivilegedSegments()
    {
        ReadOnlySpan<byte> segments = [Seg.Es, Seg.Ds, Seg.Fs, Seg.Gs];
        foreach (byte index in segments)
        {
            Segment* segment = Segment(index);
            if (!segment->Unusable && (uint)segment->Dpl < B->Cpl && !IsConforming(*segment))
            {
                segment->Selector = 0;
                segment->Attributes = Translation.Processor.Segment.AttributeUnusable;
            }
        }
        UpdateMode();
    }

    private void JumpRealMode(ushort selector, ulong offset)
    {
        if (offset > Segment(Seg.Cs)->Limit)
        {
            GuestFault.GeneralProtection();
        }
        *Segment(Seg.Cs) = RealSegment(Seg.Cs, selector);
        B->NextRip = offset;
        UpdateMode();
    }

    private Segment ReadTransferTarget(ushort selector, out ulong descriptor)
    {
        if (IsNull(selector))
        {
            GuestFault.GeneralProtection();
        }
        descriptor = ReadDescriptor(selector, Vector.GeneralProtection);
        return ParseDescriptor(selector, descriptor);
    }

    // A code segment that JMP or CALL names itself.
    private void CheckDirectTarget(in Segment code)
    {
        bool allowed = IsCode(code) && !IsMixedWidth(code)
            && (IsConforming(code) ? (uint)code.Dpl <= B->Cpl : (code.Selector & 3u) <= B->Cpl && (uint)code.Dpl == B->Cpl);
        if (!allowed)
        {
            GuestFault.GeneralProtection(SelectorError(code.Selector));
        }
        CheckPresent(code);
    }

    // L and D together are reserved in long mode.
    private bool IsMixedWidth(in Segment code) => LongModeActive && code.Long && code.Default32;

    private static void CheckPresent(in Segment segment)
    {
        if (!segment.Present)
        {
            GuestFault.Raise(Vector.SegmentNotPresent, SelectorError(segment.Selector));
        }
    }

    private void CheckCodeOffset(in Segment code, ulong offset)
    {
        if (LongModeActive && code.Long ? !CanonicalAddress(offset) : offset > code.Limit)
        {
            GuestFault.GeneralProtection();
        }
    }

    /// <summary>Enters a checked code segment at a level.</summary>
    private void CommitCode(Segment code, uint cpl, ulong rip)
    {
        MarkAccessed(ref code);
        code.Selector = (ushort)((code.Selector & ~3u) | cpl);
        *Segment(Seg.Cs) = code;
        B->Cpl = cpl;
        B->NextRip = rip;
        UpdateMode();
    }

    private CallGate ReadCallGate(ushort selector, in Segment gate, ulong descriptor)
    {
        uint error = SelectorError(selector);
        if ((uint)gate.Dpl < B->Cpl || gate.Dpl < (selector & 3))
        {
            GuestFault.GeneralProtection(error);
        }
        ulong offset = (descriptor & 0xFFFF) | ((descriptor >> 32) & 0xFFFF_0000);
        var target = (ushort)(descriptor >> 16);
        if (LongModeActive)
        {
            ulong upper = ReadUpperDescriptor(selector, Vector.GeneralProtection);
            if (((upper >> 40) & 0x1F) != 0)
            {
                GuestFault.GeneralProtection(error);
            }
            CheckPresent(gate);
            return new CallGate(target, offset | (upper << 32), 0, 8);
        }
        CheckPresent(gate);
        int parameters = (int)(descriptor >> 32) & 31;
        return gate.Type == TypeCallGate16 ? new CallGate(target, offset & 0xFFFF, parameters, 2) : new CallGate(target, offset, parameters, 4);
    }

    // The code segment behind a gate: at most as far out as the caller; 64-bit in long mode.
    private Segment ReadGateTarget(in CallGate gate)
    {
        if (IsNull(gate.Selector))
        {
            GuestFault.GeneralProtection();
        }
        Segment code = ReadSegment(gate.Selector, Vector.GeneralProtection);
        if (!IsCode(code) || (uint)code.Dpl > B->Cpl || (LongModeActive && (!code.Long || code.Default32)))
        {
            GuestFault.GeneralProtection(SelectorError(gate.Selector));
        }
        return code;
    }

    // JMP or CALL to a TSS or task gate; anything else is #GP.
    private void TransferToTask(ushort selector, in Segment target, ulong descriptor, TaskSwitchCause cause)
    {
        uint error = SelectorError(selector);
        bool gate = target.Type == TypeTaskGate;
        if (LongModeActive || (!gate && target.Type is not (TypeTss16 or TypeTss32))
            || (uint)target.Dpl < B->Cpl || target.Dpl < (selector & 3))
        {
            GuestFault.GeneralProtection(error);
        }
        if (gate)
        {
            CheckPresent(target);
            selector = (ushort)(descriptor >> 16);
        }
        SwitchTask(selector, cause, B->NextRip, Rflags, null);
    }
}
