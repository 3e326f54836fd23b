using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Execution;
using Lodge.Engine.Translation.Lockstep;

namespace Lodge.Engine.Translation.Processor;

/// <summary>The run loop: events, translated blocks, single instructions, waiting.</summary>
internal sealed unsafe partial class Vcpu
{
    [ThreadStatic]
    private static Vcpu? _current;

    private static Vcpu[] _byIndex = [];
    private static readonly Lock RegistryGate = new();
    private int _registration;

    /// <summary>Counters for <c>--trace</c>.</summary>
    internal long Exits, Faults, InterruptsTaken, SlowAccesses, Halts, IndirectMisses, CarefulBlocks, FlagsRebuilt;

    internal void Enlist()
    {
        lock (RegistryGate)
        {
            int free = Array.IndexOf(_byIndex, null);
            if (free < 0)
            {
                free = _byIndex.Length;
                var grown = new Vcpu[Math.Max(8, _byIndex.Length * 2)];
                _byIndex.CopyTo(grown, 0);
                grown[free] = this;
                Volatile.Write(ref _byIndex, grown);
            }
            else
            {
                _byIndex[free] = this;
            }
            _registration = free;
            B->Index = (uint)free;
        }
    }

    internal void Unregister()
    {
        lock (RegistryGate)
        {
            _byIndex[_registration] = null!;
        }
    }

    /// <summary>Runs until stopped, shut down, or a debug event.</summary>
    internal ProcessorExit RunLoop()
    {
        _current = this;
        HostSignals.SetGsBase(B);
        try
        {
            if (_pendingEvent is { } pending && !_stopRequested)
            {
                _pendingEvent = null;
                DeliverPending(pending);
            }
            while (true)
            {
                if (_debugStop is { } stop)
                {
                    _debugStop = null;
                    LastDebugEvent = stop;
                    return ProcessorExit.Debug;
                }
                if (B->ExitRequest != 0 || B->InterruptPending != 0)
                {
                    if (TakeEvents() is { } exit)
                    {
                        return exit;
                    }
                }
                if (B->Activity != (uint)ActivityState.Active)
                {
                    if (B->Activity == (uint)ActivityState.Shutdown)
                    {
                        return ProcessorExit.Shutdown;
                    }
                    WaitForEvent();
                    continue;
                }
                if ((B->Mode & ModeBits.Interpret) != 0 || B->InterruptShadow != 0)
                {
                    if (!InterpretOne() && B->Activity == (uint)ActivityState.Shutdown)
                    {
                        return ProcessorExit.Shutdown;
                    }
                    continue;
                }
                // It lasts one instruction, and only instruction breakpoints, under which no block runs, tell that from no time.
                B->SystemFlags &= ~ResumeFlag;
                if (Comparison is null)
                {
                    RunBlocks();
                }
                else
                {
                    RunBlockInLockstep(Comparison);
                }
            }
        }
        finally
        {
            SaveX87();
            _current = null;
        }
    }

    /// <summary>Executes one instruction by C# and delivers what it raises. False when the processor shut down.</summary>
    private bool InterpretOne()
    {
        if (StopsAtBreakpoint())
        {
            return true;
        }
        bool afterStackSegment = B->InterruptShadow == Shadow.StackSegment;
        ulong held = PendingDebug; // by what loaded SS
        B->InterruptShadow = 0;
        bool trace = (B->SystemFlags & 0x100) != 0;
        ulong resume = B->SystemFlags & ResumeFlag;
        try
        {
            if (!afterStackSegment)
            {
                CheckInstructionBreakpoints();
            }
            B->SystemFlags &= ~ResumeFlag; // lasts one instruction; IRET may set it anew
            _trapFlagCountsAfter = false;
            ExecuteOne();
        }
        catch (GuestFault fault)
        {
            Faults++;
            PendingDebug = 0;
            _debugStop = null; // the access was not made
            B->SystemFlags |= resume;
            bool delivered = Deliver(fault.Vector, fault.ErrorCode, fault.Address) && (held == 0 || Deliver(Vector.Debug, null, held));
            CheckSingleStep();
            return delivered;
        }
        if (B->InterruptShadow == Shadow.StackSegment)
        {
            if (!afterStackSegment)
            {
                CheckSingleStep();
                return true; // no trap by TF; data breakpoints are held
            }
            B->InterruptShadow = 0; // of several in sequence only the first holds anything
        }
        // Calls of a handler trap by the TF that they leave, everything else by the TF that it found.
        trace &= !_trapFlagCountsAfter || (B->SystemFlags & 0x100) != 0;
        ulong pending = PendingDebug | (trace ? 1UL << 14 : 0);
        if (pending != 0)
        {
            PendingDebug = 0;
            Faults++;
            bool delivered = Deliver(Vector.Debug, null, pending);
            CheckSingleStep();
            return delivered;
        }
        CheckSingleStep();
        return true;
    }

    private bool _trapFlagCountsAfter;

    private const ulong ResumeFlag = 1UL << 16;

    private bool Deliver(Vector vector, uint? errorCode, ulong address)
    {
        if (DeliverException(vector, errorCode, address))
        {
            return true;
        }
        B->Activity = (uint)ActivityState.Shutdown;
        return false;
    }

    private void RunBlocks()
    {
        Block? block = Blocks.Find(B->Rip, out bool interpret);
        if (block is null)
        {
            if (interpret)
            {
                InterpretOne();
            }
            else
            {
                Faults++;
                Deliver(PendingFault.Vector, PendingFault.ErrorCode, PendingFault.Address);
            }
            return;
        }
        while (true)
        {
            byte* entry = Blocks.PackedEntry(block, true);
            B->Running = 1;
            Interlocked.MemoryBarrier();
            if (Volatile.Read(ref B->RevokeRequest) != 0)
            {
                B->Running = 0;
                ServeRequests();
                return;
            }
            Blocks.Stubs.Enter(B, entry);
            Volatile.Write(ref B->Running, 0);
            Exits++;
            int code = (int)B->ExitInfo;
            switch (code)
            {
                case ExitCode.HostFault:
                    DeliverHostFault();
                    return;
                case ExitCode.GuestFault:
                    RebuildFlags();
                    Faults++;
                    Deliver(PendingFault.Vector, PendingFault.ErrorCode, PendingFault.Address);
                    return;
                case ExitCode.Interpret:
                    RebuildFlags();
                    InterpretOne();
                    return;
                case ExitCode.Resume:
                    return;
                case ExitCode.Syscall or ExitCode.Sysret:
                    if (!CrossPrivilege(code == ExitCode.Syscall) || B->ExitRequest != 0 || B->InterruptPending != 0 || (B->Mode & ModeBits.Interpret) != 0)
                    {
                        return;
                    }
                    block = Blocks.Find(B->Rip, out _);
                    if (block is null)
                    {
                        return;
                    }
                    break;
                case ExitCode.Careful:
                    RebuildFlags();
                    CarefulBlocks++;
                    Blocks.NoteWindowMiss(B->ExitSite);
                    block = Blocks.Find(B->Rip, out interpret, careful: true);
                    if (block is null)
                    {
                        InterpretOne();
                        return;
                    }
                    break;
                case ExitCode.Poll:
                    B->Rip = B->ExitTarget;
                    return;
                case ExitCode.PollRecipe:
                    B->Rip = B->ExitTarget;
                    RebuildFlags(FlagSource.Entry, default);
                    return;
                case ExitCode.InterpretAt:
                    B->Rip = B->ExitTarget;
                    InterpretOne();
                    return;
                case ExitCode.Sti:
                    B->Rip = B->ExitTarget;
                    B->InterruptShadow = Shadow.Sti;
                    B->ExitRequest = 1;
                    return;
                case ExitCode.HotLoop:
                    RebuildFlags(FlagSource.Entry, default);
                    B->LoopsLeft = BlockCache.LoopInterval;
                    int loop = (int)B->ExitTarget;
                    B->Rip = Blocks.NoteHotLoop(loop);
                    if (B->ExitRequest != 0)
                    {
                        return;
                    }
                    uint before = Blocks.Generation;
                    block = Blocks.Find(B->Rip, out _);
                    if (block is null)
                    {
                        return;
                    }
                    if (before == Blocks.Generation)
                    {
                        Blocks.Link(loop, block);
                    }
                    break;
                case ExitCode.Indirect:
                    B->Rip = B->ExitTarget;
                    if (B->ExitRequest != 0)
                    {
                        return;
                    }
                    IndirectMisses++;
                    block = Blocks.Find(B->Rip, out _, packed: true);
                    if (block is null)
                    {
                        return;
                    }
                    EnterJump(B->Rip, block);
                    break;
                default:
                    uint generation = Blocks.Generation;
                    bool shadow = Blocks.Exits[code].InterruptShadow;
                    B->Rip = Blocks.Exits[code].Target;
                    if (shadow)
                    {
                        B->InterruptShadow = Shadow.Sti; // what follows STI runs before any interrupt is taken
                    }
                    else if (B->ExitRequest != 0)
                    {
                        return;
                    }
                    block = Blocks.Find(B->Rip, out _, packed: Blocks.Exits[code].Flags != FlagState.Host);
                    if (block is null)
                    {
                        return;
                    }
                    if (generation == Blocks.Generation)
                    {
                        Blocks.Link(code, block);
                    }
                    if (shadow)
                    {
                        return;
                    }
                    break;
            }
        }
    }

    // SYSCALL and SYSRETQ without decoding them again. False when they raised an exception, which has been delivered.
    private bool CrossPrivilege(bool enter)
    {
        B->NextRip = B->ExitTarget;
        try
        {
            if (enter)
            {
                EnterSyscall(B->ExitTarget);
            }
            else
            {
                LeaveSyscall(true);
            }
            B->Rip = B->NextRip;
            return true;
        }
        catch (GuestFault fault)
        {
            Faults++;
            Deliver(fault.Vector, fault.ErrorCode, fault.Address);
            return false;
        }
    }

    private Exception? _failure;

    private void Fail(Exception failure)
    {
        _failure = failure;
        B->ExitInfo = unchecked((ulong)(long)ExitCode.Resume);
        _stopRequested = true;
        B->ExitRequest = 1;
    }

    /// <summary>What ended the last run, when the engine itself failed.</summary>
    internal Exception? Failure => _failure;
}
