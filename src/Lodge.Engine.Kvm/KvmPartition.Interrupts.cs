namespace Lodge.Engine.Kvm;

// Interrupt messages, INTR and NMI between the machine and the local APICs in the kernel.
internal sealed partial class KvmPartition
{
    /// <summary>
    /// Places of the routing table for learned level-triggered messages, which are the "pins" that the kernel reports ends of interrupt for: for each of the
    /// I/O APIC's 24 lines several messages, so that none in service is pushed out when the guest moves interrupts about.
    /// </summary>
    internal const int LearnedPlaces = 96;

    private volatile bool _externalAsserted;

    /// <summary>Level of the 8259's INTR output.</summary>
    internal bool ExternalAsserted => _externalAsserted;

    /// <inheritdoc/>
    public override void SignalMessage(ulong address, uint data) => Messages.Send(address, data);

    /// <inheritdoc/>
    public override void SetExternalInterrupt(bool asserted)
    {
        bool raised = asserted && !_externalAsserted;
        _externalAsserted = asserted;
        if (raised)
        {
            foreach (KvmProcessor processor in _processors)
            {
                processor.Attend();
            }
        }
    }

    /// <inheritdoc/>
    public override void SignalNmi()
    {
        foreach (KvmProcessor processor in _processors)
        {
            processor.RaiseLint1();
        }
    }
}
