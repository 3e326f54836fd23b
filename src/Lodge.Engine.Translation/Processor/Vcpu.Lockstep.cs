using System.Text;
using Iced.Intel;
using Lodge.Engine.Translation.Execution;
using Lodge.Engine.Translation.Lockstep;

namespace Lodge.Engine.Translation.Processor;

// T0 and T1 in lockstep: one block in T1, then the same instructions in T0 on the memory and registers from before, then the two results are compared.
// T1's is kept. Instructions that reach out (devices, MSRs, time) end the compared part and are executed once.
internal sealed unsafe partial class Vcpu
{
    /// <summary>Compares the tiers while running; null when off. Set before the first run.</summary>
    internal TierComparison? Comparison;

    // How T1 left the block, so that T0 knows where to stop.
    private enum LeftAt
    {
        Count,      // after a number of instructions
        Rip,        // before the instruction at RIP
        Fault,      // the instruction at RIP raises an exception
        Device,     // the instruction at RIP reaches a device
    }

    // Instructions of T0 in a chain before it is given up, when T1 may have executed so many (8 a tick of the TSC are beyond any processor).
    private const int MaximumChain = 1 << 18;

    private bool Comparing => Comparison is { Phase: not ComparisonPhase.None };

    private bool Replaying => Comparison is { Phase: ComparisonPhase.Interpreted };

    // Where C# finds a byte of RAM.
    [System.Runtime.CompilerServices.MethodImpl(System.Runtime.CompilerServices.MethodImplOptions.AggressiveInlining)]
    private byte* Compared(byte* host, bool store) => Comparison is null || host == null ? host : ComparedSlowly(host, store);

    private byte* ComparedSlowly(byte* host, bool store)
    {
        if (Replaying)
        {
            return Comparison!.Shadow.Redirect(host, store);
        }
        if (store)
        {
            NoteStores(host);
        }
        return host;
    }

    // From now on T1 may store to the page.
    private void NoteStores(byte* host)
    {
        if (host != null && Comparison is { Phase: ComparisonPhase.Translated })
        {
            Comparison.Shadow.Keep(host);
        }
    }

    private void RefuseWhileComparing()
    {
        if (Comparing)
        {
            throw new DeviceReached();
        }
    }

    // In place of RunBlocks.
    private void RunBlockInLockstep(TierComparison comparison)
    {
        bool careful = comparison.NextIsCareful;
        comparison.NextIsCareful = false;
        Block? block = Blocks.Find(B->Rip, out bool interpret, careful);
        if (block is null)
        {
            if (interpret || careful)
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
        byte* entry = Blocks.PackedEntry(block, false);
        bool compare = comparison.Wants(block), chain = !compare && comparison.WantsChain(block);
        if (compare)
        {
            comparison.Begin();
            RevokeFirstLevelWrites(); // so that the first store to each page is seen
            comparison.Before.Take(B);
            Volatile.Write(ref B->ExitRequest, 1); // so that the block's end does not find the next one in the jump cache
        }
        else if (chain)
        {
            comparison.BeginChain(() => Volatile.Write(ref B->ExitRequest, 1));
            RevokeFirstLevelWrites();
            comparison.Before.Take(B);
        }
        try
        {
            B->Running = 1;
            Interlocked.MemoryBarrier();
            if (Volatile.Read(ref B->RevokeRequest) != 0)
            {
                B->Running = 0;
                ServeRequests();
                return;
            }
            ulong ticks = ReadTsc();
            Blocks.Stubs.Enter(B, entry);
            ticks = ReadTsc() - ticks;
            Volatile.Write(ref B->Running, 0);
            Exits++;
            int code = (int)B->ExitInfo;
            (LeftAt left, int count) = Settle(code, block, comparison.LeftAtEffect);
            if (_failure is not null)
            {
                return;
            }
            if (chain || (compare && code is not (ExitCode.Poll or ExitCode.PollRecipe or ExitCode.HotLoop)))
            {
                ulong site = B->ExitSite;
                var fault = PendingFault;
                Compare(comparison, block, left, chain ? (int)Math.Min(MaximumChain, 1000 + (8 * ticks)) : count, chain);
                (B->ExitSite, PendingFault) = (site, fault);
            }
            comparison.Phase = ComparisonPhase.None;
            GoOn(comparison, code, left);
        }
        finally
        {
            comparison.Phase = ComparisonPhase.None;
        }
    }

    // Makes the processor block the architectural state at the exit.
    private (LeftAt Left, int Count) Settle(int code, Block block, bool flagsPacked)
    {
        int all = block.Instructions;
        if (code is ExitCode.GuestFault or ExitCode.Interpret or ExitCode.Careful && !flagsPacked)
        {
            RebuildFlags();
        }
        switch (code)
        {
            case ExitCode.HostFault:
                if (!Blocks.TryLocate(B->FaultPc, out _, out ulong rip, out int source, out FlagRecipe recipe))
                {
                    throw new EngineFailure($"signal {B->FaultSignal} at {B->FaultPc:x} outside translated code");
                }
                B->Rip = rip;
                RebuildFlags(source, recipe);
                return (LeftAt.Rip, all);
            case ExitCode.GuestFault:
                return (LeftAt.Fault, all);
            case ExitCode.DeviceReached:
                return (LeftAt.Device, all);
            case ExitCode.Interpret or ExitCode.Careful or ExitCode.Resume:
                return (LeftAt.Rip, all);
            case ExitCode.Syscall or ExitCode.Sysret:
                B->NextRip = B->ExitTarget;
                try
                {
                    if (code == ExitCode.Syscall)
                    {
                        EnterSyscall(B->ExitTarget);
                    }
                    else
                    {
                        LeaveSyscall(true);
                    }
                    B->Rip = B->NextRip;
                    return (LeftAt.Count, all);
                }
                catch (GuestFault fault)
                {
                    SetPendingFault(fault.Vector, fault.ErrorCode, fault.Address);
                    return (LeftAt.Fault, all);
                }
            case ExitCode.InterpretAt:
                B->Rip = B->ExitTarget;
                return (LeftAt.Count, all - 1);
            case ExitCode.Poll or ExitCode.Indirect:
                B->Rip = B->ExitTarget;
                return (LeftAt.Count, all);
            case ExitCode.PollRecipe:
                B->Rip = B->ExitTarget;
                RebuildFlags(FlagSource.Entry, default);
                return (LeftAt.Count, all);
            case ExitCode.HotLoop:
                B->Rip = Blocks.Exits[(int)B->ExitTarget].Target;
                RebuildFlags(FlagSource.Entry, default);
                return (LeftAt.Count, all);
            case ExitCode.Sti:
                B->Rip = B->ExitTarget;
                B->InterruptShadow = 1;
                return (LeftAt.Count, all);
            default:
                B->Rip = Blocks.Exits[code].Target;
                if (Blocks.Exits[code].InterruptShadow)
                {
                    B->InterruptShadow = 1;
                }
                return (LeftAt.Count, all);
        }
    }

    // What the run loop does at such an exit.
    private void GoOn(TierComparison comparison, int code, LeftAt left)
    {
        if (left == LeftAt.Fault)
        {
            Faults++;
            Deliver(PendingFault.Vector, PendingFault.ErrorCode, PendingFault.Address);
            return;
        }
        switch (code)
        {
            case ExitCode.HostFault or ExitCode.Interpret or ExitCode.InterpretAt or ExitCode.DeviceReached:
                InterpretOne();
                break;
            case ExitCode.Careful:
                CarefulBlocks++;
                Blocks.NoteWindowMiss(B->ExitSite);
                comparison.NextIsCareful = true;
                break;
            case ExitCode.Sti:
                B->ExitRequest = 1;
                break;
            case ExitCode.Indirect when B->ExitRequest == 0:
                IndirectMisses++;
                if (Blocks.Find(B->Rip, out _) is { } block && comparison.MayLink(block))
                {
                    EnterJump(B->Rip, block);
                }
                break;
            case ExitCode.HotLoop:
                B->LoopsLeft = BlockCache.LoopInterval;
                int loop = (int)B->ExitTarget;
                Blocks.NoteHotLoop(loop);
                uint before = Blocks.Generation;
                Block head = Blocks.Exits[loop].Source;
                if (Blocks.Find(B->Rip, out _) is { } again && before == Blocks.Generation && comparison.MayLink(head, again))
                {
                    Blocks.Link(loop, again);
                }
                break;
            case >= 0 when B->ExitRequest == 0:
                uint generation = Blocks.Generation;
                Block source = Blocks.Exits[code].Source;
                if (Blocks.Find(B->Rip, out _) is { } target && generation == Blocks.Generation && comparison.MayLink(source, target))
                {
                    Blocks.Link(code, target);
                }
                break;
        }
    }

    private void Compare(TierComparison comparison, Block block, LeftAt left, int count, bool chain)
    {
        if (comparison.Shadow.Overflowed)
        {
            comparison.GivenUp++;
            return;
        }
        SaveX87();
        comparison.AfterT1.Take(B);
        (Vector vector, uint? error, ulong address) = PendingFault;
        comparison.Before.Put(B);
        UpdateMode();
        comparison.Phase = ComparisonPhase.Interpreted;
        ulong rip = comparison.AfterT1.Registers->Rip;
        int steps;
        string? wrong = chain
            ? ReplayChain(comparison, left, count, rip, (vector, error, address), out steps)
            : Replay(left, count, rip, (vector, error, address), out steps);
        SaveX87();
        comparison.AfterT0.Take(B);
        comparison.AfterT1.Put(B);
        UpdateMode();
        comparison.Phase = ComparisonPhase.None;
        if (comparison.Shadow.Overflowed || steps == MaximumChain)
        {
            comparison.GivenUp++;
            return;
        }
        wrong += comparison.AfterT1.Difference(comparison.AfterT0);
        if (comparison.Shadow.Difference() is { } memory)
        {
            wrong += "\n" + memory;
        }
        if (!string.IsNullOrEmpty(wrong))
        {
            if (comparison.DeviceWrote())
            {
                comparison.Raced++;
                return;
            }
            comparison.Diverged(Describe(block, left, count, steps, wrong));
        }
        comparison.Instructions += steps;
        if (chain)
        {
            comparison.Chains++;
            return;
        }
        comparison.Blocks++;
        comparison.DistinctBlocks += block.Compared ? 0 : 1;
        block.Compared = true;
        comparison.Cut += left == LeftAt.Count && count == block.Instructions ? 0 : 1;
    }

    // T0 up to where T1 left; what it does otherwise than T1 beyond registers and memory.
    private string? Replay(LeftAt left, int count, ulong rip, (Vector Vector, uint? ErrorCode, ulong Address) expected, out int steps)
    {
        for (steps = 0; ; steps++)
        {
            if ((left == LeftAt.Rip && B->Rip == rip) || (left == LeftAt.Count && steps == count))
            {
                return null;
            }
            if (steps == count)
            {
                return $"\nT1 left at {rip:x} by {left}, which T0 does not reach";
            }
            if (Step(left, rip, expected, out string? wrong))
            {
                return wrong;
            }
        }
    }

    // The same for a chain of blocks, whose number of instructions is not known: T0 runs until it is in the state in which T1 left.
    private string? ReplayChain(TierComparison comparison, LeftAt left, int limit, ulong rip, (Vector Vector, uint? ErrorCode, ulong Address) expected, out int steps)
    {
        for (steps = 0; steps < limit; steps++)
        {
            if (B->Rip == rip && left is LeftAt.Rip or LeftAt.Count && new ReadOnlySpan<ulong>(B->Gpr, 16).SequenceEqual(new ReadOnlySpan<ulong>(comparison.AfterT1.Registers->Gpr, 16)))
            {
                SaveX87();
                comparison.AfterT0.Take(B);
                if (comparison.AfterT1.Difference(comparison.AfterT0) is null && comparison.Shadow.Difference() is null)
                {
                    return null;
                }
            }
            try
            {
                if (!TierComparison.MayFollow(FetchInstruction()))
                {
                    return $"\nT0 at {B->Rip:x} is not where T1 left, at {rip:x} by {left}";
                }
            }
            catch (GuestFault)
            {
                // Raised again below.
            }
            if (Step(left, rip, expected, out string? wrong))
            {
                return wrong;
            }
        }
        return $"\nT0 is not within {limit} instructions where T1 left, at {rip:x} by {left}";
    }

    // One instruction of T0. True at its end: it faulted or reached a device, as T1 did, or there is something wrong.
    private bool Step(LeftAt left, ulong rip, (Vector Vector, uint? ErrorCode, ulong Address) expected, out string? wrong)
    {
        ulong at = B->Rip;
        wrong = null;
        try
        {
            if (InterpretTentatively() is not { } fault)
            {
                return false;
            }
            bool alike = left == LeftAt.Fault && at == rip && fault.Vector == expected.Vector && fault.ErrorCode == expected.ErrorCode
                && (fault.Vector != Vector.PageFault || fault.Address == expected.Address);
            wrong = alike ? null : $"\nexception: T0 {fault.Vector} {fault.ErrorCode:x} {fault.Address:x} at {at:x}; T1 {left} {expected.Vector} {expected.ErrorCode:x} {expected.Address:x} at {rip:x}";
        }
        catch (DeviceReached)
        {
            wrong = left == LeftAt.Device && at == rip ? null : $"\nT0 reaches a device at {at:x}; T1 left at {rip:x} by {left}";
        }
        return true;
    }

    // One instruction as InterpretOne executes it, without delivering what it raises.
    private GuestFault? InterpretTentatively()
    {
        B->InterruptShadow = 0;
        ulong resume = B->SystemFlags & ResumeFlag;
        try
        {
            B->SystemFlags &= ~ResumeFlag;
            ExecuteOne();
            return null;
        }
        catch (GuestFault fault)
        {
            B->SystemFlags |= resume;
            return fault;
        }
    }

    // InterpretInside while a block is being compared: true to go on behind the instruction.
    private bool InterpretInsideCompared(TierComparison comparison)
    {
        Instruction instruction = FetchInstruction();
        if (!TierComparison.IsRepeatable(instruction))
        {
            comparison.LeftAtEffect = true;
            B->ExitInfo = unchecked((ulong)(long)ExitCode.Interpret);
            return false;
        }
        try
        {
            if (InterpretTentatively() is { } fault)
            {
                comparison.LeftAtEffect = true;
                SetPendingFault(fault.Vector, fault.ErrorCode, fault.Address);
                B->ExitInfo = unchecked((ulong)(long)ExitCode.GuestFault);
                return false;
            }
        }
        catch (DeviceReached)
        {
            comparison.LeftAtEffect = true;
            B->ExitInfo = unchecked((ulong)(long)ExitCode.DeviceReached);
            return false;
        }
        return true;
    }

    private string Describe(Block block, LeftAt left, int count, int steps, string wrong)
    {
        var text = new StringBuilder();
        text.Append($"T0 and T1 diverge in the block at {block.Rip:x} (mode {block.Mode:x}, flags in {block.FlagsIn}, {block.Instructions} instructions, execution {block.Executions}), T1 left by {left} after {count}, T0 after {steps}:");
        byte[] code = new byte[block.Length];
        if (block.SecondPage == ulong.MaxValue && Memory.TryRead(block.Physical, code))
        {
            text.Append("\ncode: ").Append(Convert.ToHexString(code));
        }
        return text.Append(wrong).ToString();
    }
}
