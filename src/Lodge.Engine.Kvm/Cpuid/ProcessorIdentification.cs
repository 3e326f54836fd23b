using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;
using Lodge.Engine.State;

namespace Lodge.Engine.Kvm.Cpuid;

/// <summary>Gives processors the CPUID leaves, feature registers and time stamp counter of a model.</summary>
internal sealed class ProcessorIdentification(KvmSystem system)
{
    private const uint FeatureControl = 0x3A, ArchCapabilities = 0x10A, PerformanceCapabilities = 0x345;

    // FeatureControl as firmware leaves it: locked, and VMX outside of SMX where the model has it.
    private const ulong Locked = 1, VmxOutsideSmx = 4;

    /// <summary>
    /// Sets what CPUID returns on processor <paramref name="index"/>, which is also its APIC ID, and the registers that tell features. Before it first runs. The kernel
    /// itself keeps up what follows the processor's state: OSXSAVE, OSPKE, the APIC bit, the sizes of leaf 0xD (api.rst, 4.20).
    /// </summary>
    public void Apply(KvmProcessorHandle handle, CpuModel model, int index)
    {
        var context = new CpuidContext((uint)index, 0, 1, ApicEnabled: true, MonitorEnabled: false);
        List<KvmCpuidEntry> entries = [];
        void Add(uint leaf, uint subleaf, bool indexed)
        {
            CpuidResult r = model.Cpuid(leaf, subleaf, context);
            if (!indexed || subleaf == 0 || r != default)
            {
                entries.Add(new KvmCpuidEntry { Function = leaf, Index = subleaf, Flags = indexed ? KvmCpuidEntry.SignificantIndex : 0, Eax = r.Eax, Ebx = r.Ebx, Ecx = r.Ecx, Edx = r.Edx });
            }
        }
        uint highest = model.Cpuid(0, 0, context).Eax, extended = model.Cpuid(0x8000_0000, 0, context).Eax, hypervisor = model.Cpuid(0x4000_0000, 0, context).Eax;
        for (uint leaf = 0; leaf <= highest; leaf++)
        {
            uint subleaves = leaf switch
            {
                4 => 8,
                7 or 0xB or 0x1F => 3,
                0xD => 19,
                0x1D or 0x1E => 2,
                _ => 0,
            };
            for (uint subleaf = 0; subleaf < Math.Max(1, subleaves); subleaf++)
            {
                Add(leaf, subleaf, subleaves != 0);
            }
        }
        for (uint leaf = 0x8000_0000; leaf <= extended; leaf++)
        {
            Add(leaf, 0, false);
        }
        for (uint leaf = 0x4000_0000; leaf <= Math.Min(hypervisor, 0x4000_00FF); leaf++)
        {
            Add(leaf, 0, false);
        }
        if (model.HasHyperV)
        {
            Add(0x4000_0100, 0, false); // KVM's leaves stand behind Hyper-V's
            Add(0x4000_0101, 0, false);
        }
        handle.SetCpuid([.. entries]);
        if (model.Has(CpuFeature.ArchCapabilities))
        {
            handle.TrySetMsr(ArchCapabilities, model.ArchCapabilitiesRegister);
        }
        if (!model.IsAmd)
        {
            handle.TrySetMsr(FeatureControl, Locked | (model.Has(CpuFeature.Vmx) ? VmxOutsideSmx : 0));
        }
        if (model.Has(CpuFeature.PerformanceCapabilities) && system.TryGetFeatureMsr(PerformanceCapabilities, out ulong capabilities))
        {
            handle.TrySetMsr(PerformanceCapabilities, capabilities);
        }
    }

    /// <summary>Lets a processor's time stamp counter run at the frequency of the model, or the model take the host's when none is set.</summary>
    /// <param name="handle">The processor.</param>
    /// <param name="model">The model, whose <see cref="CpuModel.TimestampFrequency"/> is what the guest believes.</param>
    /// <param name="wanted">Frequency in Hz, or 0 for the host's.</param>
    /// <exception cref="SavedStateException">Another frequency is wanted and this processor cannot scale.</exception>
    public void Calibrate(KvmProcessorHandle handle, CpuModel model, long wanted)
    {
        long own = handle.TscKhz * 1000L;
        if (wanted == 0 || own == 0 || CpuModel.IsCloseEnough(wanted, own))
        {
            model.TimestampFrequency = wanted == 0 ? own : wanted;
            return;
        }
        if (system.Check(KvmCapability.TscControl) == 0 || !handle.TrySetTscKhz((uint)((wanted + 500) / 1000)))
        {
            throw new SavedStateException($"a time stamp counter of {wanted / 1000} kHz is asked for and the host's runs at {own / 1000} kHz, which needs TSC scaling; this host's KVM has none");
        }
        model.TimestampFrequency = wanted;
    }
}
