using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Execution;

namespace Lodge.Engine.Translation.Processor;

/// <summary>What reaches the processor from outside: interrupts and requests of other threads, and how it waits for them.</summary>
internal sealed unsafe partial class Vcpu
{
    private readonly Lodge.Engine.Time.PreciseWait _wait = new();
    private readonly Lodge.Engine.Time.PollWindow _haltPoll = new(200);    // KVM's halt_poll_ns
    private volatile bool _stopRequested;
    private const int MaximumInvalidations = 4096;
    private readonly ConcurrentQueue<ulong> _invalidations = new();
    private volatile bool _invalidateAll;

    /// <summary>The local APIC.</summary>
    internal Interrupts.LocalApic Apic = null!;

    /// <summary>Translated code of this processor.</summary>
    internal Execution.BlockCache Blocks = null!;

    /// <summary>The fault of the last failed translation or memory access that does not throw.</summary>
    internal (Vector Vector, uint? ErrorCode, ulong Address) PendingFault;

    private void SetPendingFault(Vector vector, uint? errorCode, ulong address) => PendingFault = (vector, errorCode, address);

    /// <summary>
    /// Called by the local APIC, any thread: something (interrupt, NMI, INIT, SIPI) may now be deliverable. Makes generated code leave at the next poll
    /// and wakes a halted processor.
    /// </summary>
    internal void NotifyInterrupt()
    {
        Volatile.Write(ref B->InterruptPending, 1);
        Volatile.Write(ref B->ExitRequest, 1);
        Interlocked.MemoryBarrier();
        if (_waiting)
        {
            _wait.Wake();
        }
    }

    /// <summary>Makes generated code leave and a halted processor look around. Any thread.</summary>
    internal void Kick()
    {
        Volatile.Write(ref B->ExitRequest, 1);
        _wait.Wake();
    }

    private volatile bool _waiting;

    /// <summary>Guest time stamp counter.</summary>
    internal ulong ReadTsc() => Emission.HostInstructions.ReadTimestamp() + B->TscOffset;

    /// <summary>Forces x87/MMX state out of the host's registers into <see cref="ProcessorBlock.ExtendedState"/>. Idempotent; vCPU thread only.</summary>
    internal void SaveX87()
    {
        if (B->X87Loaded != 0)
        {
            Blocks.Stubs.SaveX87();
        }
    }

    /// <summary>Interrupts, start-up messages and requests of other threads; not null to leave the run loop.</summary>
    private ProcessorExit? TakeEvents()
    {
        Interlocked.Exchange(ref B->ExitRequest, 0);
        if (_stopRequested)
        {
            _stopRequested = false;
            Volatile.Write(ref B->ExitRequest, B->InterruptPending);
            return ProcessorExit.Stopped;
        }
        ServeRequests();
        if (Apic.TryTakeInit())
        {
            SoftReset();
        }
        if (Apic.TryTakeSipi(out byte page) && B->Activity == (uint)ActivityState.WaitForSipi)
        {
            StartUp(page);
        }
        if (B->Activity is (uint)ActivityState.WaitForSipi or (uint)ActivityState.Shutdown)
        {
            return null;
        }
        B->InterruptPending = 0;
        Interlocked.MemoryBarrier();
        // A debugger's step executes the next instruction: what is pending waits.
        bool shadow = B->InterruptShadow != 0 || (_debug.SingleStep && B->Activity == (uint)ActivityState.Active);
        if (B->NmiBlocked == 0 && !shadow && Apic.TryTakeNmi())
        {
            WakeUp();
            InterruptsTaken++;
            if (!DeliverNmi())
            {
                B->Activity = (uint)ActivityState.Shutdown;
            }
            B->NmiBlocked = 1;
        }
        else if ((B->SystemFlags & 0x200) != 0 && !shadow && Apic.TryTakeInterrupt(out byte vector))
        {
            WakeUp();
            InterruptsTaken++;
            if (!DeliverInterrupt(vector))
            {
                B->Activity = (uint)ActivityState.Shutdown;
            }
        }
        if (Apic.HasInterrupt())
        {
            B->InterruptPending = 1;
            if ((B->SystemFlags & 0x200) != 0 && !shadow)
            {
                B->ExitRequest = 1;
            }
        }
        else if (Apic.HasNmi)
        {
            B->InterruptPending = 1; // blocked now: looked at again after every instruction of the run loop, IRET among them
        }
        return null;
    }

    private void WakeUp()
    {
        if (B->Activity == (uint)ActivityState.Halted)
        {
            B->Activity = (uint)ActivityState.Active;
        }
    }

    private void ServeRequests()
    {
        if (Volatile.Read(ref B->RevokeRequest) != 0)
        {
            TlbRevokeAllWrites();
            Volatile.Write(ref B->RevokeRequest, 0);
        }
        DropWrittenCode();
        GiveCodeBack();
    }

    /// <summary>Drops the translated code that others have written over since the processor looked last. On its own thread, or while it does not run.</summary>
    internal void DropWrittenCode()
    {
        while (_invalidations.TryDequeue(out ulong page))
        {
            Blocks.InvalidatePage(page);
        }
        if (_invalidateAll)
        {
            _invalidateAll = false;
            Blocks.Flush();
        }
    }

    /// <summary>Waits for an interrupt. Entered and left with nothing lost: whoever makes something pending sets ExitRequest first, then wakes the waiter.</summary>
    private void WaitForEvent()
    {
        Halts++;
        long since = System.Diagnostics.Stopwatch.GetTimestamp();
        NoteHalt(since);
        if (!_haltPoll.Poll(ref Unsafe.As<uint, int>(ref B->ExitRequest)))
        {
            _waiting = true;
            Interlocked.MemoryBarrier();
            bool deliverable = Volatile.Read(ref B->ExitRequest) != 0;
            if (!deliverable)
            {
                _wait.Wait(-1);
            }
            _waiting = false;
            _haltPoll.Waited(since);
        }
        _idleTicks += System.Diagnostics.Stopwatch.GetTimestamp() - since;
        B->ExitRequest = 1;
    }

    /// <summary>Asks this processor (from another one's thread) to drop write permissions, and waits until it has or cannot use them.</summary>
    internal void RequestRevoke(Vcpu requester)
    {
        Volatile.Write(ref B->RevokeRequest, 1);
        Volatile.Write(ref B->ExitRequest, 1);
        Interlocked.MemoryBarrier();
        var spin = new SpinWait();
        while (Volatile.Read(ref B->Running) != 0 && Volatile.Read(ref B->RevokeRequest) != 0)
        {
            spin.SpinOnce(20);
        }
    }

    /// <summary>Drops the translated code of a physical page: at once on the own thread, before the next block otherwise.</summary>
    internal void InvalidateCode(ulong page)
    {
        if (_current == this)
        {
            Blocks.InvalidatePage(page);
        }
        else
        {
            if (_invalidations.Count < MaximumInvalidations)
            {
                _invalidations.Enqueue(page);
            }
            else
            {
                _invalidateAll = true; // a processor that nobody runs takes none
            }
            Kick();
        }
    }

    /// <summary>INIT: reset state except what the manual keeps (SDM vol. 3, table 9-1), then wait for SIPI unless this is the bootstrap processor.</summary>
    private void SoftReset()
    {
        InitializeRegisters();
        TlbFlushAll(true);
        UpdateMode();
        B->Activity = (uint)(Number == 0 ? ActivityState.Active : ActivityState.WaitForSipi);
    }

    private void StartUp(byte page)
    {
        Segment* cs = Segment(Seg.Cs);
        cs->Selector = (ushort)(page << 8);
        cs->Base = (ulong)page << 12;
        B->Rip = 0;
        B->Activity = (uint)ActivityState.Active;
        UpdateMode();
    }
}
