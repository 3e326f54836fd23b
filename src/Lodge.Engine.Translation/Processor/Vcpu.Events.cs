namespace Lodge.Engine.Translation.Processor;

/// <summary>What reaches the processor from outside: interrupts and requests of other threads, and how it waits for them.</summary>
internal sealed unsafe partial class Vcpu
{
    private readonly Lodge.Engine.Time.PreciseWait _wait = new();
    private readonly Lodge.Engine.Time.PollWindow _haltPoll = new(200);    // KVM's halt_poll_ns
    private volatile bool _stopRequested;

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
}
