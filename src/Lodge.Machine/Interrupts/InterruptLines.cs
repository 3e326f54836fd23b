namespace Lodge.Machine.Interrupts;

/// <summary>An interrupt controller as the wires see it: numbered inputs with a level each.</summary>
public interface IInterruptController
{
    /// <summary>Drives an input. Any thread; idempotent.</summary>
    void SetInput(int input, bool asserted);
}

/// <summary>
/// The machine's interrupt wires: global system interrupts 0 to 23. Each is a wired-OR of any number of sources and drives the input of the
/// same number of the I/O APIC and, below 16, of the 8259 pair. The exception is that of every PC: the timer's ISA IRQ 0 is input 0 of the
/// 8259 but input 2 of the I/O APIC, since input 2 of the 8259 is its cascade; the ACPI MADT says so with an interrupt source override
/// (ACPI 6.5, 5.2.12.5). Global system interrupt 0 is connected to nothing.
/// <para>Lock order: a device's lock, the wire's lock, the controller's lock. A controller never calls back to a device.</para>
/// </summary>
public sealed class InterruptLines
{
    /// <summary>Number of wires.</summary>
    public const int Count = 24;

    /// <summary>Global system interrupt of ISA IRQ 0.</summary>
    public const int TimerGsi = 2;

    private const int IsaCount = 16;
    private readonly Wire?[] _wires = new Wire?[Count];

    /// <summary>Creates the wires.</summary>
    /// <param name="pic">The 8259 pair, inputs 0 to 15.</param>
    /// <param name="ioApic">The I/O APIC, inputs 0 to 23.</param>
    public InterruptLines(IInterruptController pic, IInterruptController ioApic)
    {
        for (int gsi = 1; gsi < Count; gsi++)
        {
            int? picInput = gsi == TimerGsi ? 0 : gsi < IsaCount ? gsi : null;
            _wires[gsi] = new Wire(pic, picInput, ioApic, gsi);
        }
    }

    /// <summary>Adds a source to a global system interrupt.</summary>
    /// <param name="gsi">1 to 23.</param>
    /// <returns>That source's own line.</returns>
    /// <exception cref="ArgumentOutOfRangeException">No such wire.</exception>
    public IInterruptLine CreateSource(int gsi) =>
        gsi is > 0 and < Count ? _wires[gsi]!.CreateSource() : throw new ArgumentOutOfRangeException(nameof(gsi), gsi, "global system interrupts are 1 to 23");

    /// <summary>Adds a source to an ISA interrupt request.</summary>
    /// <param name="irq">0 to 15 without 2.</param>
    /// <returns>That source's own line.</returns>
    /// <exception cref="ArgumentOutOfRangeException">No such wire.</exception>
    public IInterruptLine CreateIsaSource(int irq) =>
        irq is >= 0 and < IsaCount and not 2 ? CreateSource(irq == 0 ? TimerGsi : irq) : throw new ArgumentOutOfRangeException(nameof(irq), irq, "ISA interrupt requests are 0, 1 and 3 to 15");

    private sealed class Wire(IInterruptController pic, int? picInput, IInterruptController ioApic, int ioApicInput)
    {
        private readonly Lock _gate = new();
        private int _asserted; // number of sources that assert

        public IInterruptLine CreateSource() => new Source(this);

        private void Set(Source source, bool asserted)
        {
            lock (_gate)
            {
                if (source.Asserted != asserted)
                {
                    source.Asserted = asserted;
                    _asserted += asserted ? 1 : -1;
                }
                // Passed on even without a change: a controller that restored its saved state may hold another level than the wire.
                if (picInput is int input)
                {
                    pic.SetInput(input, _asserted != 0);
                }
                ioApic.SetInput(ioApicInput, _asserted != 0);
            }
        }

        private sealed class Source(Wire wire) : IInterruptLine
        {
            public bool Asserted { get; set; }

            public void Set(bool asserted) => wire.Set(this, asserted);
        }
    }
}
