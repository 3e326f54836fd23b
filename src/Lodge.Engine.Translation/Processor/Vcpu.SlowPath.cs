using System.Runtime.InteropServices;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Execution;
using Lodge.Engine.Translation.Lockstep;

namespace Lodge.Engine.Translation.Processor;

// What generated code calls, or leaves for, in the middle of a block.
internal sealed unsafe partial class Vcpu
{
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
}
