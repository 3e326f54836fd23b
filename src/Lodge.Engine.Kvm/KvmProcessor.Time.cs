using System.Buffers.Binary;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm;

// The processor's clocks while the machine's time stands: where they stood. Its timer is disarmed meanwhile.
internal sealed unsafe partial class KvmProcessor
{
    private const uint TimestampCounterMsr = 0x10, DeadlineMsr = 0x6E0;
    private const int LocalVectorTimer = 0x320, InitialCount = 0x380, CurrentCount = 0x390;
    private const uint TimerPeriodic = 1 << 17, TimerModes = 3 << 17, TimerMasked = 1 << 16;
    private HeldTime? _heldTime;

    /// <summary>Notes where the clocks stand, and disarms the timer. No message reaches the local APIC meanwhile.</summary>
    /// <param name="host">The host's TSC, or null when the kernel tells no offsets.</param>
    internal void HoldTime(ulong? host)
    {
        ulong timestamp;
        if (host is not { } instant || !_handle.TryGetTscOffset(out ulong offset))
        {
            _handle.TryGetMsr(TimestampCounterMsr, out timestamp);
        }
        else
        {
            timestamp = instant + offset;
        }
        Span<byte> apic = stackalloc byte[1024];
        _handle.GetLocalApic(apic);
        if (MayHaveRunOut(apic))
        {
            // The kernel notes that a timer ran out, and puts the interrupt into the local APIC's registers when the processor is entered next.
            Volatile.Write(ref _handle.Run->ImmediateExit, 0);
            _handle.EnterAndLeave();
            _handle.GetLocalApic(apic);
        }
        _handle.TryGetMsr(DeadlineMsr, out ulong deadline);
        Hold(timestamp, deadline, apic);
    }

    /// <summary>The same after the processor got a state, of which the clocks are.</summary>
    internal void HoldTime(ProcessorState state)
    {
        Span<byte> apic = stackalloc byte[1024];
        _handle.GetLocalApic(apic);
        // Counts as in the state: the timer has run on since.
        state.LocalApic.AsSpan(InitialCount, 4).CopyTo(apic[InitialCount..]);
        state.LocalApic.AsSpan(CurrentCount, 4).CopyTo(apic[CurrentCount..]);
        Hold(state.ModelSpecificRegisters.GetValueOrDefault(TimestampCounterMsr), state.ModelSpecificRegisters.GetValueOrDefault(DeadlineMsr), apic);
    }

    /// <summary>Lets the clocks go on from where they stood. No message reaches the local APIC meanwhile.</summary>
    internal void ReleaseTime(ulong? host)
    {
        if (_heldTime is not { } held)
        {
            return;
        }
        _heldTime = null;
        if (host is not { } instant || !_handle.TrySetTscOffset(held.Timestamp - instant))
        {
            _handle.TrySetMsr(TimestampCounterMsr, held.Timestamp);
        }
        _handle.TryNotePause();
        if (held.Deadline != 0)
        {
            _handle.TrySetMsr(DeadlineMsr, held.Deadline);
        }
        if (held.InitialCount != 0)
        {
            Span<byte> apic = stackalloc byte[1024];
            _handle.GetLocalApic(apic);
            SetCounts(apic, held.InitialCount, held.CurrentCount);
            _handle.SetLocalApic(apic);
        }
    }

    // Of a deadline the kernel keeps the MSR until the interrupt is in the registers, and a deadline in the past is due at once wherever it goes on.
    private static bool MayHaveRunOut(ReadOnlySpan<byte> apic)
    {
        uint entry = BinaryPrimitives.ReadUInt32LittleEndian(apic[LocalVectorTimer..]), modes = entry & TimerModes;
        return BinaryPrimitives.ReadUInt32LittleEndian(apic[InitialCount..]) != 0 && (entry & TimerMasked) == 0
            && (modes == TimerPeriodic || (modes == 0 && BinaryPrimitives.ReadUInt32LittleEndian(apic[CurrentCount..]) == 0));
    }

    private void Hold(ulong timestamp, ulong deadline, Span<byte> apic)
    {
        uint initial = BinaryPrimitives.ReadUInt32LittleEndian(apic[InitialCount..]), current = BinaryPrimitives.ReadUInt32LittleEndian(apic[CurrentCount..]);
        bool periodic = (BinaryPrimitives.ReadUInt32LittleEndian(apic[LocalVectorTimer..]) & TimerPeriodic) != 0;
        bool counting = initial != 0 && (current != 0 || periodic); // a one-shot timer that has run out stays so
        _heldTime = new HeldTime(timestamp, deadline, counting ? initial : 0, counting ? current : 0);
        if (deadline != 0)
        {
            _handle.TrySetMsr(DeadlineMsr, 0);
        }
        if (counting)
        {
            SetCounts(apic, 0, 0);
            _handle.SetLocalApic(apic);
        }
    }

    private void ShowHeldTime(ProcessorState state)
    {
        if (_heldTime is not { } held)
        {
            return;
        }
        state.ModelSpecificRegisters[TimestampCounterMsr] = held.Timestamp;
        if (held.Deadline != 0)
        {
            state.ModelSpecificRegisters[DeadlineMsr] = held.Deadline;
        }
        if (held.InitialCount != 0)
        {
            SetCounts(state.LocalApic, held.InitialCount, held.CurrentCount);
        }
    }

    private static void SetCounts(Span<byte> apic, uint initial, uint current)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(apic[InitialCount..], initial);
        BinaryPrimitives.WriteUInt32LittleEndian(apic[CurrentCount..], current);
    }

    /// <summary>Where the clocks stand. Counts are 0 unless the timer was counting.</summary>
    private readonly record struct HeldTime(ulong Timestamp, ulong Deadline, uint InitialCount, uint CurrentCount);
}
