using System.Runtime.InteropServices;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Execution;
using Lodge.Engine.Translation.Interrupts;

namespace Lodge.Engine.Translation.Processor;

internal sealed unsafe partial class Vcpu
{
    /// <summary>Number in the partition.</summary>
    internal int Number;

    /// <summary>Makes the code cache, the TLB and the local APIC.</summary>
    internal void Initialize()
    {
        B->Self = (ulong)B;
        B->HostMxcsr = 0x1F80;
        B->Mxcsr = 0x1F80;
        B->Xcr0 = 1;
        Blocks = new BlockCache(this, &SlowAccess, &InterpretInside);
        B->FaultExit = (ulong)Blocks.Stubs.FaultExitAddress;
        Enlist();
        ClearJumpCache();
        Apic = new LocalApic(this, Partition, Partition.Timers);
    }

    /// <summary>Power-on state.</summary>
    internal void Reset()
    {
        ResetRegisters();
        Apic.Reset();
        B->Activity = (uint)(Number == 0 ? ActivityState.Active : ActivityState.WaitForSipi);
        B->InterruptPending = 0;
        B->ExitRequest = 1;
        Blocks.Flush();
        TlbFlushAll(true);
        UpdateMode();
    }

    /// <summary>Ends the current or next run soon. Any thread.</summary>
    internal void RequestStop()
    {
        _stopRequested = true;
        Kick();
    }

    /// <summary>The architectural state.</summary>
    internal ProcessorState SaveState()
    {
        ProcessorState state = SaveRegisters();
        Apic.Save(state);
        return state;
    }

    /// <summary>Takes an architectural state.</summary>
    internal void RestoreState(ProcessorState state)
    {
        RestoreRegisters(state);
        Apic.Restore(state);
        Blocks.Flush();
        TlbFlushAll(true);
        UpdateMode();
        B->ExitRequest = 1;
    }

    /// <summary>Counters by name.</summary>
    internal IReadOnlyDictionary<string, long> Counters()
    {
        Dictionary<string, long> counters = OwnCounters();
        if (Comparison is { } c)
        {
            counters["lockstep blocks compared"] = c.Blocks;
            counters["lockstep distinct blocks compared"] = c.DistinctBlocks;
            counters["lockstep chains compared"] = c.Chains;
            counters["lockstep instructions compared"] = c.Instructions;
            counters["lockstep comparisons ended inside the block"] = c.Cut;
            counters["lockstep comparisons given up"] = c.GivenUp;
            counters["lockstep comparisons disturbed by a device"] = c.Raced;
            counters["lockstep divergences"] = c.Divergences;
        }
        return counters;
    }

    private Dictionary<string, long> OwnCounters() => new()
    {
        ["exits"] = Exits,
        ["interrupts"] = InterruptsTaken,
        ["faults"] = Faults,
        ["halts"] = Halts,
        ["interpreted instructions"] = InterpretedInstructions,
        ["slow memory accesses"] = SlowAccesses,
        ["indirect misses"] = IndirectMisses,
        ["flags rebuilt"] = FlagsRebuilt,
        ["careful blocks"] = CarefulBlocks,
        ["translated blocks"] = Blocks.Translated,
        ["translated instructions"] = Blocks.TranslatedInstructions,
        ["kept blocks used"] = Blocks.Adopted,
        ["invalidated blocks"] = Blocks.Invalidated,
        ["code cache flushes"] = Blocks.Flushes,
    };

    /// <summary>Frees native memory; not while running.</summary>
    internal void Dispose()
    {
        Unregister();
        Blocks.Dispose();
        Comparison?.Dispose();
        NativeMemory.AlignedFree(_secondLevel);
        NativeMemory.AlignedFree(B);
        _wait.Dispose();
    }
}
