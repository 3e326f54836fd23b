using Lodge.Engine;

namespace Lodge.Machine.Debugging;

/// <summary>Kinds of the <c>Z</c> packets (gdb manual, E.2 "Packets").</summary>
internal enum BreakpointKind
{
    /// <summary>Software breakpoint. The engine needs no change of guest memory for it.</summary>
    Software = 0,

    /// <summary>Hardware breakpoint.</summary>
    Hardware = 1,

    /// <summary>Stores.</summary>
    Write = 2,

    /// <summary>Loads.</summary>
    Read = 3,

    /// <summary>Both.</summary>
    Access = 4,
}

/// <summary>The breakpoints and watchpoints that a client has set. Inserting twice counts once, as the protocol wants it.</summary>
internal sealed class BreakpointTable
{
    /// <summary>Most entries.</summary>
    public const int Maximum = 4096;

    private readonly HashSet<(BreakpointKind Kind, ulong Address, int Length)> _entries = [];
    private ulong[] _breakpoints = [];
    private Watchpoint[] _watchpoints = [];

    /// <summary>Sets one. For a watchpoint <paramref name="length"/> is its bytes, up to a page; for a breakpoint it says nothing.</summary>
    /// <returns>False when it cannot be.</returns>
    public bool TryInsert(BreakpointKind kind, ulong address, ulong length)
    {
        bool watchpoint = kind >= BreakpointKind.Write;
        if (_entries.Count >= Maximum || (watchpoint && length is 0 or > 4096))
        {
            return false;
        }
        if (_entries.Add((kind, address, watchpoint ? (int)length : 0)))
        {
            Collect();
        }
        return true;
    }

    /// <summary>Takes one away, if it is there.</summary>
    public void Remove(BreakpointKind kind, ulong address, ulong length)
    {
        if (length <= int.MaxValue && _entries.Remove((kind, address, kind >= BreakpointKind.Write ? (int)length : 0)))
        {
            Collect();
        }
    }

    /// <summary>Takes all away.</summary>
    public void Clear()
    {
        _entries.Clear();
        Collect();
    }

    /// <summary>What a processor is asked to do.</summary>
    public DebugRequest Request(bool singleStep) =>
        !singleStep && _entries.Count == 0 ? DebugRequest.None : new DebugRequest(singleStep, _breakpoints, _watchpoints);

    /// <summary>The stop reason of a stop reply (gdb manual, E.3 "Stop Reply Packets"), empty for a step.</summary>
    /// <param name="stop">What the engine says.</param>
    /// <param name="software">The client knows <c>swbreak</c>.</param>
    /// <param name="hardware">The client knows <c>hwbreak</c>.</param>
    public string Reason(DebugEvent stop, bool software, bool hardware)
    {
        switch (stop.Kind)
        {
            case DebugEventKind.Breakpoint when _entries.Contains((BreakpointKind.Software, stop.Address, 0)):
                return software ? "swbreak:;" : "";
            case DebugEventKind.Breakpoint when _entries.Contains((BreakpointKind.Hardware, stop.Address, 0)):
                return hardware ? "hwbreak:;" : "";
            case DebugEventKind.Watchpoint:
                BreakpointKind exact = stop.IsWrite ? BreakpointKind.Write : BreakpointKind.Read;
                BreakpointKind? found = null;
                foreach ((BreakpointKind kind, ulong address, int length) in _entries)
                {
                    if (kind >= BreakpointKind.Write && stop.Address - address < (ulong)length && (kind == exact || (kind == BreakpointKind.Access && found is null)))
                    {
                        found = kind;
                    }
                }
                return found switch
                {
                    BreakpointKind.Write => $"watch:{stop.Address:x};",
                    BreakpointKind.Read => $"rwatch:{stop.Address:x};",
                    BreakpointKind.Access => $"awatch:{stop.Address:x};",
                    _ => "",
                };
            default:
                return "";
        }
    }

    /// <summary>Whether the stop is one of a breakpoint or watchpoint that is still set.</summary>
    public bool Explains(DebugEvent stop) => stop.Kind switch
    {
        DebugEventKind.Watchpoint => Reason(stop, false, false).Length != 0,
        DebugEventKind.Breakpoint => _breakpoints.Contains(stop.Address),
        _ => false,
    };

    private void Collect()
    {
        _breakpoints = [.. _entries.Where(e => e.Kind < BreakpointKind.Write).Select(e => e.Address).Distinct()];
        _watchpoints = [.. _entries.Where(e => e.Kind >= BreakpointKind.Write)
            .Select(e => new Watchpoint(e.Address, e.Length, e.Kind != BreakpointKind.Write, e.Kind != BreakpointKind.Read))];
    }
}
