using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm.Cpuid;

/// <summary>
/// Hyper-V's enlightenments for Windows guests (Microsoft, Hypervisor Top Level Functional Specification, 2.4): of what the kernel has (KVM_GET_SUPPORTED_HV_CPUID, api.rst, 4.118)
/// those that spare a guest exits and watchdogs. Left out: crash reports and debugging, which want a program behind them, and what only a hypervisor as guest uses.
/// </summary>
internal static class HyperVLeaves
{
    private const uint Last = 0x4000_0006;

    // Leaf 3, EAX: run time, reference counter, SynIC, synthetic timers, APIC registers, hypercalls, VP index, reference TSC page, frequencies.
    private const uint Privileges = 1 << 0 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 9 | 1 << 11;

    // Leaf 3, EDX: hypercall input in XMM registers, frequency registers, direct synthetic timers.
    private const uint Features = 1 << 4 | 1 << 8 | 1 << 19;

    // Leaf 4, EAX: TLB flushes by hypercall, APIC registers by MSR, relaxed timing, no automatic EOI, interrupts to clusters by hypercall, more processors in masks.
    private const uint Recommendations = 1 << 2 | 1 << 3 | 1 << 5 | 1 << 9 | 1 << 10 | 1 << 11, RelaxedTiming = 1 << 5;

    /// <summary>The leaves from 0x40000000 on.</summary>
    /// <param name="supported">What the kernel has.</param>
    /// <param name="synic">Whether the synthetic interrupt controller can be switched on.</param>
    public static IReadOnlyList<CpuidResult> Choose(IReadOnlyList<KvmCpuidEntry> supported, bool synic)
    {
        CpuidResult Leaf(uint leaf) => supported.Where(e => e.Function == leaf).Select(e => new CpuidResult(e.Eax, e.Ebx, e.Ecx, e.Edx)).FirstOrDefault();
        const uint SynicBits = 1 << 2 | 1 << 3, DirectTimers = 1 << 19;
        CpuidResult features = Leaf(0x4000_0003), recommendations = Leaf(0x4000_0004);
        uint privileges = features.Eax & Privileges & (synic ? uint.MaxValue : ~SynicBits);
        return
        [
            new CpuidResult(Last, 0x7263_694D, 0x666F_736F, 0x7648_2074), // "Microsoft Hv"
            new CpuidResult(0x3123_7648, 0, 0, 0), // "Hv#1"
            new CpuidResult(14393, 0x000A_0000, 0, 0), // version 10.0, build of Windows Server 2016
            new CpuidResult(privileges, 0, 0, features.Edx & Features & (synic ? uint.MaxValue : ~DirectTimers)),
            new CpuidResult((recommendations.Eax & Recommendations) | RelaxedTiming, 0xFFFF_FFFF, 0, 0), // never to tell of spinning
            new CpuidResult(255, 255, 0, 0), // most processors
            new CpuidResult(0, 0, 0, 0),
        ];
    }

}
