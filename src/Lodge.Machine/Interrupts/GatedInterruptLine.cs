namespace Lodge.Machine.Interrupts;

/// <summary>
/// A line that can be cut. While the HPET's legacy replacement is on, it takes IRQ 0 from the 8254 and IRQ 8 from the RTC
/// (IA-PC HPET 1.0a, 2.3.5, LEG_RT_CNF): their lines pass through one of these.
/// </summary>
/// <param name="output">The line behind it.</param>
public sealed class GatedInterruptLine(IInterruptLine output) : IInterruptLine
{
    private readonly Lock _gate = new();
    private bool _asserted;
    private bool _cut;

    /// <summary>Whether it is cut: then the output is low.</summary>
    public bool IsCut { get { lock (_gate) { return _cut; } } }

    /// <inheritdoc/>
    public void Set(bool asserted)
    {
        lock (_gate)
        {
            _asserted = asserted;
            output.Set(_asserted && !_cut);
        }
    }

    /// <summary>Cuts or rejoins the line. Any thread; idempotent.</summary>
    public void Cut(bool cut)
    {
        lock (_gate)
        {
            if (_cut != cut)
            {
                _cut = cut;
                output.Set(_asserted && !_cut);
            }
        }
    }
}
