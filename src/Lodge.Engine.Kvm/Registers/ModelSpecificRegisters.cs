using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;
using Lodge.Engine.State;

namespace Lodge.Engine.Kvm.Registers;

/// <summary>
/// Model-specific registers (api.rst, 4.18 and 4.19): those that the kernel lists as state (4.3), and the MTRRs, which it keeps but does not list. Left to other calls: EFER,
/// APIC base, FS and GS base, x2APIC registers. The deadline of the local APIC's timer has its own place in the order of setting.
/// </summary>
internal sealed class ModelSpecificRegisters
{
    private const uint Timestamp = 0x10, Deadline = 0x6E0, TimestampAdjust = 0x3B;

    private static readonly uint[] s_memoryTypes =
        [.. Enumerable.Range(0x200, 16).Select(i => (uint)i), 0x250, 0x258, 0x259, .. Enumerable.Range(0x268, 8).Select(i => (uint)i), 0x2FF];

    private readonly uint[] _listed;
    private uint[]? _readable;
    private SortedDictionary<uint, ulong> _initial = [];

    /// <summary>Asks the kernel for its list.</summary>
    /// <param name="system">The kernel.</param>
    /// <param name="model">The guest's processor: its Hyper-V and paravirtual features have registers.</param>
    public ModelSpecificRegisters(KvmSystem system, CpuModel model) =>
        _listed = [.. system.GetMsrIndexList().Where(index => IsState(index, model)).Concat(s_memoryTypes).Distinct().Order()];

    /// <summary>All that a processor has of them; known once one was stored.</summary>
    public IReadOnlyList<uint> Readable => _readable ?? _listed;

    // What only tells of the host or the model, counts for nobody, or is a second name of another register is not the guest's state.
    private static bool IsState(uint index, CpuModel model) => index switch
    {
        0x11 or 0x12 => false, // kvmclock's first names
        0x34 or 0x8B or 0xCE or 0x10A or 0x345 => false, // SMI count, microcode, platform information, architectural and performance capabilities
        >= 0x1DB and <= 0x1DE => false, // last branch
        0x9E => false, // SMBASE: there is no system management mode
        >= 0x480 and <= 0x4FF => false, // what VMX can do
        0xC000_0104 => model.Has(CpuFeature.Svm), // the ratio of nested guests' counters
        0x4B56_4D02 or 0x4B56_4D06 => model.Has(CpuFeature.KvmAsyncPageFault),
        0x4B56_4D03 => model.Has(CpuFeature.KvmStealTime),
        0x4B56_4D05 => model.Has(CpuFeature.KvmPollControl),
        0x4B56_4D07 => false, // acknowledgement of a page that came
        Timestamp or Deadline => false, // in their own places
        >= 0x4000_0000 and <= 0x4000_FFFF => model.HasHyperV && index is not (0x4000_0003 or 0x4000_0020), // reset, reference counter
        _ => !MsrFilter.IsPerformance(index) || model.HasPerformanceMonitoring,
    };

    /// <summary>Reads a processor's.</summary>
    public void Store(KvmProcessorHandle handle, ProcessorState state)
    {
        List<uint> left = [.. _readable ?? _listed];
        if (_readable is null)
        {
            left.RemoveAll(index => !handle.TryGetMsr(index, out _));
            _readable = [.. left];
        }
        var entries = new KvmMsrEntry[_readable.Length];
        for (int i = 0; i < entries.Length; i++)
        {
            entries[i].Index = _readable[i];
        }
        int read = handle.GetMsrs(entries);
        for (int i = 0; i < entries.Length; i++)
        {
            if (i < read || handle.TryGetMsr(entries[i].Index, out entries[i].Value))
            {
                state.ModelSpecificRegisters[entries[i].Index] = entries[i].Value;
            }
        }
        if (_initial.Count == 0)
        {
            _initial = new SortedDictionary<uint, ulong>(state.ModelSpecificRegisters);
        }
        if (handle.TryGetMsr(Timestamp, out ulong timestamp))
        {
            state.ModelSpecificRegisters[Timestamp] = timestamp;
        }
        if (handle.TryGetMsr(Deadline, out ulong deadline))
        {
            state.ModelSpecificRegisters[Deadline] = deadline;
        }
    }

    /// <summary>The CPUID leaves changed, and with them what there is.</summary>
    public void Forget() => _readable = null;

    /// <summary>Puts a state's into a processor, what it does not tell of as after reset. Without the deadline.</summary>
    /// <exception cref="SavedStateException">The kernel refused a value; the message names the register.</exception>
    public void Load(KvmProcessorHandle handle, ProcessorState state)
    {
        // Values of other registers decide what some may hold; those that only another engine knows come last.
        List<KvmMsrEntry> entries = [.. _listed.Where(i => state.ModelSpecificRegisters.ContainsKey(i) || _initial.ContainsKey(i))
            .Select(i => new KvmMsrEntry { Index = i, Value = state.ModelSpecificRegisters.TryGetValue(i, out ulong value) ? value : _initial[i] })];
        SetTimestamp(handle, state);
        Span<KvmMsrEntry> rest = entries.ToArray();
        while (!rest.IsEmpty)
        {
            rest = rest[handle.SetMsrs(rest)..];
            if (!rest.IsEmpty)
            {
                if (state.ModelSpecificRegisters.ContainsKey(rest[0].Index))
                {
                    Refused(handle, rest[0]); // a value of the state's, not one after reset that the adopted model has no register for
                }
                rest = rest[1..];
            }
        }
        foreach ((uint index, ulong value) in state.ModelSpecificRegisters)
        {
            if (!IsElsewhere(index) && Array.BinarySearch(_listed, index) < 0 && value != 0 && !handle.TrySetMsr(index, value))
            {
                Refused(handle, new KvmMsrEntry { Index = index, Value = value });
            }
        }
    }

    /// <summary>Arms the timer of the local APIC; after its registers and the time stamp counter are set.</summary>
    public static void LoadDeadline(KvmProcessorHandle handle, ProcessorState state)
    {
        ulong deadline = state.ModelSpecificRegisters.GetValueOrDefault(Deadline);
        if (!handle.TrySetMsr(Deadline, deadline) && deadline != 0)
        {
            throw new SavedStateException($"the guest's timer has a TSC deadline, and this host's KVM lacks {CpuFeature.TscDeadline}");
        }
    }

    // By the offset where the kernel has it: it takes a written counter for an attempt to synchronize several processors and may change it.
    private static void SetTimestamp(KvmProcessorHandle handle, ProcessorState state)
    {
        if (!state.ModelSpecificRegisters.TryGetValue(Timestamp, out ulong wanted))
        {
            return;
        }
        if (!handle.TryGetTscOffset(out ulong offset) || !handle.TryGetMsr(Timestamp, out ulong now) || !handle.TrySetTscOffset(offset + (wanted - now)))
        {
            handle.TrySetMsr(Timestamp, wanted);
        }
    }

    private static bool IsElsewhere(uint index) => index is Timestamp or TimestampAdjust or Deadline or 0x1B or 0xC000_0080 or 0xC000_0100 or 0xC000_0101 or (>= 0x800 and <= 0x8FF);

    // A register that is not there may be zero, and one that cannot be written may have the value that it has.
    private static void Refused(KvmProcessorHandle handle, KvmMsrEntry entry)
    {
        const uint MiscEnable = 0x1A0;
        bool same = handle.TryGetMsr(entry.Index, out ulong own) && own == entry.Value;
        // On AMD the register is not the guest's; the software engine keeps its reset value.
        if (entry.Value != 0 && !same && entry.Index != MiscEnable)
        {
            throw new SavedStateException($"MSR 0x{entry.Index:X} cannot be 0x{entry.Value:X} on this host's KVM");
        }
    }
}
