using System.Text;

namespace Lodge.Engine.Processor;

// The leaves of CPUID (Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E; KVM leaves: Linux Documentation/virt/kvm/x86/cpuid.rst).
public sealed partial class CpuModel
{
    private const uint HighestBasic = 0x1F, HighestHypervisor = 0x4000_0010;

    private static readonly CpuidResult s_intel = new(0, 0x756E_6547, 0x6C65_746E, 0x4965_6E69), s_amd = new(0, 0x6874_7541, 0x444D_4163, 0x6974_6E65);

    private CpuidResult _vendor;

    // Sub-leaves of leaf 4 (Intel) and leaves 0x80000005/6 (AMD), sharing adjusted to the guest's topology.
    private readonly CpuidResult[] _caches = new CpuidResult[4];
    private CpuidResult _amdLevel1, _amdLevel2;

    // Leaves 0xA and 0x8000000A, when asked for.
    private CpuidResult _performance, _svm;

    private bool HasXsave => Has(CpuFeature.Xsave);

    private uint HighestExtended => IsAmd ? 0x8000_0021 : 0x8000_0008;

    /// <summary>What CPUID returns for EAX = <paramref name="leaf"/> and ECX = <paramref name="subleaf"/>.</summary>
    public CpuidResult Cpuid(uint leaf, uint subleaf, in CpuidContext context)
    {
        if (TryHyperV(leaf, out CpuidResult hyperV))
        {
            return hyperV;
        }
        // Beyond the ranges Intel answers with the highest basic leaf, AMD with zeros.
        return leaf switch
        {
            <= HighestBasic => Basic(leaf, subleaf, context),
            >= 0x4000_0000 and <= HighestHypervisor => Hypervisor(leaf),
            >= 0x8000_0000 when leaf <= HighestExtended => Extended(leaf),
            >= 0x4000_0000 and <= 0x4FFF_FFFF => default,
            _ => IsAmd ? default : Basic(HighestBasic, subleaf, context),
        };
    }

    /// <summary>Bytes of a standard-format XSAVE area that holds <paramref name="components"/>.</summary>
    public int StandardAreaSize(ulong components) => Layout.StandardSize(components);

    /// <summary>Bytes of a compacted XSAVE area that holds <paramref name="components"/>.</summary>
    public static int CompactedAreaSize(ulong components) => XsaveLayout.CompactedSize(components);

    private CpuidResult Basic(uint leaf, uint subleaf, in CpuidContext context)
    {
        uint processors = (uint)_processors;
        switch (leaf)
        {
            case 0:
                return _vendor with { Eax = HighestBasic };
            case 1:
                uint ecx = _features[CpuFeatureWord.Leaf1Ecx] & ~(HasXsave ? 0 : 1u << 26);
                uint edx = _features[CpuFeatureWord.Leaf1Edx];
                if (HasXsave && (context.Cr4 & (1 << 18)) != 0)
                {
                    ecx |= 1u << 27; // OSXSAVE
                }
                if (!context.ApicEnabled)
                {
                    edx &= ~(1u << 9);
                }
                if (processors > 1)
                {
                    edx |= 1u << 28; // HTT: EBX[23:16] holds a count
                }
                uint count = 1u << CeilingLog2(_processors);
                return new CpuidResult(Signature, ((context.ApicId & 0xFF) << 24) | (Math.Min(count, 255) << 16) | (8u << 8), ecx, edx);
            case 2 when !IsAmd:
                return new CpuidResult(0x00FE_FF01, 0, 0, 0); // caches: leaf 4, TLBs: leaf 0x18
            case 4 when !IsAmd:
                return subleaf < (uint)_caches.Length ? _caches[subleaf] : default;
            case 6:
                return new CpuidResult(1 << 2, 0, 0, 0); // ARAT: the APIC timer always runs
            case 7 when subleaf == 0:
                return new CpuidResult(2, _features[CpuFeatureWord.Leaf7Ebx], _features[CpuFeatureWord.Leaf7Ecx] | (Has(CpuFeature.Pku) && (context.Cr4 & (1 << 22)) != 0 ? 1u << 4 : 0), _features[CpuFeatureWord.Leaf7Edx]);
            case 7 when subleaf == 1:
                return new CpuidResult(_features[CpuFeatureWord.Leaf7Part1Eax], 0, 0, 0);
            case 7 when subleaf == 2:
                return new CpuidResult(0, 0, 0, _features[CpuFeatureWord.Leaf7Part2Edx]);
            case 0xA:
                return _performance;
            case 0xB or 0x1F:
                return Topology(subleaf, context.ApicId);
            case 0xD when HasXsave:
                return ExtendedStateLeaf(subleaf, context.Xcr0);
            case 0x15 when TimestampFrequency > 0:
                return new CpuidResult(ApicFrequency / 1000, (uint)(TimestampFrequency / 1000), ApicFrequency, 0);
            case 0x16 when TimestampFrequency > 0:
                uint megahertz = (uint)((TimestampFrequency + 500_000) / 1_000_000);
                return new CpuidResult(megahertz, megahertz, 100, 0);
            case 0x1D when Has(CpuFeature.AmxTile): // one palette of eight tiles of 16 rows with 64 bytes
                return subleaf switch
                {
                    0 => new CpuidResult(1, 0, 0, 0),
                    1 => new CpuidResult(8192 | (1024 << 16), 64 | (8 << 16), 16, 0),
                    _ => default,
                };
            case 0x1E when Has(CpuFeature.AmxTile) && subleaf == 0:
                return new CpuidResult(0, 16 | (64 << 8), 0, 0);
            default:
                return default;
        }
    }

    // One thread per core, all cores in one package.
    private CpuidResult Topology(uint subleaf, uint apicId) => subleaf switch
    {
        0 => new CpuidResult(0, 1, 1u << 8, apicId),
        1 => new CpuidResult((uint)CeilingLog2(_processors), (uint)_processors, 1 | (2u << 8), apicId),
        _ => new CpuidResult(0, 0, subleaf & 0xFF, apicId),
    };

    private CpuidResult ExtendedStateLeaf(uint subleaf, ulong xcr0) => subleaf switch
    {
        0 => new CpuidResult((uint)SupportedXcr0, (uint)StandardAreaSize(xcr0), (uint)StandardAreaSize(SupportedXcr0), (uint)(SupportedXcr0 >> 32)),
        1 => new CpuidResult(_features[CpuFeatureWord.LeafDPart1Eax], (uint)CompactedAreaSize(xcr0), 0, 0),
        > 1 and < 63 when (SupportedXcr0 >> (int)subleaf & 1) != 0 =>
            new CpuidResult((uint)XsaveLayout.Size((int)subleaf), (uint)Layout.Offset((int)subleaf), XsaveLayout.IsAligned((int)subleaf) ? 2u : 0, 0),
        _ => default,
    };

    private CpuidResult Hypervisor(uint leaf) => leaf switch
    {
        0x4000_0000 => new CpuidResult(HighestHypervisor, 0x4B4D_564B, 0x564B_4D56, 0x0000_004D), // "KVMKVMKVM"
        0x4000_0001 => new CpuidResult(_features[CpuFeatureWord.KvmFeatures], 0, 0, 0),
        0x4000_0010 => new CpuidResult((uint)(TimestampFrequency / 1000), ApicFrequency / 1000, 0, 0),
        _ => default,
    };

    private CpuidResult Extended(uint leaf)
    {
        switch (leaf)
        {
            case 0x8000_0000:
                return IsAmd ? _vendor with { Eax = HighestExtended } : new CpuidResult(HighestExtended, 0, 0, 0);
            case 0x8000_0001:
                // AMD repeats most of leaf 1 EDX; Intel does not.
                const uint Repeated = 0x0183_F3FF;
                uint cores = IsAmd && _processors > 1 ? 1u << 1 : 0; // CmpLegacy
                return new CpuidResult(IsAmd ? Signature : 0, 0, _features[CpuFeatureWord.Extended1Ecx] | cores, _features[CpuFeatureWord.Extended1Edx] | (IsAmd ? _features[CpuFeatureWord.Leaf1Edx] & Repeated : 0));
            case >= 0x8000_0002 and <= 0x8000_0004:
                return Brand((int)(leaf - 0x8000_0002));
            case 0x8000_0005:
                return IsAmd ? _amdLevel1 : default;
            case 0x8000_0006:
                return _amdLevel2;
            case 0x8000_0007:
                return new CpuidResult(0, 0, 0, _features[CpuFeatureWord.Extended7Edx]);
            case 0x8000_0008:
                uint topology = IsAmd ? (uint)(_processors - 1) | ((uint)CeilingLog2(_processors) << 12) : 0;
                return new CpuidResult((uint)PhysicalBits | (48u << 8), _features[CpuFeatureWord.Extended8Ebx], topology, 0);
            case 0x8000_000A when IsAmd:
                return _svm;
            case 0x8000_0021:
                return new CpuidResult(_features[CpuFeatureWord.Extended21Eax], 0, 0, 0);
            default:
                return default;
        }
    }

    private CpuidResult Brand(int part)
    {
        Span<byte> text = stackalloc byte[48];
        text.Clear();
        Encoding.ASCII.GetBytes($"Lodge Virtual CPU {NameText(Name)}", text);
        ReadOnlySpan<byte> piece = text.Slice(part * 16, 16);
        return new CpuidResult(BitConverter.ToUInt32(piece), BitConverter.ToUInt32(piece[4..]), BitConverter.ToUInt32(piece[8..]), BitConverter.ToUInt32(piece[12..]));
    }

    // Caches as on the host: the last level shared by all of the guest's processors, the others private. Where the host says nothing that fits: those of a usual server.
    private void ReadCaches(Func<uint, uint, CpuidResult> host)
    {
        uint cores = (uint)(Math.Min(1 << CeilingLog2(_processors), 64) - 1), sharing = (uint)((1 << CeilingLog2(_processors)) - 1);
        if (!IsAmd && host(0, 0).Eax >= 4)
        {
            for (uint i = 0; i < (uint)_caches.Length; i++)
            {
                CpuidResult cache = host(4, i);
                if ((cache.Eax & 31) == 0)
                {
                    break;
                }
                _caches[i] = cache with { Eax = (cache.Eax & 0x3FFF) | ((((cache.Eax >> 5) & 7) >= 3 ? sharing : 0) << 14) | (cores << 26) };
            }
        }
        else if (!IsAmd)
        {
            // Type and level; ways - 1, 64-byte lines; sets - 1.
            _caches[0] = new CpuidResult(0x121 | (cores << 26), (7 << 22) | 63, 63, 0);                        // 32 KiB of data
            _caches[1] = new CpuidResult(0x122 | (cores << 26), (7 << 22) | 63, 63, 0);                        // 32 KiB of instructions
            _caches[2] = new CpuidResult(0x143 | (cores << 26), (15 << 22) | 63, 1023, 0);                     // 1 MiB
            _caches[3] = new CpuidResult(0x163 | (sharing << 14) | (cores << 26), (15 << 22) | 63, 16383, 0);  // 16 MiB
        }
        uint extended = host(0x8000_0000, 0).Eax;
        _amdLevel1 = extended >= 0x8000_0005 ? host(0x8000_0005, 0) : IsAmd ? new CpuidResult(0, 0, 0x2008_0140, 0x2008_0140) : default;
        _amdLevel2 = extended >= 0x8000_0006 ? host(0x8000_0006, 0) : new CpuidResult(0, 0, 0x0200_6140, IsAmd ? 0x0080_9140u : 0);
    }

    /// <summary>A model's name as <c>--cpu</c> has it.</summary>
    public static string NameText(CpuModelName name) => name switch
    {
        CpuModelName.V1 => "x86-64-v1",
        CpuModelName.V2 => "x86-64-v2",
        CpuModelName.V3 => "x86-64-v3",
        CpuModelName.V4 => "x86-64-v4",
        CpuModelName.Host => "host",
        _ => CpuCatalog.Find(name)!.Text,
    };

    /// <summary>All names that <see cref="TryParseName"/> knows, in the order in which help tells them.</summary>
    public static IReadOnlyList<string> Names { get; } = ["v1", "v2", "v3", "v4", "host", .. CpuCatalog.Models.Select(m => m.Text)];

    /// <summary>Finds a model by its name, in any case; levels also as <c>v3</c>, models of Intel's also with <c>-noTSX</c> behind, as QEMU and libvirt name them.</summary>
    public static bool TryParseName(string text, out CpuModelName name)
    {
        foreach (CpuModelName candidate in Enum.GetValues<CpuModelName>())
        {
            string own = NameText(candidate);
            if (text.Equals(own, StringComparison.OrdinalIgnoreCase) || (own.StartsWith("x86-64-", StringComparison.Ordinal) && text.Equals(own[7..], StringComparison.OrdinalIgnoreCase))
                || (own.Length > 4 && text.StartsWith(own + "-noTSX", StringComparison.OrdinalIgnoreCase) && text.Length == own.Length + 6))
            {
                name = candidate;
                return true;
            }
        }
        name = CpuModelName.V1;
        return text.Equals("x86-64", StringComparison.OrdinalIgnoreCase);
    }
}
