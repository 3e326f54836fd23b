using System.Buffers.Binary;
using Lodge.Engine.Kvm.Cpuid;
using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;
using Lodge.Engine.State;

namespace Lodge.Engine.Kvm.Registers;

/// <summary>
/// Carries a processor's state between KVM and <see cref="ProcessorState"/>. The processor does not run meanwhile; what KVM_RUN left to complete has been completed
/// by an entry with <see cref="KvmRun.ImmediateExit"/>.
/// </summary>
/// <remarks>
/// Order of setting, each for a reason in the kernel: CPUID decides what all others may hold; segments and control registers (APIC base and EFER among them) come before nested
/// state and before the local APIC, whose form depends on its mode; the time stamp counter comes before the deadline, which comes after the local APIC, whose timer mode it
/// needs; events come after the registers that they were raised with, activity last.
/// </remarks>
internal sealed class RegisterTransfer
{
    private const int ApicIdRegister = 0x20, LegacyXsave = 4096;
    private const uint ApicBase = 0x1B, FeatureControl = 0x3A;
    private const ulong X2ApicMode = 1 << 10;

    private readonly KvmSystem _system;
    private readonly KvmVirtualMachine _machine;
    private readonly CpuModel _model;
    private readonly ProcessorIdentification _identification;
    private readonly ModelSpecificRegisters _registers;
    private readonly Dictionary<KvmProcessorHandle, int> _revisions = [];
    private readonly bool _sregs2, _tripleFaults;
    private readonly int _xsaveLength, _nestedCapacity;

    /// <summary>Looks at what the kernel can do.</summary>
    public RegisterTransfer(KvmSystem system, KvmVirtualMachine machine, CpuModel model)
    {
        _system = system;
        _machine = machine;
        _model = model;
        _identification = new ProcessorIdentification(system);
        _registers = new ModelSpecificRegisters(system, model);
        _sregs2 = machine.Check(KvmCapability.Sregs2) != 0;
        _tripleFaults = machine.TryEnable(KvmCapability.TripleFaultEvent, 1);
        _xsaveLength = Math.Max(LegacyXsave, machine.Check(KvmCapability.Xsave2));
        _nestedCapacity = machine.Check(KvmCapability.NestedState);
    }

    /// <summary>The model that the guest sees.</summary>
    internal CpuModel Model => _model;

    /// <summary>The model-specific registers that are part of the state.</summary>
    internal ModelSpecificRegisters ModelSpecificRegisters => _registers;

    /// <summary>Gives a new processor its CPUID and the frequency of its time stamp counter.</summary>
    /// <param name="handle">The processor.</param>
    /// <param name="index">Its number.</param>
    /// <param name="timestampFrequency">Frequency in Hz, or 0 for the host's.</param>
    /// <exception cref="SavedStateException">The frequency needs scaling, which the host lacks.</exception>
    public void Identify(KvmProcessorHandle handle, int index, long timestampFrequency)
    {
        handle.TryEnable(KvmCapability.EnforcePvFeatureCpuid, 1); // paravirtual features that the model lacks are not there, either
        _identification.Calibrate(handle, _model, timestampFrequency);
        _identification.Apply(handle, _model, index);
        _revisions[handle] = _model.Revision;
    }

    /// <summary>Puts a state into a processor. Of a state that is refused, parts may have been set.</summary>
    /// <exception cref="SavedStateException">The state is not one that the model's processor can be in on this host; the message names what is wrong.</exception>
    public void Load(KvmProcessorHandle handle, int index, ProcessorState state)
    {
        try
        {
            if (_revisions.GetValueOrDefault(handle) != _model.Revision)
            {
                Identify(handle, index, _model.TimestampFrequency);
                _registers.Forget();
            }
            SpecialRegisters.Check(state, _model);
            LoadNestedState(handle, state, () => SpecialRegisters.Load(handle, state, _sregs2));
            ExtendedStateArea.Load(handle, state, _model, _xsaveLength);
            ulong[] g = state.GeneralRegisters;
            handle.Registers = new KvmRegs
            {
                Rax = g[0],
                Rcx = g[1],
                Rdx = g[2],
                Rbx = g[3],
                Rsp = g[4],
                Rbp = g[5],
                Rsi = g[6],
                Rdi = g[7],
                R8 = g[8],
                R9 = g[9],
                R10 = g[10],
                R11 = g[11],
                R12 = g[12],
                R13 = g[13],
                R14 = g[14],
                R15 = g[15],
                Rip = state.InstructionPointer,
                Rflags = state.Flags | 2,
            };
            LoadDebugRegisters(handle, state);
            _registers.Load(handle, state);
            LoadLocalApic(handle, index, state);
            ModelSpecificRegisters.LoadDeadline(handle, state);
            ProcessorEvents.Load(handle, state, _tripleFaults);
            if (state.PendingInit)
            {
                const uint DeliverInit = 5 << 8;
                _machine.SignalMessage(0xFEE0_0000 | ((ulong)index << 12), DeliverInit);
            }
        }
        catch (KvmException e)
        {
            throw new SavedStateException($"processor state is not valid: {e.Message}");
        }
    }

    /// <summary>Reads a processor's state.</summary>
    public ProcessorState Store(KvmProcessorHandle handle)
    {
        var state = new ProcessorState();
        ProcessorEvents.Store(handle, state);
        SpecialRegisters.Store(handle, state, _sregs2);
        KvmRegs r = handle.Registers;
        state.GeneralRegisters = [r.Rax, r.Rcx, r.Rdx, r.Rbx, r.Rsp, r.Rbp, r.Rsi, r.Rdi, r.R8, r.R9, r.R10, r.R11, r.R12, r.R13, r.R14, r.R15];
        state.InstructionPointer = r.Rip;
        state.Flags = r.Rflags;
        ExtendedStateArea.Store(handle, state, _model, _xsaveLength);
        StoreDebugRegisters(handle, state);
        _registers.Store(handle, state);
        handle.GetLocalApic(state.LocalApic);
        if (_nestedCapacity > 0 && (_model.Has(CpuFeature.Vmx) || _model.Has(CpuFeature.Svm)))
        {
            state.NestedState = handle.GetNestedState(_nestedCapacity);
        }
        return state;
    }

    // A guest's own guest: leave it before the registers change, enter it after EFER.SVME and CR4.VMXE are set.
    private void LoadNestedState(KvmProcessorHandle handle, ProcessorState state, Action loadSpecialRegisters)
    {
        if (state.NestedState.Length > 0 && _nestedCapacity == 0)
        {
            throw new SavedStateException("the guest runs guests of its own, and this host's KVM lacks nested virtualization (KVM_CAP_NESTED_STATE)");
        }
        if (state.NestedState.Length > 0 && !_model.Has(CpuFeature.Vmx) && !_model.Has(CpuFeature.Svm))
        {
            throw new SavedStateException($"the guest runs guests of its own, and its processor lacks {(_model.IsAmd ? CpuFeature.Svm : CpuFeature.Vmx)} here (--nested)");
        }
        if (state.NestedState.Length > 0 && state.ModelSpecificRegisters.TryGetValue(FeatureControl, out ulong control))
        {
            handle.TrySetMsr(FeatureControl, control);
        }
        loadSpecialRegisters();
        if (state.NestedState.Length > 0)
        {
            handle.SetNestedState(state.NestedState);
        }
    }

    private static unsafe void LoadDebugRegisters(KvmProcessorHandle handle, ProcessorState state)
    {
        const ulong Dr6Fixed = 0xFFFF_0FF0, Dr6Writable = 0xE00F, Dr7Fixed = 0x400, Dr7Writable = 0xFFFF_23FF;
        KvmDebugRegs debug = new() { Dr6 = (state.Dr6 & Dr6Writable) | Dr6Fixed, Dr7 = (state.Dr7 & Dr7Writable) | Dr7Fixed };
        for (int i = 0; i < 4; i++)
        {
            debug.Addresses[i] = state.DebugAddresses[i];
        }
        handle.DebugRegisters = debug;
    }

    private static unsafe void StoreDebugRegisters(KvmProcessorHandle handle, ProcessorState state)
    {
        KvmDebugRegs debug = handle.DebugRegisters;
        state.DebugAddresses = [debug.Addresses[0], debug.Addresses[1], debug.Addresses[2], debug.Addresses[3]];
        state.Dr6 = debug.Dr6;
        state.Dr7 = debug.Dr7;
    }

    // The page has the same form on all engines: with KVM_X2APIC_API_USE_32BIT_IDS, which the partition sets, the ID is whole in x2APIC mode and the upper half of the
    // interrupt command is at 0x310. The ID is the processor's number whatever a saved state says.
    private static void LoadLocalApic(KvmProcessorHandle handle, int index, ProcessorState state)
    {
        byte[] page = new byte[1024];
        state.LocalApic.AsSpan(0, Math.Min(state.LocalApic.Length, page.Length)).CopyTo(page);
        bool x2 = (state.ModelSpecificRegisters.GetValueOrDefault(ApicBase) & X2ApicMode) != 0;
        BinaryPrimitives.WriteUInt32LittleEndian(page.AsSpan(ApicIdRegister), x2 ? (uint)index : (uint)index << 24);
        const uint Illegal = 0xFFFF; // vectors below 16
        foreach (int register in (ReadOnlySpan<int>)[0x100, 0x180, 0x200])
        {
            Span<byte> word = page.AsSpan(register, 4);
            BinaryPrimitives.WriteUInt32LittleEndian(word, BinaryPrimitives.ReadUInt32LittleEndian(word) & ~Illegal);
        }
        handle.SetLocalApic(page);
    }
}
