using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm.Registers;

/// <summary>Events under way and activity (api.rst, 4.31, 4.32, 4.38, 4.39).</summary>
/// <remarks>
/// Not kept, since KVM has no place for it: data breakpoints held over the instruction after MOV SS (<see cref="ProcessorState.PendingDebug"/>). An INT instruction in
/// delivery is executed again instead: RIP is still at it.
/// </remarks>
internal static class ProcessorEvents
{
    /// <summary>Puts a state's into a processor: all but INIT, which is a message.</summary>
    public static void Load(KvmProcessorHandle handle, ProcessorState state, bool tripleFaults)
    {
        KvmVcpuEvents events = new()
        {
            Flags = KvmVcpuEvents.NmiPendingValid | KvmVcpuEvents.ShadowValid | (tripleFaults ? KvmVcpuEvents.TripleFaultValid : 0),
            NmiMasked = Bit(state.NmiBlocked),
            NmiPending = Bit(state.NmiPending),
            InterruptShadow = state.DebugShadow ? KvmVcpuEvents.ShadowMovSs : state.InterruptShadow ? KvmVcpuEvents.ShadowSti : (byte)0,
            TripleFaultPending = Bit(tripleFaults && (state.PendingTripleFault || state.Activity == ActivityState.Shutdown)),
        };
        if (state.PendingEvent is { } pending)
        {
            switch (pending.Kind)
            {
                case PendingEventKind.Exception:
                    events.ExceptionInjected = 1;
                    events.ExceptionNumber = pending.Vector;
                    events.ExceptionHasErrorCode = Bit(pending.ErrorCode is not null);
                    events.ExceptionErrorCode = pending.ErrorCode ?? 0;
                    break;
                case PendingEventKind.Interrupt:
                    events.InterruptInjected = 1;
                    events.InterruptNumber = pending.Vector;
                    break;
                default:
                    events.NmiInjected = 1;
                    break;
            }
        }
        KvmMpState activity = state.Activity switch
        {
            ActivityState.Halted => KvmMpState.Halted,
            ActivityState.WaitForSipi when state.PendingSipi >= 0 => KvmMpState.SipiReceived,
            // Not "uninitialized", in which the kernel takes no SIPI without an INIT before.
            ActivityState.WaitForSipi => KvmMpState.InitReceived,
            _ => KvmMpState.Runnable,
        };
        if (activity == KvmMpState.SipiReceived)
        {
            events.Flags |= KvmVcpuEvents.SipiVectorValid;
            events.SipiVector = (uint)state.PendingSipi;
        }
        handle.Events = events;
        handle.MpState = activity;
    }

    /// <summary>Reads a processor's.</summary>
    public static void Store(KvmProcessorHandle handle, ProcessorState state)
    {
        KvmMpState activity = handle.MpState; // first: the kernel acts on INIT and SIPI
        KvmVcpuEvents events = handle.Events;
        state.Activity = activity switch
        {
            KvmMpState.Halted => ActivityState.Halted,
            KvmMpState.Runnable => ActivityState.Active,
            _ => ActivityState.WaitForSipi,
        };
        state.PendingSipi = activity == KvmMpState.SipiReceived ? (int)(events.SipiVector & 0xFF) : -1;
        state.NmiBlocked = events.NmiMasked != 0;
        state.NmiPending = events.NmiPending != 0;
        // AMD's processors have one shadow for both, of which the kernel tells with both bits; it holds interrupts.
        state.DebugShadow = (events.InterruptShadow & (KvmVcpuEvents.ShadowMovSs | KvmVcpuEvents.ShadowSti)) == KvmVcpuEvents.ShadowMovSs;
        state.InterruptShadow = events.InterruptShadow != 0;
        state.PendingTripleFault = (events.Flags & KvmVcpuEvents.TripleFaultValid) != 0 && events.TripleFaultPending != 0;
        if (events.ExceptionInjected != 0 || events.ExceptionPending != 0)
        {
            state.PendingEvent = new PendingEvent(PendingEventKind.Exception, (byte)(events.ExceptionNumber & 31), events.ExceptionHasErrorCode != 0 ? events.ExceptionErrorCode : null);
        }
        else if (events.NmiInjected != 0)
        {
            state.PendingEvent = new PendingEvent(PendingEventKind.NonMaskable, 2);
        }
        else if (events.InterruptInjected != 0 && events.InterruptSoft == 0)
        {
            state.PendingEvent = new PendingEvent(PendingEventKind.Interrupt, events.InterruptNumber);
        }
    }

    private static byte Bit(bool value) => value ? (byte)1 : (byte)0;
}
