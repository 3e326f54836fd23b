namespace Lodge.Engine.Translation.Processor;

/// <summary>What the debugger asked for, and the guest's own instruction breakpoints.</summary>
internal sealed unsafe partial class Vcpu
{
    private DebugRequest _debug = DebugRequest.None;
    private HashSet<ulong> _breakpoints = [];
    private HashSet<ulong> _watchedPages = [];
    private DebugEvent? _debugStop;
    private bool _debugResuming;

    /// <summary>The stop that ended the last run.</summary>
    internal DebugEvent LastDebugEvent;

    /// <summary>Sets the debugger's wishes; only while not running.</summary>
    internal void SetDebug(DebugRequest request)
    {
        _debug = request;
        _breakpoints = [.. request.Breakpoints];
        _watchedPages = [];
        foreach (Watchpoint point in request.Watchpoints)
        {
            for (ulong page = point.Address & ~0xFFFUL; page <= ((point.Address + (ulong)point.Length - 1) & ~0xFFFUL); page += 4096)
            {
                _watchedPages.Add(page);
            }
        }
        // Breakpoints are looked for before every instruction; watchpoints see every access: both by C#, one instruction at a time.
        _debugInterpret = request.SingleStep || _breakpoints.Count > 0 || _watchedPages.Count > 0;
        _debugResuming = true;
        _debugStop = null;
        UpdateMode();
    }

    private bool Watched(ulong page) => _watchedPages.Count != 0 && _watchedPages.Contains(page);

    /// <summary>True when a debugger's breakpoint stops here; throws #DB for the guest's own (DR7, unless RF).</summary>
    private bool CheckDebugBeforeInstruction()
    {
        if (_debugInterpret)
        {
            ulong linear = Code64 ? B->Rip : (Segment(Seg.Cs)->Base + B->Rip) & 0xFFFF_FFFF;
            if (!_debugResuming && _breakpoints.Contains(linear))
            {
                _debugStop = new DebugEvent(DebugEventKind.Breakpoint, linear, false);
                return true;
            }
            _debugResuming = false;
        }
        if ((B->Dr7 & 0xFF) != 0 && (B->SystemFlags & (1UL << 16)) == 0)
        {
            ulong linear = Code64 ? B->Rip : (Segment(Seg.Cs)->Base + B->Rip) & 0xFFFF_FFFF;
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
        return false;
    }

    private void CheckDebugAfterInstruction()
    {
        if (_debug.SingleStep && _debugStop is null)
        {
            _debugStop = new DebugEvent(DebugEventKind.Step, Code64 ? B->Rip : (Segment(Seg.Cs)->Base + B->Rip) & 0xFFFF_FFFF, false);
        }
    }

    /// <summary>Called for every data access that C# makes for the guest while the debugger watches something.</summary>
    internal void NoteWatchedAccess(ulong linear, int size, bool write)
    {
        foreach (Watchpoint point in _debug.Watchpoints)
        {
            if (linear < point.Address + (ulong)point.Length && point.Address < linear + (ulong)size && (write ? point.OnWrite : point.OnRead))
            {
                _debugStop = new DebugEvent(DebugEventKind.Watchpoint, point.Address, write);
            }
        }
    }

    /// <summary>Whether <see cref="NoteWatchedAccess"/> wants to know.</summary>
    internal bool Watching => _watchedPages.Count != 0;
}
