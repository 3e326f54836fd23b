namespace Lodge.Engine.Translation.Processor;

internal sealed unsafe partial class Vcpu
{
    /// <summary>Called by the local APIC, any thread: something (interrupt, NMI, INIT, SIPI) may now be deliverable. Makes generated code leave at the next poll and wakes a halted processor.</summary>
    internal void NotifyInterrupt()
    {
    }

    /// <summary>The local APIC.</summary>
    internal Interrupts.LocalApic Apic = null!;

    /// <summary>Guest time stamp counter.</summary>
    internal ulong ReadTsc() => Emission.HostInstructions.ReadTimestamp() + B->TscOffset;

    /// <summary>Brings the x87 and MMX state into <see cref="ProcessorBlock.ExtendedState"/>; nothing to do when it is there.</summary>
    internal void SaveX87() => B->X87Loaded = 0;
}
