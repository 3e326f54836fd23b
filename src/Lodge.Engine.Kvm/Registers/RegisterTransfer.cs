using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm.Registers;

/// <summary>Carries a processor's state between KVM and <see cref="ProcessorState"/>. The processor does not run meanwhile.</summary>
internal sealed class RegisterTransfer(KvmVirtualMachine machine, CpuModel model)
{
    /// <summary>The virtual machine, for what its kernel can do.</summary>
    internal KvmVirtualMachine Machine => machine;

    /// <summary>The model that the guest sees.</summary>
    internal CpuModel Model => model;

    /// <summary>Puts a state into a processor.</summary>
    public void Load(KvmProcessorHandle handle, ProcessorState state)
    {
        KvmSregs s = handle.SpecialRegisters;
        s.Es = ToKvm(state.Segments[0]);
        s.Cs = ToKvm(state.Segments[1]);
        s.Ss = ToKvm(state.Segments[2]);
        s.Ds = ToKvm(state.Segments[3]);
        s.Fs = ToKvm(state.Segments[4]);
        s.Gs = ToKvm(state.Segments[5]);
        s.Ldt = ToKvm(state.LocalDescriptorTable);
        s.Tr = ToKvm(state.TaskRegister);
        s.Gdt = new KvmDtable { Base = state.GlobalDescriptorTable.Base, Limit = state.GlobalDescriptorTable.Limit };
        s.Idt = new KvmDtable { Base = state.InterruptDescriptorTable.Base, Limit = state.InterruptDescriptorTable.Limit };
        (s.Cr0, s.Cr2, s.Cr3, s.Cr4, s.Cr8) = (state.Cr0, state.Cr2, state.Cr3, state.Cr4, state.Cr8);
        s.Efer = state.ModelSpecificRegisters.GetValueOrDefault(0xC000_0080u);
        handle.SpecialRegisters = s;
        ulong[] g = state.GeneralRegisters;
        handle.Registers = new KvmRegs
        {
            Rax = g[0], Rcx = g[1], Rdx = g[2], Rbx = g[3], Rsp = g[4], Rbp = g[5], Rsi = g[6], Rdi = g[7], R8 = g[8], R9 = g[9], R10 = g[10], R11 = g[11], R12 = g[12],
            R13 = g[13], R14 = g[14], R15 = g[15], Rip = state.InstructionPointer, Rflags = state.Flags | 2,
        };
        handle.MpState = state.Activity switch
        {
            ActivityState.Halted => KvmMpState.Halted,
            ActivityState.WaitForSipi => KvmMpState.Uninitialized,
            _ => KvmMpState.Runnable,
        };
    }

    /// <summary>Reads a processor's state.</summary>
    public ProcessorState Store(KvmProcessorHandle handle)
    {
        KvmMpState activity = handle.MpState;
        KvmSregs s = handle.SpecialRegisters;
        KvmRegs r = handle.Registers;
        var state = new ProcessorState
        {
            GeneralRegisters = [r.Rax, r.Rcx, r.Rdx, r.Rbx, r.Rsp, r.Rbp, r.Rsi, r.Rdi, r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15],
            InstructionPointer = r.Rip,
            Flags = r.Rflags,
            Segments = [FromKvm(s.Es), FromKvm(s.Cs), FromKvm(s.Ss), FromKvm(s.Ds), FromKvm(s.Fs), FromKvm(s.Gs)],
            LocalDescriptorTable = FromKvm(s.Ldt),
            TaskRegister = FromKvm(s.Tr),
            GlobalDescriptorTable = new TableRegister(s.Gdt.Base, s.Gdt.Limit),
            InterruptDescriptorTable = new TableRegister(s.Idt.Base, s.Idt.Limit),
            Cr0 = s.Cr0,
            Cr2 = s.Cr2,
            Cr3 = s.Cr3,
            Cr4 = s.Cr4,
            Cr8 = s.Cr8,
            Activity = activity switch
            {
                KvmMpState.Halted => ActivityState.Halted,
                KvmMpState.Runnable => ActivityState.Active,
                _ => ActivityState.WaitForSipi,
            },
        };
        state.ModelSpecificRegisters[0xC000_0080] = s.Efer;
        state.ModelSpecificRegisters[0x1B] = s.ApicBase;
        handle.GetLocalApic(state.LocalApic);
        return state;
    }

    private static KvmSegment ToKvm(SegmentState s) => new()
    {
        Base = s.Base,
        Limit = s.Limit,
        Selector = s.Selector,
        Type = (byte)(s.Attributes & 15),
        S = (byte)((s.Attributes >> 4) & 1),
        Dpl = (byte)((s.Attributes >> 5) & 3),
        Present = (byte)((s.Attributes >> 7) & 1),
        Avl = (byte)((s.Attributes >> 12) & 1),
        L = (byte)((s.Attributes >> 13) & 1),
        Db = (byte)((s.Attributes >> 14) & 1),
        G = (byte)((s.Attributes >> 15) & 1),
        Unusable = (byte)((s.Attributes >> 16) & 1),
    };

    private static SegmentState FromKvm(in KvmSegment s) => new(s.Selector, s.Base, s.Limit,
        (uint)(s.Type | (s.S << 4) | (s.Dpl << 5) | (s.Present << 7) | (s.Avl << 12) | (s.L << 13) | (s.Db << 14) | (s.G << 15) | (s.Unusable << 16)));
}
