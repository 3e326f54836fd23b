using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm.Cpuid;

/// <summary>What this host's KVM can show a guest: KVM_GET_SUPPORTED_CPUID (api.rst, 4.46) and IA32_ARCH_CAPABILITIES, as the gate of CPU models.</summary>
internal static class KvmOffer
{
    private const uint ArchCapabilities = 0x10A;

    /// <summary>Asks the kernel.</summary>
    /// <exception cref="KvmException">The kernel refused.</exception>
    public static CpuOffer Read(KvmSystem system)
    {
        DynamicState.Permit();
        Dictionary<(uint Function, uint Index), CpuidResult> leaves = [];
        foreach (KvmCpuidEntry entry in system.GetSupportedCpuid())
        {
            uint index = (entry.Flags & KvmCpuidEntry.SignificantIndex) != 0 ? entry.Index : 0;
            leaves[(entry.Function, index)] = new CpuidResult(entry.Eax, entry.Ebx, entry.Ecx, entry.Edx);
        }
        // Kernels before 6.15 tell of the deadline timer by a capability only, since the local APIC could be emulated by the program.
        if (leaves.TryGetValue((1, 0), out CpuidResult one))
        {
            uint added = 1u << 31 | 1u << 21 | (system.Check(KvmCapability.TscDeadlineTimer) != 0 ? 1u << 24 : 0); // hypervisor, x2APIC
            leaves[(1, 0)] = one with { Ecx = one.Ecx | added };
        }
        system.TryGetFeatureMsr(ArchCapabilities, out ulong capabilities);
        return CpuOffer.ForHardware("this host's KVM", (leaf, subleaf) => leaves.GetValueOrDefault((leaf, subleaf)), capabilities);
    }
}
