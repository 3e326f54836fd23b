using Lodge.Engine;

namespace Lodge.Machine.Interrupts;

/// <summary>
/// The way from the interrupt controllers to the processors. Devices are made before the partition, which needs their bus; until
/// <see cref="Connect"/>, messages are dropped and the level of INTR is remembered.
/// </summary>
public sealed class ProcessorInterrupts : IMessageInterruptTarget
{
    private readonly Lock _gate = new();
    private Partition? _partition;
    private bool _external;

    /// <summary>Creates an unconnected way.</summary>
    public ProcessorInterrupts() => ExternalInterrupt = new IntrLine(this);

    /// <summary>Where the 8259 pair drives its INTR output.</summary>
    public IInterruptLine ExternalInterrupt { get; }

    /// <summary>Connects the controllers and the processors with each other.</summary>
    /// <param name="partition">The processors.</param>
    /// <param name="pic">Who acknowledges ExtINT interrupts.</param>
    /// <param name="ioApic">Who hears of ends of interrupt.</param>
    public void Connect(Partition partition, IExternalInterruptSource pic, IEndOfInterruptListener ioApic)
    {
        partition.ExternalInterrupts = pic;
        partition.EndOfInterruptListener = ioApic;
        lock (_gate)
        {
            _partition = partition;
            partition.SetExternalInterrupt(_external);
        }
    }

    /// <inheritdoc/>
    public void SignalMessage(ulong address, uint data) => Volatile.Read(ref _partition)?.SignalMessage(address, data);

    private sealed class IntrLine(ProcessorInterrupts owner) : IInterruptLine
    {
        public void Set(bool asserted)
        {
            Partition? partition = Volatile.Read(ref owner._partition);
            if (partition is null)
            {
                lock (owner._gate)
                {
                    owner._external = asserted;
                    partition = owner._partition;
                }
            }
            partition?.SetExternalInterrupt(asserted);
        }
    }
}
