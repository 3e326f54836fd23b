using Lodge.Engine.Time;
using Lodge.Engine.Translation.Interrupts;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation;

// Interrupt messages between the machine and the local APICs (Intel SDM vol. 3, 11.6 and 11.11).
internal sealed partial class TranslationPartition
{
    private const ulong MessageWindow = 0xFEE0_0000;
    private const uint MessageBroadcast = 0xFF;
    private int _arbitration;
    private volatile bool _externalInterruptAsserted;

    /// <summary>Timers on the machine's time, for the local APICs.</summary>
    internal TimerService Timers = null!;

    /// <summary>Level of the 8259's INTR output.</summary>
    internal bool ExternalInterruptAsserted => _externalInterruptAsserted;

    /// <summary>Delivers a message-signalled interrupt; one that is malformed is dropped. Any thread.</summary>
    internal void RouteMessage(ulong address, uint data)
    {
        if ((address & ~0xF_FFFFUL) != MessageWindow)
        {
            return;
        }
        uint destination = (uint)(address >> 12) & 0xFF;
        bool logical = (address & 4) != 0, redirectionHint = (address & 8) != 0;
        var mode = (DeliveryMode)((data >> 8) & 7);
        if (mode is DeliveryMode.SystemManagement or DeliveryMode.StartUp or (DeliveryMode)3)
        {
            return;
        }
        if (mode == DeliveryMode.Fixed && redirectionHint && logical)
        {
            mode = DeliveryMode.LowestPriority;
        }
        var message = new InterruptMessage(destination, logical, mode, (byte)data, (data & (1 << 15)) != 0);
        if (destination == MessageBroadcast && mode != DeliveryMode.LowestPriority)
        {
            Broadcast(message, except: null);
        }
        else
        {
            Route(message);
        }
    }

    /// <summary>Level of the 8259's INTR output, wired to LINT0 of every processor. Any thread.</summary>
    internal void RouteExternalInterrupt(bool asserted)
    {
        bool raised = asserted && !_externalInterruptAsserted;
        _externalInterruptAsserted = asserted;
        if (!raised)
        {
            return;
        }
        foreach (Vcpu vcpu in Vcpus)
        {
            vcpu.Apic.RaiseLint0();
        }
    }

    /// <summary>NMI through LINT1 of every processor. Any thread.</summary>
    internal void RouteNmi()
    {
        foreach (Vcpu vcpu in Vcpus)
        {
            vcpu.Apic.RaiseLint1();
        }
    }

    /// <summary>Delivers a message to all processors but one.</summary>
    internal void Broadcast(in InterruptMessage message, LocalApic? except)
    {
        if (message.Mode == DeliveryMode.LowestPriority)
        {
            DeliverToLowest(message, all: true);
            return;
        }
        foreach (Vcpu vcpu in Vcpus)
        {
            if (vcpu.Apic != except)
            {
                vcpu.Apic.Deliver(message);
            }
        }
    }

    /// <summary>Delivers a message to the processors that its destination names.</summary>
    internal void Route(in InterruptMessage message)
    {
        if (message.Mode == DeliveryMode.LowestPriority)
        {
            DeliverToLowest(message, all: message.Destination == MessageBroadcast);
            return;
        }
        if (!message.Logical)
        {
            // A processor's APIC ID is its index.
            if (message.Destination < (uint)Vcpus.Length)
            {
                Vcpus[message.Destination].Apic.Deliver(message);
            }
            return;
        }
        foreach (Vcpu vcpu in Vcpus)
        {
            if (vcpu.Apic.Matches(message.Destination, logical: true))
            {
                vcpu.Apic.Deliver(message);
            }
        }
    }

    // The least busy of the processors named; among equals in turn.
    private void DeliverToLowest(in InterruptMessage message, bool all)
    {
        Vcpu[] vcpus = Vcpus;
        uint start = (uint)Interlocked.Increment(ref _arbitration), lowest = uint.MaxValue;
        LocalApic? chosen = null;
        for (uint i = 0; i < vcpus.Length; i++)
        {
            LocalApic apic = vcpus[(start + i) % (uint)vcpus.Length].Apic;
            if (!apic.AcceptsFixed || !(all || apic.Matches(message.Destination, message.Logical)))
            {
                continue;
            }
            uint priority = apic.ProcessorPriority >> 4;
            if (priority < lowest)
            {
                (lowest, chosen) = (priority, apic);
            }
        }
        chosen?.Deliver(message);
    }
}
