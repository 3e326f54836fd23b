using Lodge.Engine.Processor;
using Xunit;

namespace Lodge.Engine.Translation.Tests;

public sealed class CpuModelTests
{
    private static readonly CpuidContext s_context = new(3, (1 << 18) | (1 << 22), 7, true, false);

    // A host that has every feature bit, with 46-bit physical addresses.
    private static CpuidResult Everything(uint leaf, uint subleaf) => leaf switch
    {
        0 => new CpuidResult(0x20, 0x756E_6547, 0x6C65_746E, 0x4965_6E69),
        1 => new CpuidResult(0x000A_0671, 0, uint.MaxValue, uint.MaxValue),
        7 => new CpuidResult(subleaf == 0 ? 1 : uint.MaxValue, uint.MaxValue, uint.MaxValue, uint.MaxValue),
        0xD when subleaf == 9 => new CpuidResult(8, 0xA80, 0, 0),
        0x8000_0000 => new CpuidResult(0x8000_0021, 0, 0, 0),
        0x8000_0001 => new CpuidResult(0, 0, uint.MaxValue, uint.MaxValue),
        0x8000_0008 => new CpuidResult(0x302E, uint.MaxValue, 0, 0),
        _ => default,
    };

    private static CpuidResult Amd(uint leaf, uint subleaf) =>
        leaf == 0 ? new CpuidResult(0x20, 0x6874_7541, 0x444D_4163, 0x6974_6E65) : Everything(leaf, subleaf);

    private static CpuidResult Pentium(uint leaf, uint subleaf) => leaf switch
    {
        0 or 1 or 7 or 0xD => Everything(leaf, subleaf) with { Ebx = 0, Ecx = leaf == 1 ? 0 : Everything(leaf, subleaf).Ecx },
        _ => Everything(leaf, subleaf),
    };

    [Theory]
    [InlineData(CpuModelName.V1)]
    [InlineData(CpuModelName.V2)]
    [InlineData(CpuModelName.V3)]
    [InlineData(CpuModelName.Host)]
    public void Unoffered_features_never_show(CpuModelName name)
    {
        CpuModel model = CpuModel.Create(name, 2, Everything);
        CpuidResult one = model.Cpuid(1, 0, s_context), seven = model.Cpuid(7, 0, s_context), seven1 = model.Cpuid(7, 1, s_context);
        Assert.Equal(0u, one.Ecx & (1u << 3 | 1u << 5 | 1u << 6 | 1u << 15)); // MONITOR, VMX, SMX, PDCM
        Assert.Equal(0u, seven.Ebx & (1u << 4 | 1u << 11 | 1u << 14 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31)); // HLE, RTM, MPX, AVX-512
        Assert.Equal(0u, seven.Ecx & (1u << 5 | 1u << 7 | 1u << 16)); // WAITPKG, CET, LA57
        Assert.Equal(0u, seven.Edx & (1u << 22 | 1u << 24 | 1u << 25)); // AMX
        Assert.Equal(0u, seven1.Eax & ~(1u << 4));
        Assert.Equal(0u, model.Cpuid(0x8000_0001, 0, s_context).Ecx & (1u << 2 | 1u << 11 | 1u << 16)); // SVM, XOP, FMA4
        Assert.Equal(0u, model.Cpuid(0xA, 0, s_context).Eax);
    }

    [Fact]
    public void Levels_differ_and_a_lesser_host_is_refused_in_one_line()
    {
        Assert.False(CpuModel.Create(CpuModelName.V1, 1, Everything).Has(CpuFeature.Sse42));
        CpuModel v2 = CpuModel.Create(CpuModelName.V2, 1, Everything);
        Assert.True(v2.Has(CpuFeature.Sse42) && !v2.Has(CpuFeature.Avx) && !v2.Has(CpuFeature.Xsave));
        Assert.True(CpuModel.Create(CpuModelName.V3, 1, Everything).Has(CpuFeature.Avx2));
        var refusal = Assert.Throws<NotSupportedException>(() => CpuModel.Create(CpuModelName.V3, 1, Pentium));
        Assert.Contains("x86-64-v2", refusal.Message);
        Assert.DoesNotContain('\n', refusal.Message);
    }

    [Fact]
    public void Leaves_follow_the_processor()
    {
        CpuModel model = CpuModel.Create(CpuModelName.V3, 3, Everything);
        model.TimestampFrequency = 2_700_000_000;
        CpuidResult on = model.Cpuid(1, 0, s_context), off = model.Cpuid(1, 0, s_context with { Cr4 = 0, ApicEnabled = false });
        Assert.Equal((1u << 27, 0u), (on.Ecx & 1u << 27, off.Ecx & 1u << 27)); // OSXSAVE
        Assert.Equal((1u << 9, 0u), (on.Edx & 1u << 9, off.Edx & 1u << 9)); // APIC
        Assert.Equal(3u, on.Ebx >> 24);
        Assert.Equal(1u << 4, model.Cpuid(7, 0, s_context).Ecx & 1u << 4); // OSPKE
        CpuidResult crystal = model.Cpuid(0x15, 0, s_context);
        Assert.Equal(2_700_000_000UL, (ulong)crystal.Ecx * crystal.Ebx / crystal.Eax);
        CpuidResult core = model.Cpuid(0xB, 1, s_context);
        Assert.Equal((2u, 3u, 0x201u, 3u), (core.Eax, core.Ebx, core.Ecx, core.Edx));
        Assert.Equal(46u, model.Cpuid(0x8000_0008, 0, s_context).Eax & 0xFF);
    }

    [Fact]
    public void Mitigations_are_not_asked_for()
    {
        CpuModel model = CpuModel.Create(CpuModelName.V3, 1, Everything);
        Assert.Equal((2u, 1u << 26 | 1u << 29), (model.Cpuid(7, 0, s_context).Eax, model.Cpuid(7, 0, s_context).Edx & (1u << 26 | 1u << 29))); // IBRS, ARCH_CAPABILITIES
        Assert.Equal(new CpuidResult(0, 0, 0, 1u << 4), model.Cpuid(7, 2, s_context)); // BHI_CTRL
        Assert.Equal(1UL << 0 | 1UL << 1 | 1UL << 20, CpuModel.ArchCapabilities & (1UL << 0 | 1UL << 1 | 1UL << 20)); // RDCL_NO, IBRS_ALL, BHI_NO
    }

    [Fact]
    public void Extended_state_sizes()
    {
        CpuModel model = CpuModel.Create(CpuModelName.V3, 1, Everything);
        CpuidResult all = model.Cpuid(0xD, 0, s_context);
        Assert.Equal((0x207u, 832u, 0xA88u), (all.Eax, all.Ebx, all.Ecx));
        Assert.Equal((256u, 576u), (model.Cpuid(0xD, 2, s_context).Eax, model.Cpuid(0xD, 2, s_context).Ebx));
        Assert.Equal(0xA80u, model.Cpuid(0xD, 9, s_context).Ebx);
        Assert.Equal((7u, 840u), (model.Cpuid(0xD, 1, s_context).Eax, model.Cpuid(0xD, 1, s_context with { Xcr0 = 0x207 }).Ebx));
    }

    [Theory]
    [InlineData(CpuModelName.V1, 0x0006E8u)]
    [InlineData(CpuModelName.V2, 0x0106A5u)]
    [InlineData(CpuModelName.V3, 0x0306F2u)]
    [InlineData(CpuModelName.Host, 0x0306F2u)] // the host's own, Rocket Lake, implies AVX-512
    public void Signature_never_implies_Avx512(CpuModelName name, uint signature) =>
        Assert.Equal(signature, CpuModel.Create(name, 1, Everything).Cpuid(1, 0, s_context).Eax);

    [Theory]
    [InlineData(CpuModelName.V1, 0x000F5Au)]
    [InlineData(CpuModelName.V2, 0x000F5Au)]
    [InlineData(CpuModelName.V3, 0x830F10u)]
    public void Signature_of_a_host_of_AMD_implies_nothing_beyond_the_level(CpuModelName name, uint signature)
    {
        CpuModel model = CpuModel.Create(name, 1, Amd);
        Assert.Equal((signature, signature), (model.Cpuid(1, 0, s_context).Eax, model.Cpuid(0x8000_0001, 0, s_context).Eax));
    }

    [Fact]
    public void Registers_that_Linux_writes_on_AMD_take_it()
    {
        using var guest = new GuestFixture(processor: CpuModel.Create(CpuModelName.V3, 1, Amd));
        Assert.True(guest.Vcpu.TryWriteMsr(0xC001_001F, 1UL << 46));
        Assert.False(guest.Vcpu.TryWriteMsr(0xC001_001F, 1UL << 45));
    }

    [Fact]
    public void Host_without_Avx512_keeps_its_signature()
    {
        CpuModel model = CpuModel.Create(CpuModelName.Host, 1, (leaf, subleaf) =>
            leaf == 7 ? Everything(leaf, subleaf) with { Ebx = ~(1u << 16) } : Everything(leaf, subleaf));
        Assert.Equal(0x000A_0671u, model.Cpuid(1, 0, s_context).Eax);
    }

    [Fact]
    public void Signature_brand_and_unknown_leaves()
    {
        CpuModel model = CpuModel.Create(CpuModelName.V3, 1, Everything);
        CpuidResult signature = model.Cpuid(0x4000_0000, 0, s_context);
        Assert.Equal((0x4000_0010u, 0x4B4D_564Bu, 0x564B_4D56u, 0x4Du), (signature.Eax, signature.Ebx, signature.Ecx, signature.Edx));
        byte[] brand = [.. new uint[] { 0x8000_0002, 0x8000_0003, 0x8000_0004 }.SelectMany(leaf =>
        {
            CpuidResult r = model.Cpuid(leaf, 0, s_context);
            return new[] { r.Eax, r.Ebx, r.Ecx, r.Edx }.SelectMany(BitConverter.GetBytes);
        })];
        Assert.StartsWith("Lodge Virtual CPU x86-64-v3", System.Text.Encoding.ASCII.GetString(brand));
        Assert.Equal(model.Cpuid(0x1F, 0, s_context), model.Cpuid(0x1234, 0, s_context)); // Intel: the highest basic leaf
        Assert.Equal(default, model.Cpuid(0x4000_0020, 0, s_context));
    }
}
