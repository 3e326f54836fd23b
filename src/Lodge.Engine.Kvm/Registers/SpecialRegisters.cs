using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;
using Lodge.Engine.State;

namespace Lodge.Engine.Kvm.Registers;

/// <summary>Segments, descriptor tables, control registers, EFER, APIC base and the page directory pointers (api.rst, 4.13, 4.14, 4.132, 4.133).</summary>
internal static class SpecialRegisters
{
    private const uint ApicBase = 0x1B, Efer = 0xC000_0080;
    private const ulong Paging = 1UL << 31, PhysicalAddressExtension = 1 << 5, LongModeActive = 1 << 10;

    // Bits of CR4 and EFER that are there only with a feature (Intel SDM vol. 3, 2.5 and 2.2.1; AMD APM vol. 2, 3.1.7).
    private static readonly (int Bit, CpuFeature Feature)[] s_cr4 =
    [
        (11, CpuFeature.Umip), (12, CpuFeature.La57), (13, CpuFeature.Vmx), (16, CpuFeature.FsGsBase), (17, CpuFeature.Pcid), (18, CpuFeature.Xsave), (20, CpuFeature.Smep),
        (21, CpuFeature.Smap), (22, CpuFeature.Pku),
    ];

    private static readonly (int Bit, CpuFeature Feature)[] s_efer =
        [(0, CpuFeature.Syscall), (8, CpuFeature.LongMode), (11, CpuFeature.Nx), (12, CpuFeature.Svm), (21, CpuFeature.AmdAutomaticIbrs)];

    /// <summary>Refuses what the model's processor cannot hold, by the feature's name, before anything changes.</summary>
    /// <exception cref="SavedStateException">A bit needs a feature that the model lacks.</exception>
    public static void Check(ProcessorState state, CpuModel model)
    {
        Check("CR4", state.Cr4, s_cr4, model);
        Check("EFER", state.ModelSpecificRegisters.GetValueOrDefault(Efer), s_efer, model);
        if (state.GeneralRegisters.Length != 16 || state.Segments.Length != 6 || state.DebugAddresses.Length != 4 || state.PageDirectoryPointers is { Length: not 4 })
        {
            throw new SavedStateException("processor state is not valid: register counts");
        }
    }

    private static void Check(string register, ulong value, (int Bit, CpuFeature Feature)[] bits, CpuModel model)
    {
        foreach ((int bit, CpuFeature feature) in bits)
        {
            if ((value >> bit & 1) != 0 && !model.Has(feature))
            {
                throw new SavedStateException($"the guest uses {feature} ({register} bit {bit}), which its processor lacks here");
            }
        }
    }

    /// <summary>Puts a state's into a processor.</summary>
    public static unsafe void Load(KvmProcessorHandle handle, ProcessorState state, bool extended)
    {
        ulong efer = state.ModelSpecificRegisters.GetValueOrDefault(Efer);
        if (!extended)
        {
            KvmSregs old = handle.SpecialRegisters;
            (old.Es, old.Cs, old.Ss, old.Ds, old.Fs, old.Gs) = (Segment(state, 0), Segment(state, 1), Segment(state, 2), Segment(state, 3), Segment(state, 4), Segment(state, 5));
            (old.Ldt, old.Tr) = (Segments.ToKvm(state.LocalDescriptorTable), Segments.ToKvm(state.TaskRegister));
            (old.Gdt, old.Idt) = (Table(state.GlobalDescriptorTable), Table(state.InterruptDescriptorTable));
            (old.Cr0, old.Cr2, old.Cr3, old.Cr4, old.Cr8, old.Efer) = (state.Cr0, state.Cr2, state.Cr3, state.Cr4, state.Cr8 & 15, efer);
            old.ApicBase = state.ModelSpecificRegisters.GetValueOrDefault(ApicBase, old.ApicBase);
            for (int i = 0; i < 4; i++)
            {
                old.InterruptBitmap[i] = 0; // KVM_SET_VCPU_EVENTS sets it
            }
            handle.SpecialRegisters = old;
            return;
        }
        KvmSregs2 s = handle.SpecialRegisters2;
        (s.Es, s.Cs, s.Ss, s.Ds, s.Fs, s.Gs) = (Segment(state, 0), Segment(state, 1), Segment(state, 2), Segment(state, 3), Segment(state, 4), Segment(state, 5));
        (s.Ldt, s.Tr) = (Segments.ToKvm(state.LocalDescriptorTable), Segments.ToKvm(state.TaskRegister));
        (s.Gdt, s.Idt) = (Table(state.GlobalDescriptorTable), Table(state.InterruptDescriptorTable));
        (s.Cr0, s.Cr2, s.Cr3, s.Cr4, s.Cr8, s.Efer) = (state.Cr0, state.Cr2, state.Cr3, state.Cr4, state.Cr8 & 15, efer);
        s.ApicBase = state.ModelSpecificRegisters.GetValueOrDefault(ApicBase, s.ApicBase);
        s.Flags = 0;
        bool holdsPointers = (state.Cr0 & Paging) != 0 && (state.Cr4 & PhysicalAddressExtension) != 0 && (efer & LongModeActive) == 0;
        if (holdsPointers && state.PageDirectoryPointers is { } pointers)
        {
            s.Flags = KvmSregs2.PdptesValid;
            for (int i = 0; i < 4; i++)
            {
                s.Pdptes[i] = pointers[i];
            }
        }
        handle.SpecialRegisters2 = s;
    }

    /// <summary>Reads a processor's.</summary>
    public static unsafe void Store(KvmProcessorHandle handle, ProcessorState state, bool extended)
    {
        KvmSregs2 s;
        if (extended)
        {
            s = handle.SpecialRegisters2;
        }
        else
        {
            KvmSregs old = handle.SpecialRegisters;
            s = new KvmSregs2
            {
                Cs = old.Cs,
                Ds = old.Ds,
                Es = old.Es,
                Fs = old.Fs,
                Gs = old.Gs,
                Ss = old.Ss,
                Tr = old.Tr,
                Ldt = old.Ldt,
                Gdt = old.Gdt,
                Idt = old.Idt,
                Cr0 = old.Cr0,
                Cr2 = old.Cr2,
                Cr3 = old.Cr3,
                Cr4 = old.Cr4,
                Cr8 = old.Cr8,
                Efer = old.Efer,
                ApicBase = old.ApicBase,
            };
        }
        state.Segments = [Segments.FromKvm(s.Es), Segments.FromKvm(s.Cs), Segments.FromKvm(s.Ss), Segments.FromKvm(s.Ds), Segments.FromKvm(s.Fs), Segments.FromKvm(s.Gs)];
        (state.LocalDescriptorTable, state.TaskRegister) = (Segments.FromKvm(s.Ldt), Segments.FromKvm(s.Tr));
        (state.GlobalDescriptorTable, state.InterruptDescriptorTable) = (new TableRegister(s.Gdt.Base, s.Gdt.Limit), new TableRegister(s.Idt.Base, s.Idt.Limit));
        (state.Cr0, state.Cr2, state.Cr3, state.Cr4, state.Cr8) = (s.Cr0, s.Cr2, s.Cr3, s.Cr4, s.Cr8);
        state.ModelSpecificRegisters[Efer] = s.Efer;
        state.ModelSpecificRegisters[ApicBase] = s.ApicBase;
        state.PageDirectoryPointers = (s.Flags & KvmSregs2.PdptesValid) != 0 ? [s.Pdptes[0], s.Pdptes[1], s.Pdptes[2], s.Pdptes[3]] : null;
    }

    private static KvmSegment Segment(ProcessorState state, int index) => Segments.ToKvm(state.Segments[index]);

    private static KvmDtable Table(TableRegister table) => new() { Base = table.Base, Limit = table.Limit };
}
