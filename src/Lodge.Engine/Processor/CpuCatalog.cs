namespace Lodge.Engine.Processor;

/// <summary>
/// The models that bear a processor's name, as QEMU's and libvirt's users know them. Each has a fixed set of features and a fixed signature, the same on every
/// host and engine, so that a machine with it can move. Left out of the real processors' sets: what was taken back by microcode (TSX, MPX), what a guest has no use for
/// (MONITOR, performance monitoring, Intel PT) and what the software engine does not do and hardly a program asks for (XSAVES, SSE4A). Sources: Intel SDM vol. 2, CPUID
/// and vol. 4, table 2-1; AMD's processor programming references and revision guides of families 17h and 19h.
/// </summary>
internal sealed class CpuCatalog
{
    private static readonly CpuFeature[] s_baseline =
    [
        CpuFeature.Fpu, CpuFeature.Vme, CpuFeature.DebuggingExtensions, CpuFeature.Pse, CpuFeature.Tsc, CpuFeature.Msr, CpuFeature.Pae, CpuFeature.MachineCheckException,
        CpuFeature.Cmpxchg8b, CpuFeature.Apic, CpuFeature.Sysenter, CpuFeature.Mtrr, CpuFeature.Pge, CpuFeature.MachineCheckArchitecture, CpuFeature.Cmov, CpuFeature.Pat,
        CpuFeature.Pse36, CpuFeature.Clflush, CpuFeature.Mmx, CpuFeature.Fxsr, CpuFeature.Sse, CpuFeature.Sse2, CpuFeature.Sse3, CpuFeature.Ssse3, CpuFeature.Sse41,
        CpuFeature.Sse42, CpuFeature.Popcnt, CpuFeature.Cmpxchg16b, CpuFeature.Syscall, CpuFeature.Nx, CpuFeature.LongMode, CpuFeature.LahfLong,
        CpuFeature.Hypervisor, CpuFeature.X2Apic, CpuFeature.TscDeadline, CpuFeature.TscAdjust,
    ];

    private static readonly CpuFeature[] s_westmere = [CpuFeature.Aes, CpuFeature.Pclmulqdq];

    private static readonly CpuFeature[] s_sandyBridge = [CpuFeature.Xsave, CpuFeature.XsaveOpt, CpuFeature.Avx, CpuFeature.Rdtscp];

    private static readonly CpuFeature[] s_ivyBridge = [CpuFeature.F16c, CpuFeature.Rdrand, CpuFeature.FsGsBase, CpuFeature.Smep, CpuFeature.Erms];

    private static readonly CpuFeature[] s_haswell =
        [CpuFeature.Avx2, CpuFeature.Fma, CpuFeature.Movbe, CpuFeature.Bmi1, CpuFeature.Bmi2, CpuFeature.Lzcnt, CpuFeature.Pcid, CpuFeature.Invpcid];

    private static readonly CpuFeature[] s_broadwell = [CpuFeature.Adx, CpuFeature.Rdseed, CpuFeature.Smap, CpuFeature.PrefetchW];

    private static readonly CpuFeature[] s_skylake = [CpuFeature.XsaveC, CpuFeature.Xgetbv1, CpuFeature.ClflushOpt];

    private static readonly CpuFeature[] s_skylakeServer =
    [
        CpuFeature.Avx512F, CpuFeature.Avx512Dq, CpuFeature.Avx512Bw, CpuFeature.Avx512Cd, CpuFeature.Avx512Vl, CpuFeature.Clwb, CpuFeature.Pku, CpuFeature.Page1G,
    ];

    private static readonly CpuFeature[] s_cascadelake = [CpuFeature.Avx512Vnni];

    private static readonly CpuFeature[] s_icelake =
    [
        CpuFeature.Avx512Ifma, CpuFeature.Avx512Vbmi, CpuFeature.Avx512Vbmi2, CpuFeature.Avx512Bitalg, CpuFeature.Avx512Vpopcntdq, CpuFeature.Gfni, CpuFeature.Vaes,
        CpuFeature.Vpclmulqdq, CpuFeature.Sha, CpuFeature.Umip, CpuFeature.La57, CpuFeature.Rdpid, CpuFeature.Fsrm, CpuFeature.Wbnoinvd,
    ];

    private static readonly CpuFeature[] s_sapphireRapids =
    [
        CpuFeature.AvxVnni, CpuFeature.Avx512Bf16, CpuFeature.Avx512Fp16, CpuFeature.AmxTile, CpuFeature.AmxInt8, CpuFeature.AmxBf16, CpuFeature.Xfd, CpuFeature.Serialize,
        CpuFeature.BusLockDetect, CpuFeature.Cldemote, CpuFeature.Movdiri, CpuFeature.Movdir64b, CpuFeature.FastZeroRepMovsb, CpuFeature.FastShortRepStosb, CpuFeature.FastShortRepCmpsb,
    ];

    private static readonly CpuFeature[] s_zen =
    [
        CpuFeature.Aes, CpuFeature.Pclmulqdq, CpuFeature.Xsave, CpuFeature.XsaveOpt, CpuFeature.XsaveC, CpuFeature.Xgetbv1, CpuFeature.Avx, CpuFeature.Avx2, CpuFeature.Fma,
        CpuFeature.F16c, CpuFeature.Movbe, CpuFeature.Rdrand, CpuFeature.Rdseed, CpuFeature.Bmi1, CpuFeature.Bmi2, CpuFeature.Lzcnt, CpuFeature.PrefetchW, CpuFeature.Adx,
        CpuFeature.Sha, CpuFeature.FsGsBase, CpuFeature.Smep, CpuFeature.Smap, CpuFeature.ClflushOpt, CpuFeature.Rdtscp, CpuFeature.Page1G,
    ];

    private static readonly CpuFeature[] s_zen2 = [CpuFeature.Umip, CpuFeature.Rdpid, CpuFeature.Clwb, CpuFeature.Wbnoinvd];

    private static readonly CpuFeature[] s_zen3 =
        [CpuFeature.Pcid, CpuFeature.Invpcid, CpuFeature.Erms, CpuFeature.Fsrm, CpuFeature.Pku, CpuFeature.Vaes, CpuFeature.Vpclmulqdq, CpuFeature.AmdNullSelectorClearsBase];

    private static readonly CpuFeature[] s_zen4 =
    [
        CpuFeature.Avx512F, CpuFeature.Avx512Dq, CpuFeature.Avx512Bw, CpuFeature.Avx512Cd, CpuFeature.Avx512Vl, CpuFeature.Avx512Ifma, CpuFeature.Avx512Vbmi, CpuFeature.Avx512Vbmi2,
        CpuFeature.Avx512Vnni, CpuFeature.Avx512Bitalg, CpuFeature.Avx512Vpopcntdq, CpuFeature.Avx512Bf16, CpuFeature.Gfni, CpuFeature.La57,
    ];

    private static readonly CpuCatalog[] s_models =
    [
        new(CpuModelName.Nehalem, "Nehalem", false, 0x0001_06A5, s_baseline),
        new(CpuModelName.Westmere, "Westmere", false, 0x0002_06C2, s_baseline, s_westmere),
        new(CpuModelName.SandyBridge, "SandyBridge", false, 0x0002_06D7, s_baseline, s_westmere, s_sandyBridge),
        new(CpuModelName.IvyBridge, "IvyBridge", false, 0x0003_06E4, s_baseline, s_westmere, s_sandyBridge, s_ivyBridge),
        new(CpuModelName.Haswell, "Haswell", false, 0x0003_06F2, s_baseline, s_westmere, s_sandyBridge, s_ivyBridge, s_haswell),
        new(CpuModelName.Broadwell, "Broadwell", false, 0x0004_06F1, s_baseline, s_westmere, s_sandyBridge, s_ivyBridge, s_haswell, s_broadwell),
        new(CpuModelName.SkylakeClient, "Skylake-Client", false, 0x0005_06E3, s_baseline, s_westmere, s_sandyBridge, s_ivyBridge, s_haswell, s_broadwell, s_skylake),
        new(CpuModelName.SkylakeServer, "Skylake-Server", false, 0x0005_0654, s_baseline, s_westmere, s_sandyBridge, s_ivyBridge, s_haswell, s_broadwell, s_skylake, s_skylakeServer),
        new(CpuModelName.CascadelakeServer, "Cascadelake-Server", false, 0x0005_0657, s_baseline, s_westmere, s_sandyBridge, s_ivyBridge, s_haswell, s_broadwell, s_skylake,
            s_skylakeServer, s_cascadelake),
        new(CpuModelName.IcelakeServer, "Icelake-Server", false, 0x0006_06A6, s_baseline, s_westmere, s_sandyBridge, s_ivyBridge, s_haswell, s_broadwell, s_skylake, s_skylakeServer,
            s_cascadelake, s_icelake),
        new(CpuModelName.SapphireRapids, "SapphireRapids", false, 0x0008_06F8, s_baseline, s_westmere, s_sandyBridge, s_ivyBridge, s_haswell, s_broadwell, s_skylake, s_skylakeServer,
            s_cascadelake, s_icelake, s_sapphireRapids),
        new(CpuModelName.Epyc, "EPYC", true, 0x0080_0F12, s_baseline, s_zen),
        new(CpuModelName.EpycRome, "EPYC-Rome", true, 0x0083_0F10, s_baseline, s_zen, s_zen2),
        new(CpuModelName.EpycMilan, "EPYC-Milan", true, 0x00A0_0F11, s_baseline, s_zen, s_zen2, s_zen3),
        new(CpuModelName.EpycGenoa, "EPYC-Genoa", true, 0x00A1_0F11, s_baseline, s_zen, s_zen2, s_zen3, s_zen4),
    ];

    private CpuCatalog(CpuModelName name, string text, bool amd, uint signature, params CpuFeature[][] features)
    {
        Name = name;
        Text = text;
        IsAmd = amd;
        Signature = signature;
        List<CpuFeature> all = [];
        foreach (CpuFeature[] step in features)
        {
            all.AddRange(step);
        }
        Features = new CpuFeatureSet(all);
    }

    /// <summary>All of them, older ones first.</summary>
    public static IReadOnlyList<CpuCatalog> Models => s_models;

    /// <summary>Name.</summary>
    public CpuModelName Name { get; }

    /// <summary>Name as <c>--cpu</c> has it.</summary>
    public string Text { get; }

    /// <summary>Whether AMD makes it; otherwise Intel.</summary>
    public bool IsAmd { get; }

    /// <summary>Leaf 1 EAX.</summary>
    public uint Signature { get; }

    /// <summary>Its features.</summary>
    public CpuFeatureSet Features { get; }

    /// <summary>The entry of a name, or null for levels and host.</summary>
    public static CpuCatalog? Find(CpuModelName name) => Array.Find(s_models, m => m.Name == name);
}
