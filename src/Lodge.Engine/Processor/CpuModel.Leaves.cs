using System.Text;

namespace Lodge.Engine.Processor;

// The leaves of CPUID (Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E; KVM leaves: Linux Documentation/virt/kvm/x86/cpuid.rst).
public sealed partial class CpuModel
{
    private const uint HighestBasic = 0x1F, HighestHypervisor = 0x4000_0010;

    // KVM_FEATURE_CLOCKSOURCE, NOP_IO_DELAY, CLOCKSOURCE2, PV_EOI, CLOCKSOURCE_STABLE_BIT.
    private const uint KvmFeatures = 1u << 0 | 1u << 1 | 1u << 3 | 1u << 6 | 1u << 24;

    private CpuidResult _hostVendor;

    // Sub-leaves of leaf 4 (Intel) and leaves 0x80000005/6 (AMD), sharing adjusted to the guest's topology.
    private readonly CpuidResult[] _caches = new CpuidResult[4];
    private CpuidResult _amdLevel1, _amdLevel2;

    private bool HasXsave => Has(CpuFeature.Xsave);

    private uint HighestExtended => IsAmd ? 0x8000_0021 : 0x8000_0008;

    /// <summary>What CPUID returns for EAX = <paramref name="leaf"/> and ECX = <paramref name="subleaf"/>.</summary>
    public CpuidResult Cpuid(uint leaf, uint subleaf, in CpuidContext context)
    {
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
    public int StandardAreaSize(ulong components) =>
        (components & ComponentPkru) != 0 ? PkruOffset + 8 : (components & ComponentAvx) != 0 ? 832 : 576;

    /// <summary>Bytes of a compacted XSAVE area that holds <paramref name="components"/>.</summary>
    public static int CompactedAreaSize(ulong components) =>
        576 + ((components & ComponentAvx) != 0 ? 256 : 0) + ((components & ComponentPkru) != 0 ? 8 : 0);

    private CpuidResult Basic(uint leaf, uint subleaf, in CpuidContext context)
    {
        uint processors = (uint)_processors;
        switch (leaf)
        {
            case 0:
                return _hostVendor with { Eax = HighestBasic };
            case 1:
                uint ecx = _words[0] & ~(HasXsave ? 0 : 1u << 26);
                uint edx = _words[1];
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
                return new CpuidResult(2, _words[2], _words[3] | (Has(CpuFeature.Pku) && (context.Cr4 & (1 << 22)) != 0 ? 1u << 4 : 0), _words[4]);
            case 7 when subleaf == 1:
                return new CpuidResult(_words[5], 0, 0, 0);
            case 7 when subleaf == 2:
                return new CpuidResult(0, 0, 0, _words[12]);
            case 0xB or 0x1F:
                return Topology(subleaf, context.ApicId);
            case 0xD when HasXsave:
                return ExtendedStateLeaf(subleaf, context.Xcr0);
            case 0x15 when TimestampFrequency > 0:
                return new CpuidResult(ApicFrequency / 1000, (uint)(TimestampFrequency / 1000), ApicFrequency, 0);
            case 0x16 when TimestampFrequency > 0:
                uint megahertz = (uint)((TimestampFrequency + 500_000) / 1_000_000);
                return new CpuidResult(megahertz, megahertz, 100, 0);
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
        1 => new CpuidResult(_words[6], (uint)CompactedAreaSize(xcr0), 0, 0),
        2 when (SupportedXcr0 & ComponentAvx) != 0 => new CpuidResult(256, 576, 0, 0),
        9 when (SupportedXcr0 & ComponentPkru) != 0 => new CpuidResult(8, (uint)PkruOffset, 0, 0),
        _ => default,
    };

    private CpuidResult Hypervisor(uint leaf) => leaf switch
    {
        0x4000_0000 => new CpuidResult(HighestHypervisor, 0x4B4D_564B, 0x564B_4D56, 0x0000_004D), // "KVMKVMKVM"
        0x4000_0001 => new CpuidResult(KvmFeatures, 0, 0, 0),
        0x4000_0010 => new CpuidResult((uint)(TimestampFrequency / 1000), ApicFrequency / 1000, 0, 0),
        _ => default,
    };

    private CpuidResult Extended(uint leaf)
    {
        switch (leaf)
        {
            case 0x8000_0000:
                return IsAmd ? _hostVendor with { Eax = HighestExtended } : new CpuidResult(HighestExtended, 0, 0, 0);
            case 0x8000_0001:
                // AMD repeats most of leaf 1 EDX; Intel does not.
                const uint Repeated = 0x0183_F3FF;
                uint cores = IsAmd && _processors > 1 ? 1u << 1 : 0; // CmpLegacy
                return new CpuidResult(IsAmd ? Signature : 0, 0, _words[7] | cores, _words[8] | (IsAmd ? _words[1] & Repeated : 0));
            case >= 0x8000_0002 and <= 0x8000_0004:
                return Brand((int)(leaf - 0x8000_0002));
            case 0x8000_0005:
                return IsAmd ? _amdLevel1 : default;
            case 0x8000_0006:
                return _amdLevel2;
            case 0x8000_0007:
                return new CpuidResult(0, 0, 0, _words[9]);
            case 0x8000_0008:
                uint topology = IsAmd ? (uint)(_processors - 1) | ((uint)CeilingLog2(_processors) << 12) : 0;
                return new CpuidResult((uint)PhysicalBits | (48u << 8), _words[10], topology, 0);
            case 0x8000_0021:
                return new CpuidResult(_words[11], 0, 0, 0);
            default:
                return default;
        }
    }

    private CpuidResult Brand(int part)
    {
        string level = Name switch { CpuModelName.V1 => "x86-64-v1", CpuModelName.V2 => "x86-64-v2", CpuModelName.V3 => "x86-64-v3", _ => "host" };
        Span<byte> text = stackalloc byte[48];
        text.Clear();
        Encoding.ASCII.GetBytes($"Lodge Virtual CPU {level}", text);
        ReadOnlySpan<byte> piece = text.Slice(part * 16, 16);
        return new CpuidResult(BitConverter.ToUInt32(piece), BitConverter.ToUInt32(piece[4..]), BitConverter.ToUInt32(piece[8..]), BitConverter.ToUInt32(piece[12..]));
    }

    // Caches as on the host: the last level shared by all of the guest's processors, the others private.
    private void ReadCaches(Func<uint, uint, CpuidResult> host)
    {
        uint cores = (uint)(Math.Min(1 << CeilingLog2(_processors), 64) - 1);
        if (!IsAmd && host(0, 0).Eax >= 4)
        {
            for (uint i = 0; i < (uint)_caches.Length; i++)
            {
                CpuidResult cache = host(4, i);
                if ((cache.Eax & 31) == 0)
                {
                    break;
                }
                uint sharing = ((cache.Eax >> 5) & 7) >= 3 ? (uint)((1 << CeilingLog2(_processors)) - 1) : 0;
                _caches[i] = cache with { Eax = (cache.Eax & 0x3FFF) | (sharing << 14) | (cores << 26) };
            }
        }
        uint extended = host(0x8000_0000, 0).Eax;
        _amdLevel1 = extended >= 0x8000_0005 ? host(0x8000_0005, 0) : default;
        _amdLevel2 = extended >= 0x8000_0006 ? host(0x8000_0006, 0) : default;
    }
}
