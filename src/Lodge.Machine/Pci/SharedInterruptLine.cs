namespace Lodge.Machine.Pci;

/// <summary>An interrupt input that several functions drive; asserted while any of them asserts it.</summary>
internal sealed class SharedInterruptLine(IInterruptLine line)
{
    private readonly Lock _gate = new();
    private int _asserted;

    /// <summary>A new wire to the input.</summary>
    public IInterruptLine Input() => new Wire(this);

    private void Change(int by)
    {
        lock (_gate)
        {
            _asserted += by;
            line.Set(_asserted != 0);
        }
    }

    private sealed class Wire(SharedInterruptLine owner) : IInterruptLine
    {
        private int _level;

        public void Set(bool asserted)
        {
            int level = asserted ? 1 : 0;
            int before = Interlocked.Exchange(ref _level, level);
            if (before != level)
            {
                owner.Change(level - before);
            }
        }
    }
}
