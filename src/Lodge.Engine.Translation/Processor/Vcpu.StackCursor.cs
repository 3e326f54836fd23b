namespace Lodge.Engine.Translation.Processor;

// Stacks other than the current one, and pushes that must not move the current pointer before the whole instruction is known to succeed.
internal sealed unsafe partial class Vcpu
{
    /// <summary>A stack and how far it has been used; the registers follow with <see cref="CommitStackPointer"/>.</summary>
    private struct StackCursor
    {
        public Segment Segment;
        public ulong Pointer;

        /// <summary>64-bit mode: no segmentation.</summary>
        public bool Wide;

        /// <summary>Accesses have CPL 3 rights.</summary>
        public bool User;

        /// <summary>Error code of a #SS.</summary>
        public uint ErrorCode;

        public readonly ulong Mask => Wide ? ulong.MaxValue : Segment.Default32 ? 0xFFFF_FFFF : 0xFFFF;
    }

    private StackCursor CurrentStack() => new() { Segment = *Segment(Seg.Ss), Pointer = B->Gpr[4], Wide = Code64, User = B->Cpl == 3 };

    private void PushOn(ref StackCursor stack, ulong value, int size) => PushOn(ref stack, value, size, size);

    // Moves the pointer by step, stores the low size bytes.
    private void PushOn(ref StackCursor stack, ulong value, int size, int step)
    {
        ulong mask = stack.Mask, offset = (stack.Pointer - (ulong)step) & mask;
        WriteLinear(AlignedStackLinear(stack, offset, size, AccessKind.Write), value, size, stack.User);
        stack.Pointer = (stack.Pointer & ~mask) | offset;
    }

    private ulong PopFrom(ref StackCursor stack, int size)
    {
        ulong value = ReadLinear(AlignedStackLinear(stack, stack.Pointer & stack.Mask, size, AccessKind.Read), size, stack.User);
        Skip(ref stack, (ulong)size);
        return value;
    }

    private static void Skip(ref StackCursor stack, ulong count)
    {
        ulong mask = stack.Mask;
        stack.Pointer = (stack.Pointer & ~mask) | ((stack.Pointer + count) & mask);
    }

    private void CommitStackPointer(in StackCursor stack) => B->Gpr[4] = stack.Wide ? stack.Pointer : (uint)stack.Pointer;

    private ulong AlignedStackLinear(in StackCursor stack, ulong offset, int size, AccessKind access)
    {
        ulong linear = StackLinear(stack, offset, size);
        if (_checksAlignment && stack.User)
        {
            CheckAlignment(linear, size, access, 0);
        }
        return linear;
    }

    private static ulong StackLinear(in StackCursor stack, ulong offset, int size)
    {
        ulong last = offset + (ulong)size - 1;
        if (stack.Wide)
        {
            if (!CanonicalAddress(offset) || !CanonicalAddress(last))
            {
                GuestFault.Raise(Vector.StackFault, stack.ErrorCode);
            }
            return offset;
        }
        ref readonly Segment segment = ref stack.Segment;
        bool expandDown = (segment.Type & 0xC) == 4;
        bool inside = expandDown
            ? offset > segment.Limit && last <= (segment.Default32 ? 0xFFFF_FFFF : 0xFFFFu)
            : last <= segment.Limit;
        if (segment.Unusable || !inside)
        {
            GuestFault.Raise(Vector.StackFault, stack.ErrorCode);
        }
        return (uint)(segment.Base + offset);
    }

    private static bool CanonicalAddress(ulong address) => (ulong)((long)(address << 16) >> 16) == address;
}
