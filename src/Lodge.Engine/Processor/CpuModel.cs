using System.Numerics;

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

    /// <summary>x86-64-v4: AVX-512 F, BW, CD, DQ, VL. On hardware only.</summary>
    V4,

    /// <summary>Intel Xeon of 2009 without AES.</summary>
    Nehalem,

    /// <summary>With AES and PCLMULQDQ.</summary>
    Westmere,

    /// <summary>With AVX.</summary>
    SandyBridge,

    /// <summary>With F16C, RDRAND, FSGSBASE.</summary>
    IvyBridge,

    /// <summary>With AVX2, BMI, FMA; without TSX.</summary>
    Haswell,

    /// <summary>With ADX, RDSEED, SMAP; without TSX.</summary>
    Broadwell,

    /// <summary>With XSAVEC, CLFLUSHOPT.</summary>
    SkylakeClient,

    /// <summary>With AVX-512.</summary>
    SkylakeServer,

    /// <summary>With AVX-512 VNNI.</summary>
    CascadelakeServer,

    /// <summary>With VBMI, GFNI, VAES, five-level paging.</summary>
    IcelakeServer,

    /// <summary>With AMX and AVX-512 FP16.</summary>
    SapphireRapids,

    /// <summary>AMD Zen.</summary>
    Epyc,

    /// <summary>AMD Zen 2.</summary>
    EpycRome,

    /// <summary>AMD Zen 3.</summary>
    EpycMilan,

    /// <summary>AMD Zen 4, with AVX-512.</summary>
    EpycGenoa,
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

/// <summary>The processor that the guest sees: its features, gated on what the engine offers on this host, and its CPUID leaves.</summary>
public sealed partial class CpuModel
{
    /// <summary>Frequency of the APIC timer and of the crystal in leaf 0x15, in Hz. The local APIC counts nanoseconds.</summary>
    public const uint ApicFrequency = 1_000_000_000;

    /// <summary>State components of XCR0: x87, SSE, AVX, the three of AVX-512, PKRU and the two of AMX (Intel SDM vol. 1, 13.1).</summary>
    public const ulong ComponentX87 = 1, ComponentSse = 2, ComponentAvx = 4, ComponentsAvx512 = 7 << 5, ComponentPkru = 1 << 9, ComponentsAmx = 3 << 17;

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

    private static readonly CpuFeature[] s_level4 =
        [CpuFeature.Avx512F, CpuFeature.Avx512Bw, CpuFeature.Avx512Cd, CpuFeature.Avx512Dq, CpuFeature.Avx512Vl];

    private static readonly CpuFeature[] s_compaction = [CpuFeature.XsaveOpt, CpuFeature.XsaveC, CpuFeature.Xgetbv1];

    // Never part of a model: only on request.
    private static readonly CpuFeature[] s_onRequest = [CpuFeature.Vmx, CpuFeature.Svm, CpuFeature.PerformanceCapabilities, CpuFeature.PerformanceCore];

    private readonly CpuOffer _offer;
    private readonly int _processors;
    private CpuFeatureSet _features = new();

    private CpuModel(CpuModelName name, int processors, CpuOffer offer)
    {
        Name = name;
        _processors = processors;
        _offer = offer;
    }

    /// <summary>Name asked for.</summary>
    public CpuModelName Name { get; }

    /// <summary>Whether the vendor is AMD: the model's own, or the host's for levels and model host.</summary>
    public bool IsAmd { get; private set; }

    /// <summary>Family, model and stepping as leaf 1 EAX has them: of a processor that has no instruction set beyond the level.</summary>
    public uint Signature { get; private set; }

    /// <summary>Width of physical addresses (MAXPHYADDR).</summary>
    public int PhysicalBits { get; private set; }

    /// <summary>Address bits of a page-table entry: MAXPHYADDR - 1 to 12.</summary>
    public ulong PageAddressMask { get; private set; }

    /// <summary>State components that XCR0 may hold.</summary>
    public ulong SupportedXcr0 { get; private set; } = ComponentX87 | ComponentSse;

    /// <summary>Where the state components lie in a standard-format XSAVE area.</summary>
    public XsaveLayout Layout { get; private set; } = XsaveLayout.Intel;

    /// <summary>Offset of PKRU in a standard-format XSAVE area. AVX is at 576.</summary>
    public int PkruOffset => Layout.Offset(9);

    /// <summary>Frequency of the guest's time stamp counter in Hz; 0 until an engine has set it, and then left out of CPUID.</summary>
    public long TimestampFrequency { get; set; }

    /// <summary>Counts how often <see cref="Adopt"/> changed the model: engines that hold a copy of CPUID renew it.</summary>
    public int Revision { get; private set; }

    /// <summary>What the guest may use.</summary>
    public CpuFeatureSet Features => _features;

    /// <summary>IA32_ARCH_CAPABILITIES as the guest reads it.</summary>
    public ulong ArchCapabilitiesRegister => ((ulong)_features[CpuFeatureWord.ArchCapabilitiesHigh] << 32) | _features[CpuFeatureWord.ArchCapabilitiesLow];

    /// <summary>IA32_ARCH_CAPABILITIES of the software engine: not affected by any of the known transient-execution faults, so that guests do without mitigations.</summary>
    /// <remarks>RDCL_NO, IBRS_ALL, SKIP_L1DFL_VMENTRY, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO, PBRSB_NO, GDS_NO,
    /// RFDS_NO, ITS_NO (Intel SDM vol. 4, table 2-2).</remarks>
    public const ulong ArchCapabilities =
        1UL << 0 | 1UL << 1 | 1UL << 3 | 1UL << 4 | 1UL << 5 | 1UL << 6 | 1UL << 8 | 1UL << 13 | 1UL << 14 | 1UL << 15 | 1UL << 20 | 1UL << 24 | 1UL << 26 | 1UL << 27 | 1UL << 62;

    /// <summary>Whether the guest may use a feature.</summary>
    public bool Has(CpuFeature feature) => _features.Has(feature);

    /// <summary>Makes the model for a machine with that many processors on the software engine.</summary>
    /// <exception cref="NotSupportedException">The host lacks an instruction set of the level; the message names it.</exception>
    public static CpuModel Create(CpuModelName name, int processors) => Create(name, processors, CpuOffer.Software);

    /// <summary>The same on the software engine of a given host, for tests: <paramref name="host"/> is its CPUID.</summary>
    internal static CpuModel Create(CpuModelName name, int processors, Func<uint, uint, CpuidResult> host) => Create(name, processors, CpuOffer.ForSoftware(host));

    /// <summary>Makes the model for a machine with that many processors on an engine with that offer.</summary>
    /// <exception cref="NotSupportedException">The engine does not offer an instruction set of the model here; the message names it.</exception>
    public static CpuModel Create(CpuModelName name, int processors, CpuOffer offer) => Create(name, processors, offer, ProcessorOptions.None);

    /// <summary>The same with nested virtualization or performance counters where <paramref name="options"/> ask for them.</summary>
    /// <exception cref="NotSupportedException">The engine does not offer an instruction set of the model, or what was asked for; the message names it.</exception>
    public static CpuModel Create(CpuModelName name, int processors, CpuOffer offer, ProcessorOptions options)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(processors, 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(processors, 255);
        var model = new CpuModel(name, processors, offer);
        if (CpuCatalog.Find(name) is { } entry)
        {
            model.TakeNamed(entry);
        }
        else
        {
            model.TakeLevel();
        }
        model.SetPhysicalBits(offer.PhysicalBits);
        model.UpdateComponents();
        model.ReadCaches(model.IsAmd == offer.IsAmd ? offer.Host : static (_, _) => default);
        if (options.Nested)
        {
            model.AddNested();
        }
        if (options.PerformanceMonitoring)
        {
            model.AddPerformanceMonitoring();
        }
        return model;
    }

    /// <summary>Whether the guest has performance counters.</summary>
    public bool HasPerformanceMonitoring => _performance != default || Has(CpuFeature.PerformanceCore);

    private void AddNested()
    {
        CpuFeature feature = IsAmd ? CpuFeature.Svm : CpuFeature.Vmx;
        if (!_offer.Features.Has(feature))
        {
            throw new NotSupportedException($"{_offer.Engine} has no nested virtualization: it lacks {feature}");
        }
        _features.Add(feature);
        _svm = IsAmd ? _offer.Host(0x8000_000A, 0) : default;
    }

    // Intel enumerates counters in leaf 0xA; AMD's processors always have four, and six with PerfCtrExtCore.
    private void AddPerformanceMonitoring()
    {
        _performance = IsAmd ? default : _offer.Host(0xA, 0);
        if (IsAmd && _offer.Features.Has(CpuFeature.PerformanceCore))
        {
            _features.Add(CpuFeature.PerformanceCore);
        }
        if (_offer.IsSoftware || (IsAmd ? !Has(CpuFeature.PerformanceCore) : (_performance.Eax & 0xFF) == 0))
        {
            throw new NotSupportedException($"{_offer.Engine} has no performance counters for guests");
        }
        if (!IsAmd && _offer.Features.Has(CpuFeature.PerformanceCapabilities))
        {
            _features.Add(CpuFeature.PerformanceCapabilities);
        }
    }

    private void TakeNamed(CpuCatalog entry)
    {
        if (entry.IsAmd != _offer.IsAmd && !_offer.IsSoftware)
        {
            throw new NotSupportedException(
                $"CPU model {entry.Text} is {VendorName(entry.IsAmd)}'s and the host's processor {VendorName(_offer.IsAmd)}'s, which {_offer.Engine} cannot hide; give a model of {VendorName(_offer.IsAmd)}'s, x86-64-v1 to v4 or host");
        }
        IReadOnlyList<string> missing = entry.Features.Beyond(_offer.Features);
        if (missing.Count > 0)
        {
            throw new NotSupportedException($"{_offer.Engine} cannot run CPU model {entry.Text}: it lacks {string.Join(", ", missing)}");
        }
        IsAmd = entry.IsAmd;
        Signature = entry.Signature;
        _vendor = entry.IsAmd ? s_amd : s_intel;
        _features = entry.Features.Copy();
        Offer(CpuOffer.Paravirtual);
        if (!_offer.IsSoftware)
        {
            _features.Add(_offer.Mitigations);
        }
        Layout = entry.IsAmd == _offer.IsAmd ? _offer.Layout : XsaveLayout.Intel;
    }

    private void TakeLevel()
    {
        IsAmd = _offer.IsAmd;
        _vendor = _offer.Host(0, 0);
        Signature = SignatureOf(Name, IsAmd, _offer);
        Layout = _offer.Layout;
        Require(s_level1, "x86-64");
        Offer(s_optional1);
        bool host = Name == CpuModelName.Host;
        bool third = Name is CpuModelName.V3 or CpuModelName.V4 || (host && s_level3.All(_offer.Features.Has));
        if (host && !_offer.IsSoftware)
        {
            _features = _offer.Features.Copy();
            foreach (CpuFeature feature in s_onRequest)
            {
                _features.Remove(feature);
            }
            return;
        }
        if (Name is not CpuModelName.V1)
        {
            Require(s_level2, "x86-64-v2");
            Offer(s_optional2);
        }
        if (third)
        {
            Require(s_level3, "x86-64-v3");
            Offer(s_optional3);
            Offer(s_compaction);
            if (host)
            {
                Offer(CpuOffer.Copied);
            }
        }
        if (Name == CpuModelName.V4)
        {
            Require(s_level4, "x86-64-v4");
        }
        Offer(CpuOffer.System.Except([.. s_compaction, CpuFeature.Wbnoinvd]));
        _features.Add(_offer.Mitigations);
    }

    // What XCR0 may hold follows from the features, PKU among them only where the layout has a place for it.
    private void UpdateComponents()
    {
        if (Has(CpuFeature.Pku) && Layout.Offset(9) == 0)
        {
            Layout = XsaveLayout.Of((2, XsaveLayout.HeaderEnd), (9, 832));
        }
        SupportedXcr0 = ComponentsOf(_features);
    }

    private static ulong ComponentsOf(CpuFeatureSet features) =>
        ComponentX87 | ComponentSse | (features.Has(CpuFeature.Avx) ? ComponentAvx : 0) | (features.Has(CpuFeature.Avx512F) ? ComponentsAvx512 : 0)
        | (features.Has(CpuFeature.Pku) ? ComponentPkru : 0) | (features.Has(CpuFeature.AmxTile) ? ComponentsAmx : 0);

    private void SetPhysicalBits(int bits)
    {
        PhysicalBits = bits;
        PageAddressMask = ((1UL << bits) - 1) & ~0xFFFUL;
    }

    private static string VendorName(bool amd) => amd ? "AMD" : "Intel";

    // Programs dispatch by family and model as well (GCC's target_clones("arch=skylake-avx512") looks at nothing else), so the signature may not be one
    // that implies AVX-512: the host's own only for --cpu host on a host without it. Linux's tables of affected processors shall not list it either.
    private static uint SignatureOf(CpuModelName name, bool amd, CpuOffer offer)
    {
        const int Avx512Bit = 16; // leaf 7.0 EBX
        if (name == CpuModelName.Host && (!offer.IsSoftware || (offer.Host(7, 0).Ebx >> Avx512Bit & 1) == 0))
        {
            return offer.Host(1, 0).Eax & 0x0FFF_3FFF;
        }
        return (amd, name) switch
        {
            // No processor of AMD's has just level 2. For K8 no compiler's run-time dispatch knows instructions beyond the level.
            (true, CpuModelName.V1 or CpuModelName.V2) => 0x0000_0F5A, // Opteron: family 0x0F, model 5
            (true, CpuModelName.V4) => 0x00A1_0F11, // Zen 4
            (true, _) => 0x0083_0F10, // Zen 2: family 0x17, model 0x31
            (false, CpuModelName.V1) => 0x0000_06E8, // Core, before Core 2: family 6, model 0x0E
            (false, CpuModelName.V2) => 0x0001_06A5, // Nehalem-EP: family 6, model 0x1A
            (false, CpuModelName.V4) => 0x0005_0654, // Skylake-SP
            _ => 0x0003_06F2, // Haswell-EP: family 6, model 0x3F
        };
    }

    private void Require(CpuFeature[] features, string level)
    {
        CpuFeature[] missing = [.. features.Where(f => !_offer.Features.Has(f))];
        if (missing.Length > 0)
        {
            throw new NotSupportedException($"{_offer.Engine} cannot run a guest of level {level}: it lacks {string.Join(", ", missing)}");
        }
        Offer(features);
    }

    private void Offer(IEnumerable<CpuFeature> features)
    {
        foreach (CpuFeature feature in features)
        {
            if (_offer.Features.Has(feature))
            {
                _features.Add(feature);
            }
        }
    }

    private static int CeilingLog2(int value) => value <= 1 ? 0 : 32 - BitOperations.LeadingZeroCount((uint)(value - 1));
}
