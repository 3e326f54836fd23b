using Lodge.Engine.State;

namespace Lodge.Engine.Processor;

/// <summary>What a processor is doing (Intel SDM vol. 3, activity states).</summary>
public enum ActivityState : byte
{
    /// <summary>Executes instructions.</summary>
    Active = 0,

    /// <summary>HLT or MWAIT.</summary>
    Halted = 1,

    /// <summary>After triple fault.</summary>
    Shutdown = 2,

    /// <summary>Waits for a start-up IPI.</summary>
    WaitForSipi = 3,
}

/// <summary>Kind of a <see cref="PendingEvent"/>.</summary>
public enum PendingEventKind : byte
{
    /// <summary>A fault or trap.</summary>
    Exception = 0,

    /// <summary>An external interrupt that was acknowledged.</summary>
    Interrupt = 1,

    /// <summary>A non-maskable interrupt.</summary>
    NonMaskable = 2,
}

/// <summary>An event in delivery (Intel SDM vol. 3, 27.2.4: information for events that occur during event delivery).</summary>
/// <param name="Kind">What it is.</param>
/// <param name="Vector">Vector; below 32 for exceptions.</param>
/// <param name="ErrorCode">What is pushed with it, or null.</param>
public readonly record struct PendingEvent(PendingEventKind Kind, byte Vector, uint? ErrorCode = null);

/// <summary>
/// The architectural state of one processor in the one form that every engine reads and writes: general registers, segments, control, debug and
/// model-specific registers, extended state and local APIC. A mutable value object, never live.
/// </summary>
public sealed class ProcessorState : ISavedState<ProcessorState>
{
    private const int MinimumExtendedState = 832, MaximumNestedState = 1 << 16;

    /// <summary>RAX RCX RDX RBX RSP RBP RSI RDI R8-R15, in encoding order.</summary>
    public ulong[] GeneralRegisters { get; set; } = new ulong[16];

    /// <summary>Instruction pointer (offset in CS).</summary>
    public ulong InstructionPointer { get; set; } = 0xFFF0;

    /// <summary>RFLAGS.</summary>
    public ulong Flags { get; set; } = 2;

    /// <summary>ES CS SS DS FS GS, in encoding order.</summary>
    public SegmentState[] Segments { get; set; } = new SegmentState[6];

    /// <summary>LDTR.</summary>
    public SegmentState LocalDescriptorTable { get; set; }

    /// <summary>TR.</summary>
    public SegmentState TaskRegister { get; set; }

    /// <summary>GDTR.</summary>
    public TableRegister GlobalDescriptorTable { get; set; }

    /// <summary>IDTR.</summary>
    public TableRegister InterruptDescriptorTable { get; set; }

    /// <summary>CR0.</summary>
    public ulong Cr0 { get; set; } = 0x6000_0010;

    /// <summary>CR2.</summary>
    public ulong Cr2 { get; set; }

    /// <summary>CR3.</summary>
    public ulong Cr3 { get; set; }

    /// <summary>CR4.</summary>
    public ulong Cr4 { get; set; }

    /// <summary>CR8 (task priority).</summary>
    public ulong Cr8 { get; set; }

    /// <summary>XCR0.</summary>
    public ulong Xcr0 { get; set; } = 1;

    /// <summary>DR0-DR3.</summary>
    public ulong[] DebugAddresses { get; set; } = new ulong[4];

    /// <summary>DR6.</summary>
    public ulong Dr6 { get; set; } = 0xFFFF_0FF0;

    /// <summary>DR7.</summary>
    public ulong Dr7 { get; set; } = 0x400;

    /// <summary>Model-specific registers by index, EFER, STAR, TSC, APIC base and the KVM paravirtual ones among them.</summary>
    public SortedDictionary<uint, ulong> ModelSpecificRegisters { get; set; } = [];

    /// <summary>
    /// Extended state in the standard (not compacted) XSAVE format: legacy region, header, AVX component at 576, so 832 bytes at least; as many more, up to
    /// <see cref="XsaveLayout.MaximumLength"/>, as components need that are in use (AVX-512, AMX), where the model's <see cref="CpuModel.Layout"/> has them. Never PKRU.
    /// </summary>
    public byte[] ExtendedState { get; set; } = CreateResetExtendedState();

    /// <summary>PKRU.</summary>
    public uint Pkru { get; set; }

    /// <summary>The 4 KiB register page of the local APIC in xAPIC layout (x2APIC ID and ICR high at their xAPIC offsets).</summary>
    public byte[] LocalApic { get; set; } = new byte[1024];

    /// <summary>Activity.</summary>
    public ActivityState Activity { get; set; }

    /// <summary>Interrupts are held for one instruction (after STI or MOV SS).</summary>
    public bool InterruptShadow { get; set; }

    /// <summary>Debug exceptions are held as well (after MOV SS).</summary>
    public bool DebugShadow { get; set; }

    /// <summary>Data breakpoints (DR6 bits 0-3) that are held.</summary>
    public ulong PendingDebug { get; set; }

    /// <summary>NMIs are blocked until IRET.</summary>
    public bool NmiBlocked { get; set; }

    /// <summary>An NMI is pending.</summary>
    public bool NmiPending { get; set; }

    /// <summary>A start-up IPI vector is pending, or -1.</summary>
    public int PendingSipi { get; set; } = -1;

    /// <summary>An INIT is pending.</summary>
    public bool PendingInit { get; set; }

    /// <summary>The four page-directory-pointer-table entries that the processor holds under PAE paging; null: as in memory at CR3 (Intel SDM vol. 3, 4.4.1).</summary>
    public ulong[]? PageDirectoryPointers { get; set; }

    /// <summary>An event that was being delivered when the processor stopped and is delivered before its next instruction.</summary>
    public PendingEvent? PendingEvent { get; set; }

    /// <summary>A triple fault is pending: the processor shuts down when it runs.</summary>
    public bool PendingTripleFault { get; set; }

    /// <summary>State of a guest that is a hypervisor itself, in KVM's form (KVM_GET_NESTED_STATE); empty when there is none.</summary>
    public byte[] NestedState { get; set; } = [];

    /// <inheritdoc/>
    public static int Version => 2;

    /// <summary>Extended state after reset: FCW 0x37F, MXCSR 0x1F80, nothing in use.</summary>
    public static byte[] CreateResetExtendedState()
    {
        byte[] area = new byte[832];
        area[0] = 0x7F;
        area[1] = 0x03;
        area[24] = 0x80;
        area[25] = 0x1F;
        return area;
    }

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64Array(1, GeneralRegisters);
        writer.UInt64(2, InstructionPointer);
        writer.UInt64(3, Flags);
        ulong[] segments = new ulong[32];
        for (int i = 0; i < 8; i++)
        {
            SegmentState s = i < 6 ? Segments[i] : i == 6 ? LocalDescriptorTable : TaskRegister;
            segments[i * 4] = s.Selector;
            segments[(i * 4) + 1] = s.Base;
            segments[(i * 4) + 2] = s.Limit;
            segments[(i * 4) + 3] = s.Attributes;
        }
        writer.UInt64Array(4, segments);
        writer.UInt64Array(5, [GlobalDescriptorTable.Base, GlobalDescriptorTable.Limit, InterruptDescriptorTable.Base, InterruptDescriptorTable.Limit]);
        writer.UInt64Array(6, [Cr0, Cr2, Cr3, Cr4, Cr8, Xcr0]);
        writer.UInt64Array(7, [.. DebugAddresses, Dr6, Dr7]);
        ulong[] msrs = new ulong[ModelSpecificRegisters.Count * 2];
        int n = 0;
        foreach ((uint index, ulong value) in ModelSpecificRegisters)
        {
            msrs[n++] = index;
            msrs[n++] = value;
        }
        writer.UInt64(8, (ulong)ModelSpecificRegisters.Count);
        writer.UInt64Array(9, msrs);
        writer.Bytes(10, ExtendedState);
        writer.UInt64(11, Pkru);
        writer.Bytes(12, LocalApic);
        writer.UInt64(13, (ulong)Activity);
        writer.Bool(14, InterruptShadow);
        writer.Bool(15, NmiBlocked);
        writer.Bool(16, NmiPending);
        writer.UInt64(17, (ulong)(PendingSipi + 1));
        writer.Bool(18, PendingInit);
        writer.Bool(19, DebugShadow);
        writer.UInt64(20, PendingDebug);
        if (PendingEvent is { } pending)
        {
            writer.UInt64Array(21, [(ulong)pending.Kind, pending.Vector, pending.ErrorCode ?? 0, pending.ErrorCode is null ? 0UL : 1]);
        }
        writer.Bool(22, PendingTripleFault);
        if (NestedState.Length > 0)
        {
            writer.Bytes(23, NestedState);
        }
        if (PageDirectoryPointers is { } pointers)
        {
            writer.UInt64Array(24, pointers);
        }
    }

    /// <inheritdoc/>
    public static ProcessorState Read(StateReader reader)
    {
        var state = new ProcessorState
        {
            GeneralRegisters = reader.UInt64Array(1, 16),
            InstructionPointer = reader.UInt64(2),
            Flags = reader.UInt64(3, 2),
        };
        ulong[] s = reader.UInt64Array(4, 32);
        SegmentState Segment(int i) => new((ushort)s[i * 4], s[(i * 4) + 1], (uint)s[(i * 4) + 2], (uint)s[(i * 4) + 3]);
        for (int i = 0; i < 6; i++)
        {
            state.Segments[i] = Segment(i);
        }
        state.LocalDescriptorTable = Segment(6);
        state.TaskRegister = Segment(7);
        ulong[] tables = reader.UInt64Array(5, 4);
        state.GlobalDescriptorTable = new TableRegister(tables[0], (ushort)tables[1]);
        state.InterruptDescriptorTable = new TableRegister(tables[2], (ushort)tables[3]);
        ulong[] control = reader.UInt64Array(6, 6);
        (state.Cr0, state.Cr2, state.Cr3, state.Cr4, state.Cr8, state.Xcr0) = (control[0], control[1], control[2], control[3], control[4], control[5]);
        ulong[] debug = reader.UInt64Array(7, 6);
        debug.AsSpan(0, 4).CopyTo(state.DebugAddresses);
        (state.Dr6, state.Dr7) = (debug[4], debug[5]);
        int count = reader.Int32(8, 0, 4096);
        ulong[] msrs = reader.UInt64Array(9, count * 2);
        for (int i = 0; i < count; i++)
        {
            state.ModelSpecificRegisters[(uint)msrs[i * 2]] = msrs[(i * 2) + 1];
        }
        byte[] extended = reader.Bytes(10, XsaveLayout.MaximumLength);
        if (extended.Length < MinimumExtendedState)
        {
            throw new SavedStateException($"extended state has {extended.Length} bytes, expected at least {MinimumExtendedState}");
        }
        state.ExtendedState = extended;
        state.Pkru = reader.UInt32(11);
        byte[] apic = reader.Bytes(12, 1024);
        apic.CopyTo(state.LocalApic, 0);
        state.Activity = (ActivityState)reader.UInt8(13, 0, 3);
        state.InterruptShadow = reader.Bool(14);
        state.NmiBlocked = reader.Bool(15);
        state.NmiPending = reader.Bool(16);
        state.PendingSipi = reader.Int32(17, 0, 256) - 1;
        state.PendingInit = reader.Bool(18);
        state.DebugShadow = reader.Bool(19);
        state.PendingDebug = reader.UInt64(20);
        if (reader.Has(21))
        {
            ulong[] pending = reader.UInt64Array(21, 4);
            if (pending[0] > (ulong)PendingEventKind.NonMaskable || pending[1] > 255 || pending[2] > uint.MaxValue || pending[3] > 1
                || (pending[0] == (ulong)PendingEventKind.Exception && pending[1] > 31))
            {
                throw new SavedStateException("the saved event in delivery is malformed");
            }
            state.PendingEvent = new PendingEvent((PendingEventKind)pending[0], (byte)pending[1], pending[3] != 0 ? (uint)pending[2] : null);
        }
        state.PendingTripleFault = reader.Bool(22);
        state.NestedState = reader.Bytes(23, MaximumNestedState);
        state.PageDirectoryPointers = reader.Has(24) ? reader.UInt64Array(24, 4) : null;
        return state;
    }
}
