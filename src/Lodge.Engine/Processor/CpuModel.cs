namespace Lodge.Engine.Processor;

/// <summary>What <c>--cpu</c> names.</summary>
public enum CpuModelName
{
    /// <summary>x86-64-v1: SSE2.</summary>
    V1,

    /// <summary>x86-64-v2: SSE4.2, POPCNT, CMPXCHG16B.</summary>
    V2,

    /// <summary>x86-64-v3: AVX2, BMI, FMA, MOVBE.</summary>
    V3,

    /// <summary>All that the engine can run of what the host has.</summary>
    Host,
}

/// <summary>Result of CPUID.</summary>
public readonly record struct CpuidResult(uint Eax, uint Ebx, uint Ecx, uint Edx);

/// <summary>What CPUID depends on besides the model.</summary>
/// <param name="ApicId">The processor's APIC ID.</param>
/// <param name="Cr4">CR4 (OSXSAVE, OSPKE).</param>
/// <param name="Xcr0">XCR0 (XSAVE area sizes).</param>
/// <param name="ApicEnabled">IA32_APIC_BASE.EN (the APIC bit of leaf 1).</param>
/// <param name="MonitorEnabled">IA32_MISC_ENABLE.MONITOR.</param>
public readonly record struct CpuidContext(uint ApicId, ulong Cr4, ulong Xcr0, bool ApicEnabled, bool MonitorEnabled);

/// <summary>The processor that the guest sees: its features, gated on what the host has, and its CPUID leaves.</summary>
public sealed partial class CpuModel
{
}
