using System.Collections.Concurrent;
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
    private const int MaximumInvalidations = 4096;
    private readonly ConcurrentQueue<ulong> _invalidations = new();
    private volatile bool _invalidateAll;
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

    /// <summary>Interrupts, start-up messages and requests of other threads; not null to leave the run loop.</summary>
    private ProcessorExit? TakeEvents()
    {
        Interlocked.Exchange(ref B->ExitRequest, 0);
        if (_stopRequested)
        {
            _stopRequested = false;
            Volatile.Write(ref B->ExitRequest, B->InterruptPending);
            return ProcessorExit.Stopped;
        }
        ServeRequests();
        if (Apic.TryTakeInit())
        {
            SoftReset();
        }
        if (Apic.TryTakeSipi(out byte page) && B->Activity == (uint)ActivityState.WaitForSipi)
        {
            StartUp(page);
        }
        if (B->Activity is (uint)ActivityState.WaitForSipi or (uint)ActivityState.Shutdown)
        {
            return null;
        }
        B->InterruptPending = 0;
        Interlocked.MemoryBarrier();
        // A debugger's step executes the next instruction: what is pending waits.
        bool shadow = B->InterruptShadow != 0 || (_debug.SingleStep && B->Activity == (uint)ActivityState.Active);
        if (B->NmiBlocked == 0 && !shadow && Apic.TryTakeNmi())
        {
            WakeUp();
            InterruptsTaken++;
            if (!DeliverNmi())
            {
                B->Activity = (uint)ActivityState.Shutdown;
            }
            B->NmiBlocked = 1;
        }
        else if ((B->SystemFlags & 0x200) != 0 && !shadow && Apic.TryTakeInterrupt(out byte vector))
        {
            WakeUp();
            InterruptsTaken++;
            if (!DeliverInterrupt(vector))
            {
                B->Activity = (uint)ActivityState.Shutdown;
            }
        }
        if (Apic.HasInterrupt())
        {
            B->InterruptPending = 1;
            if ((B->SystemFlags & 0x200) != 0 && !shadow)
            {
                B->ExitRequest = 1;
            }
        }
        else if (Apic.HasNmi)
        {
            B->InterruptPending = 1; // blocked now: looked at again after every instruction of the run loop, IRET among them
        }
        return null;
    }

    private void WakeUp()
    {
        if (B->Activity == (uint)ActivityState.Halted)
        {
            B->Activity = (uint)ActivityState.Active;
        }
    }

    private void ServeRequests()
    {
        if (Volatile.Read(ref B->RevokeRequest) != 0)
        {
            TlbRevokeAllWrites();
            Volatile.Write(ref B->RevokeRequest, 0);
        }
        while (_invalidations.TryDequeue(out ulong page))
        {
            Blocks.InvalidatePage(page);
        }
        if (_invalidateAll)
        {
            _invalidateAll = false;
            Blocks.Flush();
        }
    }

    /// <summary>Waits for an interrupt. Entered and left with nothing lost: whoever makes something pending sets ExitRequest first, then wakes the waiter.</summary>
    private void WaitForEvent()
    {
        Halts++;
        long since = System.Diagnostics.Stopwatch.GetTimestamp();
        if (!_haltPoll.Poll(ref Unsafe.As<uint, int>(ref B->ExitRequest)))
        {
            _waiting = true;
            Interlocked.MemoryBarrier();
            bool deliverable = Volatile.Read(ref B->ExitRequest) != 0;
            if (!deliverable)
            {
                _wait.Wait(-1);
            }
            _waiting = false;
            _haltPoll.Waited(since);
        }
        B->ExitRequest = 1;
    }

    /// <summary>Asks this processor (from another one's thread) to drop write permissions, and waits until it has or cannot use them.</summary>
    internal void RequestRevoke(Vcpu requester)
    {
        Volatile.Write(ref B->RevokeRequest, 1);
        Volatile.Write(ref B->ExitRequest, 1);
        Interlocked.MemoryBarrier();
        var spin = new SpinWait();
        while (Volatile.Read(ref B->Running) != 0 && Volatile.Read(ref B->RevokeRequest) != 0)
        {
            spin.SpinOnce(20);
        }
    }

    /// <summary>Drops the translated code of a physical page: at once on the own thread, before the next block otherwise.</summary>
    internal void InvalidateCode(ulong page)
    {
        if (_current == this)
        {
            Blocks.InvalidatePage(page);
        }
        else
        {
            if (_invalidations.Count < MaximumInvalidations)
            {
                _invalidations.Enqueue(page);
            }
            else
            {
                _invalidateAll = true; // a processor that nobody runs takes none
            }
            Kick();
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

    /// <summary>A copied instruction in a block raised a host signal.</summary>
    private void DeliverHostFault()
    {
        if (!Blocks.TryLocate(B->FaultPc, out _, out ulong rip, out int source, out FlagRecipe recipe))
        {
            throw new EngineFailure($"signal {B->FaultSignal} at {B->FaultPc:x} outside translated code");
        }
        B->Rip = rip;
        RebuildFlags(source, recipe);
        InterpretOne(); // raises the same fault precisely
    }

    // The slow path of an access has left the block.
    private void RebuildFlags()
    {
        if (!Blocks.TryLocate(B->ExitSite, out _, out _, out int source, out FlagRecipe recipe))
        {
            throw new EngineFailure($"memory access at {B->ExitSite:x} outside translated code");
        }
        RebuildFlags(source, recipe);
    }

    /// <summary>Packs the flags at a point of translated code that was left. The registers are still those of that point.</summary>
    private void RebuildFlags(int source, FlagRecipe recipe)
    {
        if (source == FlagSource.Host)
        {
            B->PackedFlags = B->FaultFlags;
        }
        else if (source >= FlagSource.FirstRecipe)
        {
            B->PackedFlags = recipe.Evaluate(B);
            FlagsRebuilt++;
        }
        else if (source == FlagSource.Entry && Blocks.EntryRecipe(B->EntryRecipe) is { } left)
        {
            B->PackedFlags = left.Evaluate(B);
            FlagsRebuilt++;
        }
    }

    /// <summary>The slow path of memory accesses of generated code. Returns the host address, or 0 after setting ExitInfo and RIP.</summary>
    [UnmanagedCallersOnly]
    internal static ulong SlowAccess(ProcessorBlock* block, ulong linear, uint descriptor, ulong returnAddress)
    {
        Vcpu vcpu = _byIndex[block->Index];
        try
        {
            return vcpu.SlowAccess(linear, (int)(descriptor & 0xFFFF), (descriptor & 0x10000) != 0, (int)(descriptor >> 24), (descriptor & AccessDescriptor.Window) != 0, returnAddress);
        }
        catch (Exception failure)
        {
            vcpu.Fail(failure);
            return 0;
        }
    }

    private ulong SlowAccess(ulong linear, int size, bool write, int mode, bool window, ulong returnAddress)
    {
        SlowAccesses++;
        bool canonical = (B->Mode & ModeBits.Code64) == 0 ? linear + (ulong)size <= 0x1_0000_0000 : (ulong)((long)(linear << 16) >> 16) == linear;
        if (!canonical || (linear & 0xFFF) + (ulong)size > 4096)
        {
            return LeaveFor(window ? ExitCode.Careful : ExitCode.Interpret, returnAddress);
        }
        SecondLevelEntry* entry = TlbLookup(linear, write ? AccessKind.Write : AccessKind.Read, mode);
        if (entry == null)
        {
            return LeaveFor(window ? ExitCode.Careful : ExitCode.GuestFault, returnAddress);
        }
        if (entry->Host == null || Watched(linear & ~0xFFFUL))
        {
            return LeaveFor(window ? ExitCode.Careful : ExitCode.Interpret, returnAddress);
        }
        if (write && HoldsCode(entry) && Partition.Code.Hits(entry->Physical | (linear & 0xFFF), size))
        {
            return LeaveFor(window ? ExitCode.Careful : ExitCode.Interpret, returnAddress);
        }
        EnterFirstLevel(linear, entry, mode);
        return (ulong)entry->Host + (linear & 0xFFF);
    }

    private bool HoldsCode(SecondLevelEntry* entry) => (Volatile.Read(ref Memory.PageFlagArray[(entry->Host - Memory.HostBase) >> 12]) & 1) != 0;

    // Pages that are watched, or hold code, keep going through the slow path (for stores).
    private void EnterFirstLevel(ulong linear, SecondLevelEntry* entry, int mode)
    {
        if (!Watched(linear & ~0xFFFUL))
        {
            TlbEnter(linear, entry, mode, (entry->Flags & SecondLevelFlags.Write) != 0 && !HoldsCode(entry));
        }
    }

    private ulong LeaveFor(int code, ulong returnAddress)
    {
        B->ExitInfo = (ulong)(long)code;
        if (!Blocks.TryLocate(returnAddress - 1, out _, out ulong rip, out _, out _))
        {
            throw new EngineFailure($"memory access at {returnAddress:x} outside translated code");
        }
        B->Rip = rip;
        B->ExitSite = returnAddress - 1;
        return 0;
    }

    /// <summary>Executes the instruction at RIP in the middle of a block. 1: go on behind it; 0: leave, ExitInfo is set.</summary>
    [UnmanagedCallersOnly]
    internal static ulong InterpretInside(ProcessorBlock* block, uint length)
    {
        Vcpu vcpu = _byIndex[block->Index];
        try
        {
            ulong expected = block->Rip + length;
            uint mode = block->Mode, fetch = vcpu.FetchVersion, generation = vcpu.Blocks.Generation;
            if (vcpu.Comparison is { Phase: ComparisonPhase.Translated } comparison)
            {
                if (!vcpu.InterpretInsideCompared(comparison))
                {
                    return 0;
                }
            }
            else
            {
                vcpu.InterpretOne();
            }
            block->ExitInfo = unchecked((ulong)(long)ExitCode.Resume);
            return block->Rip == expected && block->Mode == mode && vcpu.FetchVersion == fetch && vcpu.Blocks.Generation == generation && block->Activity == 0
                && block->InterruptShadow == 0 && (block->ExitRequest == 0 || vcpu.Comparing)
                && (block->InterruptPending == 0 || (block->SystemFlags & 0x200) == 0) && vcpu._failure is null && vcpu._debugStop is null ? 1UL : 0;
        }
        catch (Exception failure)
        {
            vcpu.Fail(failure);
            return 0;
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

    /// <summary>INIT: reset state except what the manual keeps (SDM vol. 3, table 9-1), then wait for SIPI unless this is the bootstrap processor.</summary>
    private void SoftReset()
    {
        InitializeRegisters();
        TlbFlushAll(true);
        UpdateMode();
        B->Activity = (uint)(Number == 0 ? ActivityState.Active : ActivityState.WaitForSipi);
    }

    private void StartUp(byte page)
    {
        Segment* cs = Segment(Seg.Cs);
        cs->Selector = (ushort)(page << 8);
        cs->Base = (ulong)page << 12;
        B->Rip = 0;
        B->Activity = (uint)ActivityState.Active;
        UpdateMode();
    }
}
