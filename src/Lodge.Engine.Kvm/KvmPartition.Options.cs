using Lodge.Engine.Kvm.Cpuid;
using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Kvm.Registers;
using Lodge.Engine.State;

namespace Lodge.Engine.Kvm;

// What a machine's processors have on request (ProcessorOptions), or the one line that says why not.
internal sealed partial class KvmPartition
{
    // Before the first processor: what the kernel decides when it makes one.
    private void ApplyOptionsBefore()
    {
        ProcessorOptions asked = Options.Processor;
        if (asked.Nested && _machine.Check(KvmCapability.NestedState) == 0)
        {
            throw new NotSupportedException("this host's KVM cannot save the state of nested guests (KVM_CAP_NESTED_STATE), so it offers no nested virtualization; load kvm_intel or kvm_amd with nested=1");
        }
        if (asked.HyperV)
        {
            if (_machine.Check(KvmCapability.HyperVCpuid) == 0 || _system.Check(KvmCapability.SystemHyperVCpuid) == 0)
            {
                throw new NotSupportedException("this host's KVM has no Hyper-V enlightenments (KVM_CAP_HYPERV_CPUID); leave out --hyperv, or use a kernel with CONFIG_KVM_HYPERV");
            }
            Options.Model.SetHyperV(HyperVLeaves.Choose(_system.GetSupportedHyperVCpuid(), _machine.Check(KvmCapability.HyperVSynic2) != 0));
        }
        if (!asked.PerformanceMonitoring)
        {
            const ulong Disable = 1; // KVM_PMU_CAP_DISABLE
            _machine.TryEnable(KvmCapability.PmuCapability, Disable);
        }
        else if (_machine.Check(KvmCapability.PmuCapability) == 0)
        {
            throw new NotSupportedException("this host's KVM has no performance counters for guests (KVM_CAP_PMU_CAPABILITY); leave out --pmu");
        }
    }

    private void Identify(KvmProcessorHandle handle, int index)
    {
        if (Options.Processor.HyperV)
        {
            handle.TryEnable(KvmCapability.HyperVSynic2);
        }
        try
        {
            Registers.Identify(handle, index, Options.Processor.TimestampFrequency);
        }
        catch (SavedStateException e)
        {
            throw new NotSupportedException(e.Message);
        }
    }

    // After the processors: their registers are known.
    private void FilterRegisters()
    {
        if (Options.Processor.FilterModelSpecificRegisters && _machine.Check(KvmCapability.MsrFilter) != 0 && _machine.Check(KvmCapability.UserSpaceMsr) != 0)
        {
            MsrBitmap.Apply(_machine, MsrFilter.Build(Registers.ModelSpecificRegisters.Readable, Options.Model, Options.Processor.PerformanceMonitoring));
        }
    }
}
