using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.Time;

namespace Lodge.Engine;

/// <summary>What a partition is made from.</summary>
/// <param name="ProcessorCount">Number of virtual processors, 1 to 255.</param>
/// <param name="Model">CPU model that the guest sees.</param>
/// <param name="Memory">Guest RAM.</param>
/// <param name="Bus">Everything that is not RAM.</param>
/// <param name="Clock">The machine's time.</param>
public sealed record PartitionOptions(int ProcessorCount, CpuModel Model, GuestMemory Memory, IMachineBus Bus, MachineClock Clock)
{
    /// <summary>What the processors shall have besides their model.</summary>
    public ProcessorOptions Processor { get; init; } = ProcessorOptions.None;
}

/// <summary>An engine makes partitions. Engines are interchangeable: the same machine runs on any of them.</summary>
public interface IEngine
{
    /// <summary>Short name as given to <c>--engine</c>: <c>translate</c> or <c>kvm</c>.</summary>
    string Name { get; }

    /// <summary>What the engine can show a guest on this host: the gate for <see cref="CpuModel.Create(CpuModelName, int, CpuOffer, ProcessorOptions)"/>.</summary>
    /// <exception cref="NotSupportedException">The engine does not work on this host.</exception>
    CpuOffer CpuOffer => CpuOffer.Software;

    /// <summary>Does what the first partition of a process would otherwise wait for. Any thread; never throws, and nothing depends on it.</summary>
    void Prepare()
    {
    }

    /// <summary>Creates a partition with its processors in the reset state (processor 0 runnable, others waiting for SIPI).</summary>
    /// <exception cref="NotSupportedException">The engine or the host cannot do what is asked for; the message is one line.</exception>
    Partition CreatePartition(PartitionOptions options);
}

/// <summary>The processors of one machine with their local APICs.</summary>
public abstract class Partition : IDisposable
{
    /// <summary>The virtual processors, by index (which is also the initial APIC ID).</summary>
    public abstract IReadOnlyList<VirtualProcessor> Processors { get; }

    /// <summary>Delivers a message-signalled interrupt (also how the I/O APIC delivers). Any thread.</summary>
    /// <param name="address">Message address, 0xFEE00000 + destination (Intel SDM vol. 3, 11.11.1).</param>
    /// <param name="data">Message data: vector, delivery mode, level, trigger mode (11.11.2).</param>
    public abstract void SignalMessage(ulong address, uint data);

    /// <summary>Level of the 8259's INTR output, which is wired to LINT0 of every processor. Any thread.</summary>
    public abstract void SetExternalInterrupt(bool asserted);

    /// <summary>Raises NMI through LINT1 of every processor.</summary>
    public abstract void SignalNmi();

    /// <summary>Who acknowledges ExtINT interrupts.</summary>
    public IExternalInterruptSource? ExternalInterrupts { get; set; }

    /// <summary>Who is told of level-triggered ends of interrupt.</summary>
    public IEndOfInterruptListener? EndOfInterruptListener { get; set; }

    /// <summary>Guest writes as eventfd signals; null when this engine has no such thing.</summary>
    public virtual IDoorbells? Doorbells => null;

    /// <summary>Eventfd signals as interrupts; null when this engine has no such thing.</summary>
    public virtual IInterruptEvents? InterruptEvents => null;

    /// <summary>Which pages are written; null when this engine cannot tell.</summary>
    public virtual IDirtyTracking? DirtyTracking => null;

    /// <summary>Translated code that can be kept; null when this engine does not translate.</summary>
    public virtual ITranslatedCode? TranslatedCode => null;

    /// <summary>Puts every processor and local APIC in its reset state. All processors must be stopped.</summary>
    public abstract void Reset();

    /// <inheritdoc/>
    public abstract void Dispose();
}
