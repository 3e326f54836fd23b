using System.Runtime.Intrinsics.X86;

namespace Lodge.Engine.Processor;

/// <summary>
/// What an engine can show a guest on this host: the gate that every <see cref="CpuModel"/> passes. The software engine implements the system part itself
/// and executes instruction sets on the host's units; KVM says what it supports (KVM_GET_SUPPORTED_CPUID).
/// </summary>
public sealed class CpuOffer
{
    // Instructions that a guest of the software engine executes on the host's own units.
    private static readonly CpuFeature[] s_copied =
    [
        CpuFeature.Fpu, CpuFeature.Cmov, CpuFeature.Cmpxchg8b, CpuFeature.Mmx, CpuFeature.Fxsr, CpuFeature.Sse, CpuFeature.Sse2, CpuFeature.Clflush, CpuFeature.LongMode,
        CpuFeature.LahfLong, CpuFeature.Sse3, CpuFeature.Ssse3, CpuFeature.Sse41, CpuFeature.Sse42, CpuFeature.Popcnt, CpuFeature.Cmpxchg16b, CpuFeature.Avx, CpuFeature.Avx2,
        CpuFeature.Bmi1, CpuFeature.Bmi2, CpuFeature.F16c, CpuFeature.Fma, CpuFeature.Lzcnt, CpuFeature.Movbe, CpuFeature.Xsave, CpuFeature.Rdrand, CpuFeature.Rdseed,
        CpuFeature.ClflushOpt, CpuFeature.Clwb, CpuFeature.Erms, CpuFeature.Fsrm, CpuFeature.PrefetchW, CpuFeature.Aes, CpuFeature.Pclmulqdq, CpuFeature.Sha, CpuFeature.Adx,
        CpuFeature.Pku, CpuFeature.Gfni, CpuFeature.Vaes, CpuFeature.Vpclmulqdq, CpuFeature.AvxVnni, CpuFeature.Movdiri,
    ];

    // What the software engine implements itself, whatever the host has.
    private static readonly CpuFeature[] s_implemented =
    [
        CpuFeature.Pcid, CpuFeature.X2Apic, CpuFeature.TscDeadline, CpuFeature.Hypervisor, CpuFeature.Vme, CpuFeature.DebuggingExtensions, CpuFeature.Pse, CpuFeature.Tsc,
        CpuFeature.Msr, CpuFeature.Pae, CpuFeature.MachineCheckException, CpuFeature.Apic, CpuFeature.Sysenter, CpuFeature.Mtrr, CpuFeature.Pge,
        CpuFeature.MachineCheckArchitecture, CpuFeature.Pat, CpuFeature.Pse36, CpuFeature.FsGsBase, CpuFeature.TscAdjust, CpuFeature.Smep, CpuFeature.Invpcid,
        CpuFeature.FcsFdsDeprecated, CpuFeature.Smap, CpuFeature.Umip, CpuFeature.Rdpid, CpuFeature.Syscall, CpuFeature.Nx, CpuFeature.Page1G, CpuFeature.Rdtscp,
        CpuFeature.InvariantTsc, CpuFeature.XsaveOpt, CpuFeature.XsaveC, CpuFeature.Xgetbv1, CpuFeature.Wbnoinvd,
        CpuFeature.KvmClock, CpuFeature.KvmNoIoDelay, CpuFeature.KvmClock2, CpuFeature.KvmEoi, CpuFeature.KvmClockStable,
    ];

    // Of those, what says that a guest needs no workaround, as the software engine shows it with the levels.
    // With IBRS_ALL a guest uses enhanced IBRS, one write at boot, in place of retpolines, which would defeat return prediction.
    // With BHI_CTRL it sets BHI_DIS_S in the same write in place of a loop of branches at each system call, which Linux otherwise runs despite BHI_NO.
    private static readonly CpuFeature[] s_softwareIntel = [CpuFeature.SpeculationControl, CpuFeature.ArchCapabilities, CpuFeature.BranchHistoryControl];

    private static readonly CpuFeature[] s_softwareAmd =
    [
        CpuFeature.AmdSpeculativeStoreBypassNo, CpuFeature.AmdBranchTypeConfusionNo, CpuFeature.AmdLfenceSerializing, CpuFeature.AmdNullSelectorClearsBase,
        CpuFeature.AmdAutomaticIbrs, CpuFeature.AmdSrsoNo,
    ];

    // Controls of speculation that a guest saved on hardware may be using; on the software engine they have nothing to do.
    private static readonly CpuFeature[] s_softwareInert =
    [
        CpuFeature.MdClear, CpuFeature.Stibp, CpuFeature.Ssbd, CpuFeature.FlushL1d, CpuFeature.AmdIbpb, CpuFeature.AmdIbrs, CpuFeature.AmdStibp, CpuFeature.AmdSsbd,
        CpuFeature.VirtualSsbd, CpuFeature.PredictiveStoreForwardingDisable, CpuFeature.IndirectPredictionControl, CpuFeature.RrsbaControl,
    ];

    // Bits of IA32_ARCH_CAPABILITIES that only inform, and stand for no other register.
    private const ulong Informing = 0x7FUL | 1UL << 8 | 7UL << 13 | 1UL << 17 | 3UL << 19 | 1UL << 24 | 7UL << 26 | 1UL << 62;

    // What hardware's owners must know of its faults, for guests on hardware.
    private static readonly CpuFeature[] s_mitigations =
    [
        CpuFeature.SpeculationControl, CpuFeature.Stibp, CpuFeature.Ssbd, CpuFeature.MdClear, CpuFeature.FlushL1d, CpuFeature.ArchCapabilities,
        CpuFeature.PredictiveStoreForwardingDisable, CpuFeature.IndirectPredictionControl, CpuFeature.RrsbaControl, CpuFeature.BranchHistoryControl,
        CpuFeature.AmdIbpb, CpuFeature.AmdIbrs, CpuFeature.AmdStibp, CpuFeature.AmdSsbd, CpuFeature.VirtualSsbd, CpuFeature.AmdSpeculativeStoreBypassNo,
        CpuFeature.AmdBranchTypeConfusionNo, CpuFeature.AmdLfenceSerializing, CpuFeature.AmdNullSelectorClearsBase, CpuFeature.AmdAutomaticIbrs,
        CpuFeature.AmdSelectiveBranchPredictorBarrier, CpuFeature.AmdIbpbBranchType, CpuFeature.AmdSrsoNo,
    ];

    private static readonly CpuFeature[] s_paravirtual = [CpuFeature.KvmClock, CpuFeature.KvmNoIoDelay, CpuFeature.KvmClock2, CpuFeature.KvmEoi, CpuFeature.KvmClockStable];

    private static readonly Lazy<CpuOffer> s_software = new(() => ForSoftware(X86Base.IsSupported ? HostCpuid : NoCpuid));

    private CpuOffer(string engine, bool software, Func<uint, uint, CpuidResult> host, CpuFeatureSet features, CpuFeatureSet mitigations)
    {
        Engine = engine;
        IsSoftware = software;
        Host = host;
        Features = features;
        Mitigations = mitigations;
        Layout = XsaveLayout.Read(host);
        uint addressSizes = host(0x8000_0000, 0).Eax >= 0x8000_0008 ? host(0x8000_0008, 0).Eax : 36;
        PhysicalBits = Math.Clamp((int)(addressSizes & 0xFF), 36, 52);
    }

    /// <summary>The software engine's on this host.</summary>
    public static CpuOffer Software => s_software.Value;

    /// <summary>Who offers, as a message names it.</summary>
    public string Engine { get; }

    /// <summary>Whether the processor is software: then models of every vendor run and the layout of XSAVE areas is the model's own.</summary>
    public bool IsSoftware { get; }

    /// <summary>All that a guest may be shown.</summary>
    public CpuFeatureSet Features { get; }

    /// <summary>What tells guests of a level or of model host which transient-execution faults there are and how to avoid them.</summary>
    public CpuFeatureSet Mitigations { get; }

    /// <summary>Layout of XSAVE areas of the host's processor.</summary>
    public XsaveLayout Layout { get; }

    /// <summary>Width of physical addresses.</summary>
    public int PhysicalBits { get; }

    /// <summary>Whether the host's processor is AMD's.</summary>
    public bool IsAmd => Host(0, 0).Ebx == 0x6874_7541;

    /// <summary>CPUID of the host: vendor, signature, caches.</summary>
    internal Func<uint, uint, CpuidResult> Host { get; }

    /// <summary>The software engine's on a host with that CPUID.</summary>
    internal static CpuOffer ForSoftware(Func<uint, uint, CpuidResult> host)
    {
        CpuFeatureSet available = Read(host), features = new(s_implemented);
        foreach (CpuFeature feature in s_copied)
        {
            if (available.Has(feature))
            {
                features.Add(feature);
            }
        }
        bool amd = host(0, 0).Ebx == 0x6874_7541;
        CpuFeatureSet mitigations = new(amd ? s_softwareAmd : s_softwareIntel);
        if (!amd)
        {
            mitigations[CpuFeatureWord.ArchCapabilitiesLow] = unchecked((uint)CpuModel.ArchCapabilities);
            mitigations[CpuFeatureWord.ArchCapabilitiesHigh] = (uint)(CpuModel.ArchCapabilities >> 32);
        }
        features.Add(mitigations);
        features.Add(new CpuFeatureSet(s_softwareInert));
        features.Add(new CpuFeatureSet(s_softwareAmd));
        features.Add(new CpuFeatureSet(s_softwareIntel));
        features[CpuFeatureWord.ArchCapabilitiesLow] |= unchecked((uint)(CpuModel.ArchCapabilities | Informing));
        features[CpuFeatureWord.ArchCapabilitiesHigh] |= (uint)((CpuModel.ArchCapabilities | Informing) >> 32);
        return new CpuOffer("the software engine on this host", true, host, features, mitigations);
    }

    /// <summary>That of a hardware engine.</summary>
    /// <param name="engine">Who offers, as a message names it.</param>
    /// <param name="supported">CPUID as the kernel supports it for guests, its own leaves at 0x40000000 among it; zeros where it has none.</param>
    /// <param name="archCapabilities">IA32_ARCH_CAPABILITIES as the kernel shows it to guests.</param>
    public static CpuOffer ForHardware(string engine, Func<uint, uint, CpuidResult> supported, ulong archCapabilities)
    {
        CpuFeatureSet features = Read(supported);
        if (features.Has(CpuFeature.ArchCapabilities))
        {
            features[CpuFeatureWord.ArchCapabilitiesLow] = unchecked((uint)archCapabilities);
            features[CpuFeatureWord.ArchCapabilitiesHigh] = (uint)(archCapabilities >> 32);
        }
        features[CpuFeatureWord.KvmFeatures] = supported(0x4000_0001, 0).Eax;

        // Of IA32_ARCH_CAPABILITIES only what informs: the other bits stand for registers.
        features[CpuFeatureWord.ArchCapabilitiesLow] &= unchecked((uint)Informing);
        features[CpuFeatureWord.ArchCapabilitiesHigh] &= (uint)(Informing >> 32);

        // What follows the processor's state or the topology is no feature: MONITOR, OSXSAVE, HTT, OSPKE, CmpLegacy, TopologyExtensions.
        features[CpuFeatureWord.Leaf1Ecx] &= ~(1u << 3 | 1u << 27);
        features[CpuFeatureWord.Leaf1Edx] &= ~(1u << 28);
        features[CpuFeatureWord.Leaf7Ecx] &= ~(1u << 4);
        features[CpuFeatureWord.Extended1Ecx] &= ~(1u << 1 | 1u << 22);
        CpuidResult components = supported(0xD, 0);
        Withdraw(features, (components.Eax & CpuModel.ComponentsAmx) != CpuModel.ComponentsAmx, CpuFeature.AmxTile, CpuFeature.AmxInt8, CpuFeature.AmxBf16);
        Withdraw(features, (components.Eax & CpuModel.ComponentsAvx512) != CpuModel.ComponentsAvx512, CpuFeature.Avx512F);
        CpuFeatureSet mitigations = new();
        foreach (CpuFeature feature in s_mitigations)
        {
            if (features.Has(feature))
            {
                mitigations.Add(feature);
            }
        }
        mitigations[CpuFeatureWord.ArchCapabilitiesLow] = features[CpuFeatureWord.ArchCapabilitiesLow];
        mitigations[CpuFeatureWord.ArchCapabilitiesHigh] = features[CpuFeatureWord.ArchCapabilitiesHigh];
        return new CpuOffer(engine, false, supported, features, mitigations);
    }

    /// <summary>KVM's paravirtual features that every engine has: shown with all models but host, so that machines can move.</summary>
    internal static IReadOnlyList<CpuFeature> Paravirtual => s_paravirtual;

    /// <summary>What the software engine implements itself; shown with the levels.</summary>
    internal static IReadOnlyList<CpuFeature> System => s_implemented;

    /// <summary>Instruction sets that model host shows on the software engine.</summary>
    internal static IReadOnlyList<CpuFeature> Copied => s_copied;

    private static CpuFeatureSet Read(Func<uint, uint, CpuidResult> cpuid)
    {
        uint basic = cpuid(0, 0).Eax, extended = cpuid(0x8000_0000, 0).Eax;
        CpuidResult Leaf(uint leaf, uint subleaf) => leaf <= (leaf >= 0x8000_0000 ? extended : basic) ? cpuid(leaf, subleaf) : default;
        CpuidResult one = Leaf(1, 0), seven = Leaf(7, 0), extendedOne = Leaf(0x8000_0001, 0);
        return new CpuFeatureSet
        {
            [CpuFeatureWord.Leaf1Ecx] = one.Ecx,
            [CpuFeatureWord.Leaf1Edx] = one.Edx,
            [CpuFeatureWord.Leaf7Ebx] = seven.Ebx,
            [CpuFeatureWord.Leaf7Ecx] = seven.Ecx,
            [CpuFeatureWord.Leaf7Edx] = seven.Edx,
            [CpuFeatureWord.Leaf7Part1Eax] = seven.Eax >= 1 ? Leaf(7, 1).Eax : 0,
            [CpuFeatureWord.LeafDPart1Eax] = Leaf(0xD, 1).Eax,
            [CpuFeatureWord.Extended1Ecx] = extendedOne.Ecx,
            [CpuFeatureWord.Extended1Edx] = extendedOne.Edx,
            [CpuFeatureWord.Extended7Edx] = Leaf(0x8000_0007, 0).Edx,
            [CpuFeatureWord.Extended8Ebx] = Leaf(0x8000_0008, 0).Ebx,
            [CpuFeatureWord.Extended21Eax] = Leaf(0x8000_0021, 0).Eax,
            [CpuFeatureWord.Leaf7Part2Edx] = seven.Eax >= 2 ? Leaf(7, 2).Edx : 0,
        };
    }

    private static void Withdraw(CpuFeatureSet features, bool missing, params ReadOnlySpan<CpuFeature> withdrawn)
    {
        foreach (CpuFeature feature in withdrawn)
        {
            if (missing)
            {
                features.Remove(feature);
            }
        }
    }

    private static CpuidResult HostCpuid(uint leaf, uint subleaf)
    {
        (int a, int b, int c, int d) = X86Base.CpuId((int)leaf, (int)subleaf);
        return new CpuidResult((uint)a, (uint)b, (uint)c, (uint)d);
    }

    private static CpuidResult NoCpuid(uint leaf, uint subleaf) => default;
}
