using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm.Cpuid;

/// <summary>Gives a processor the CPUID leaves of a model.</summary>
internal sealed class ProcessorIdentification(KvmSystem system)
{
    /// <summary>Sets what CPUID returns on processor <paramref name="index"/>, which is also its APIC ID. Before it first runs.</summary>
    public void Apply(KvmProcessorHandle handle, CpuModel model, int index)
    {
        var context = new CpuidContext((uint)index, 0, 1, ApicEnabled: true, MonitorEnabled: false);
        List<KvmCpuidEntry> entries = [];
        foreach (KvmCpuidEntry known in system.GetSupportedCpuid())
        {
            CpuidResult result = model.Cpuid(known.Function, known.Index, context);
            entries.Add(known with { Eax = result.Eax, Ebx = result.Ebx, Ecx = result.Ecx, Edx = result.Edx });
        }
        handle.SetCpuid([.. entries]);
    }
}
