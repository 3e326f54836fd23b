namespace Lodge.Engine.Translation.Processor;

/// <summary>
/// What the debugger asked for, and the guest's own instruction breakpoints. A debugger's breakpoints and watchpoints cost translated code nothing:
/// no block reaches over a breakpoint, and pages with watchpoints stay out of the first-level TLB, so that C# executes what touches either.
/// </summary>
internal sealed unsafe partial class Vcpu
{
    private DebugRequest _debug = DebugRequest.None;
    private HashSet<ulong> _breakpoints = [];
    private HashSet<ulong> _translatedAround = [];
    private HashSet<ulong> _watchedPages = [];
    private DebugEvent? _debugStop;

    /// <summary>The stop that ended the last run.</summary>
    internal DebugEvent LastDebugEvent;

    /// <summary>Sets the debugger's wishes; only while not running.</summary>
    internal void SetDebug(DebugRequest request)
    {
        _debug = request;
        _breakpoints = [.. request.Breakpoints];
        HashSet<ulong> pages = [];
        foreach (Watchpoint point in request.Watchpoints)
        {
            if (point.Length > 0)
            {
                ulong first = point.Address & ~0xFFFUL, count = ((point.Address & 0xFFF) + (ulong)point.Length + 0xFFF) >> 12;
                for (ulong i = 0; i < count; i++)
                {
                    pages.Add(first + (i << 12));
                }
            }
        }
        if (!pages.SetEquals(_watchedPages))
        {
            ClearFirstLevel();
        }
        _watchedPages = pages;
        DebuggerWatches = pages.Count != 0;
        UpdateDataWatch();
        // Blocks made for other breakpoints are kept while only stepping: a debugger takes them away for that and brings the same ones back.
        if (!request.SingleStep && !_translatedAround.SetEquals(_breakpoints))
        {
            Blocks?.Flush();
            _translatedAround = _breakpoints;
        }
        _debugInterpret = request.SingleStep;
        _debugStop = null;
        UpdateMode();
    }

    /// <summary>Whether the debugger has a breakpoint at a linear address.</summary>
    internal bool BreaksAt(ulong linear) => _breakpoints.Count != 0 && _breakpoints.Contains(linear);

    /// <summary>Whether the debugger has any.</summary>
    internal bool HasBreakpoints => _breakpoints.Count != 0;

    private bool Watched(ulong page) => _watchedPages.Count != 0 && _watchedPages.Contains(page);

    private ulong LinearRip => Code64 ? B->Rip : (Segment(Seg.Cs)->Base + B->Rip) & 0xFFFF_FFFF;

    /// <summary>True, with the stop noted, when a debugger's breakpoint is at the next instruction. A single step passes it.</summary>
    private bool StopsAtBreakpoint()
    {
        if (_breakpoints.Count == 0 || _debug.SingleStep || !_breakpoints.Contains(LinearRip))
        {
            return false;
        }
        _debugStop = new DebugEvent(DebugEventKind.Breakpoint, LinearRip, false);
        return true;
    }

    /// <summary>Throws #DB for the guest's own breakpoints (DR7, unless RF).</summary>
    private void CheckInstructionBreakpoints()
    {
        if ((B->Dr7 & 0xFF) != 0 && (B->SystemFlags & (1UL << 16)) == 0)
        {
            ulong linear = LinearRip;
            ulong hit = 0;
            ulong* addresses = &B->Dr0;
            for (int i = 0; i < 4; i++)
            {
                if (((B->Dr7 >> (i * 2)) & 3) != 0 && ((B->Dr7 >> (16 + (i * 4))) & 3) == 0 && addresses[i] == linear)
                {
                    hit |= 1UL << i;
                }
            }
            if (hit != 0)
            {
                GuestFault.Raise(Vector.Debug, null, hit);
            }
        }
    }

    /// <summary>After an instruction, or the delivery of what it raised.</summary>
    private void CheckSingleStep()
    {
        if (_debug.SingleStep && _debugStop is null)
        {
            _debugStop = new DebugEvent(DebugEventKind.Step, LinearRip, false);
        }
    }

    // Called for every data access that C# makes for the guest while the debugger watches something.
    partial void NoteDebuggerAccess(ulong linear, int size, bool write)
    {
        foreach (Watchpoint point in _debug.Watchpoints)
        {
            // Differences, so that neither end wraps.
            bool overlaps = linear - point.Address < (ulong)Math.Max(point.Length, 0) || point.Address - linear < (ulong)size;
            if (overlaps && point.Length > 0 && (write ? point.OnWrite : point.OnRead) && _debugStop is not { Kind: DebugEventKind.Watchpoint, IsWrite: true })
            {
                _debugStop = new DebugEvent(DebugEventKind.Watchpoint, point.Address, write);
            }
        }
    }
}
