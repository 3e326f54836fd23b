using System.Numerics;
using System.Runtime.Intrinsics.X86;

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
    /// <summary>Frequency of the APIC timer and of the crystal in leaf 0x15, in Hz. The local APIC counts nanoseconds.</summary>
    public const uint ApicFrequency = 1_000_000_000;

    /// <summary>State components of XCR0: x87, SSE, AVX and PKRU (Intel SDM vol. 1, 13.1).</summary>
    public const ulong ComponentX87 = 1, ComponentSse = 2, ComponentAvx = 4, ComponentPkru = 1 << 9;

    private const int WordCount = 13;

    // Instructions that the guest executes on the host's own units: the host must have them.
    private static readonly CpuFeature[] s_level1 =
    [
        CpuFeature.Fpu, CpuFeature.Cmov, CpuFeature.Cmpxchg8b, CpuFeature.Mmx, CpuFeature.Fxsr, CpuFeature.Sse, CpuFeature.Sse2, CpuFeature.Clflush,
        CpuFeature.LongMode, CpuFeature.LahfLong,
    ];

    private static readonly CpuFeature[] s_level2 =
        [CpuFeature.Sse3, CpuFeature.Ssse3, CpuFeature.Sse41, CpuFeature.Sse42, CpuFeature.Popcnt, CpuFeature.Cmpxchg16b];

    private static readonly CpuFeature[] s_level3 =
    [
        CpuFeature.Avx, CpuFeature.Avx2, CpuFeature.Bmi1, CpuFeature.Bmi2, CpuFeature.F16c, CpuFeature.Fma, CpuFeature.Lzcnt, CpuFeature.Movbe, CpuFeature.Xsave,
    ];

    // Offered with a level when the host has them.
    private static readonly CpuFeature[] s_optional1 =
        [CpuFeature.Rdrand, CpuFeature.Rdseed, CpuFeature.ClflushOpt, CpuFeature.Clwb, CpuFeature.Erms, CpuFeature.Fsrm, CpuFeature.PrefetchW];

    private static readonly CpuFeature[] s_optional2 = [CpuFeature.Aes, CpuFeature.Pclmulqdq];

    private static readonly CpuFeature[] s_optional3 = [CpuFeature.Sha, CpuFeature.Adx, CpuFeature.Pku];

    private static readonly CpuFeature[] s_optionalHost =
        [CpuFeature.Gfni, CpuFeature.Vaes, CpuFeature.Vpclmulqdq, CpuFeature.AvxVnni, CpuFeature.Movdiri];

    // What the engine itself implements, whatever the host has.
    private static readonly CpuFeature[] s_system =
    [
        CpuFeature.Pcid, CpuFeature.X2Apic, CpuFeature.TscDeadline, CpuFeature.Hypervisor, CpuFeature.Vme, CpuFeature.DebuggingExtensions, CpuFeature.Pse, CpuFeature.Tsc,
        CpuFeature.Msr, CpuFeature.Pae, CpuFeature.MachineCheckException, CpuFeature.Apic, CpuFeature.Sysenter, CpuFeature.Mtrr, CpuFeature.Pge,
        CpuFeature.MachineCheckArchitecture, CpuFeature.Pat, CpuFeature.Pse36, CpuFeature.FsGsBase, CpuFeature.TscAdjust, CpuFeature.Smep, CpuFeature.Invpcid,
        CpuFeature.FcsFdsDeprecated, CpuFeature.Smap, CpuFeature.Umip, CpuFeature.Rdpid, CpuFeature.Syscall, CpuFeature.Nx, CpuFeature.Page1G, CpuFeature.Rdtscp,
        CpuFeature.InvariantTsc,
    ];

    private readonly uint[] _words = new uint[WordCount];
    private readonly int _processors;

    private CpuModel(CpuModelName name, int processors)
    {
        Name = name;
        _processors = processors;
    }

    /// <summary>Name asked for.</summary>
    public CpuModelName Name { get; }

    /// <summary>Whether the vendor string is AMD's (the host's vendor).</summary>
    public bool IsAmd { get; private init; }

    /// <summary>Family, model and stepping as leaf 1 EAX has them: of a processor that has no instruction set beyond the level.</summary>
    public uint Signature { get; private init; }

    /// <summary>Width of physical addresses (MAXPHYADDR).</summary>
    public int PhysicalBits { get; private init; }

    /// <summary>Address bits of a page-table entry: MAXPHYADDR - 1 to 12.</summary>
    public ulong PageAddressMask { get; private init; }

    /// <summary>State components that XCR0 may hold.</summary>
    public ulong SupportedXcr0 { get; private set; } = ComponentX87 | ComponentSse;

    /// <summary>Offset of PKRU in a standard-format XSAVE area; the host's, so that every engine agrees. AVX is at 576.</summary>
    public int PkruOffset { get; private set; }

    /// <summary>Frequency of the guest's time stamp counter in Hz; 0 until an engine has set it, and then left out of CPUID.</summary>
    public long TimestampFrequency { get; set; }

    /// <summary>IA32_ARCH_CAPABILITIES: not affected by any of the known transient-execution faults, so that guests do without mitigations.</summary>
    /// <remarks>RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO,
    /// RFDS_NO, ITS_NO (Intel SDM vol. 4, table 2-2).</remarks>
    public const ulong ArchCapabilities =
        1UL << 0 | 1UL << 1 | 1UL << 3 | 1UL << 4 | 1UL << 5 | 1UL << 6 | 1UL << 8 | 1UL << 13 | 1UL << 14 | 1UL << 15 | 1UL << 20 | 1UL << 24 | 1UL << 26 | 1UL << 27 | 1UL << 62;

    /// <summary>Whether the guest may use a feature.</summary>
    public bool Has(CpuFeature feature) => ((_words[(int)feature >> 5] >> ((int)feature & 31)) & 1) != 0;

    /// <summary>Makes the model for a machine with that many processors.</summary>
    /// <exception cref="NotSupportedException">The host lacks an instruction set of the level; the message names it.</exception>
    public static CpuModel Create(CpuModelName name, int processors) => Create(name, processors, X86Base.IsSupported ? HostCpuid : NoCpuid);

    /// <summary>The same on a given host, for tests: <paramref name="host"/> is its CPUID.</summary>
    internal static CpuModel Create(CpuModelName name, int processors, Func<uint, uint, CpuidResult> host)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(processors, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(processors, 255);
        uint[] available = HostWords(host);
        CpuidResult vendor = host(0, 0);
        uint addressSizes = host(0x8000_0000, 0).Eax >= 0x8000_0008 ? host(0x8000_0008, 0).Eax : 36;
        int physicalBits = Math.Clamp((int)(addressSizes & 0xFF), 36, 52);
        var model = new CpuModel(name, processors)
        {
            IsAmd = vendor.Ebx == 0x6874_7541,
            PhysicalBits = physicalBits,
            PageAddressMask = ((1UL << physicalBits) - 1) & ~0xFFFUL,
            Signature = SignatureOf(name, vendor.Ebx == 0x6874_7541, host(1, 0).Eax, available),
            _hostVendor = vendor,
        };
        model.Require(available, s_level1, "x86-64");
        model.Offer(available, s_optional1);
        if (name >= CpuModelName.V2)
        {
            model.Require(available, s_level2, "x86-64-v2");
            model.Offer(available, s_optional2);
        }
        if (name == CpuModelName.V3 || (name == CpuModelName.Host && s_level3.All(f => Bit(available, f))))
        {
            model.Require(available, s_level3, "x86-64-v3");
            model.Offer(available, s_optional3);
            if (name == CpuModelName.Host)
            {
                model.Offer(available, s_optionalHost);
            }
            model.Set(CpuFeature.XsaveOpt, CpuFeature.XsaveC, CpuFeature.Xgetbv1);
            model.SupportedXcr0 |= ComponentAvx;
        }
        model.Set(s_system);
        if (model.Has(CpuFeature.Pku))
        {
            CpuidResult pkru = host(0xD, 9);
            model.PkruOffset = pkru.Ebx is >= 832 and <= 4096 - 64 ? (int)pkru.Ebx : 832;
            model.SupportedXcr0 |= ComponentPkru;
        }
        if (model.IsAmd)
        {
            model.Set(CpuFeature.AmdSpeculativeStoreBypassNo, CpuFeature.AmdBranchTypeConfusionNo, CpuFeature.AmdLfenceSerializing, CpuFeature.AmdNullSelectorClearsBase,
                CpuFeature.AmdAutomaticIbrs, CpuFeature.AmdSrsoNo);
        }
        else
        {
            // With IBRS_ALL a guest uses enhanced IBRS, one write at boot, in place of retpolines, which would defeat return prediction.
            // With BHI_CTRL it sets BHI_DIS_S in the same write in place of a loop of branches at each system call, which Linux otherwise runs despite BHI_NO.
            model.Set(CpuFeature.SpeculationControl, CpuFeature.ArchCapabilities, CpuFeature.BranchHistoryControl);
        }
        model.ReadCaches(host);
        return model;
    }

    // Programs dispatch by family and model as well (GCC's target_clones("arch=skylake-avx512") looks at nothing else), so the signature may not be one
    // that implies AVX-512: the host's own only for --cpu host on a host without it. Linux's tables of affected processors shall not list it either.
    private static uint SignatureOf(CpuModelName name, bool amd, uint host, uint[] available)
    {
        const int Avx512Word = 2, Avx512Bit = 16; // leaf 7.0 EBX
        if (name == CpuModelName.Host && (available[Avx512Word] >> Avx512Bit & 1) == 0)
        {
            return host & 0x0FFF_3FFF;
        }
        return (amd, name) switch
        {
            // No processor of AMD's has just level 2. For K8 no compiler's run-time dispatch knows instructions beyond the level.
            (true, CpuModelName.V1 or CpuModelName.V2) => 0x0000_0F5A, // Opteron: family 0x0F, model 5
            (true, _) => 0x0083_0F10, // Zen 2: family 0x17, model 0x31
            (false, CpuModelName.V1) => 0x0000_06E8, // Core, before Core 2: family 6, model 0x0E
            (false, CpuModelName.V2) => 0x0001_06A5, // Nehalem-EP: family 6, model 0x1A
            _ => 0x0003_06F2, // Haswell-EP: family 6, model 0x3F
        };
    }

    private static CpuidResult HostCpuid(uint leaf, uint subleaf)
    {
        (int a, int b, int c, int d) = X86Base.CpuId((int)leaf, (int)subleaf);
        return new CpuidResult((uint)a, (uint)b, (uint)c, (uint)d);
    }

    private static CpuidResult NoCpuid(uint leaf, uint subleaf) => default;

    private static uint[] HostWords(Func<uint, uint, CpuidResult> host)
    {
        uint basic = host(0, 0).Eax, extended = host(0x8000_0000, 0).Eax;
        CpuidResult Leaf(uint leaf, uint subleaf) => leaf <= (leaf >= 0x8000_0000 ? extended : basic) ? host(leaf, subleaf) : default;
        CpuidResult one = Leaf(1, 0), seven = Leaf(7, 0), seven1 = seven.Eax >= 1 ? Leaf(7, 1) : default, extendedOne = Leaf(0x8000_0001, 0);
        return
        [
            one.Ecx, one.Edx, seven.Ebx, seven.Ecx, seven.Edx, seven1.Eax, Leaf(0xD, 1).Eax, extendedOne.Ecx, extendedOne.Edx, Leaf(0x8000_0007, 0).Edx,
            Leaf(0x8000_0008, 0).Ebx, Leaf(0x8000_0021, 0).Eax, seven.Eax >= 2 ? Leaf(7, 2).Edx : 0,
        ];
    }

    private static bool Bit(uint[] words, CpuFeature feature) => ((words[(int)feature >> 5] >> ((int)feature & 31)) & 1) != 0;

    private void Require(uint[] available, CpuFeature[] features, string level)
    {
        CpuFeature[] missing = [.. features.Where(f => !Bit(available, f))];
        if (missing.Length > 0)
        {
            throw new NotSupportedException($"this host's processor cannot run a guest of level {level}: it lacks {string.Join(", ", missing)}");
        }
        Set(features);
    }

    private void Offer(uint[] available, CpuFeature[] features) => Set([.. features.Where(f => Bit(available, f))]);

    private void Set(params CpuFeature[] features)
    {
        foreach (CpuFeature feature in features)
        {
            _words[(int)feature >> 5] |= 1u << ((int)feature & 31);
        }
    }

    private static int CeilingLog2(int value) => value <= 1 ? 0 : 32 - BitOperations.LeadingZeroCount((uint)(value - 1));
}
