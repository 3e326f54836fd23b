using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Xunit;

namespace Lodge.Engine.Tests;

/// <summary>Models on hosts that are made up: what an engine offers decides.</summary>
public sealed class CpuOfferTests
{
    private const ulong ArchCapabilities = 0x0D08_E06B;

    private static readonly CpuidContext s_context = new(0, 1 << 18, 7, true, false);

    // A kernel that supports everything on a processor of that vendor, but for bits that are taken away.
    private static Func<uint, uint, CpuidResult> Host(bool amd, params CpuFeature[] missing)
    {
        CpuidResult Answer(uint leaf, uint subleaf) => leaf switch
        {
            0 => amd ? new CpuidResult(0x20, 0x6874_7541, 0x444D_4163, 0x6974_6E65) : new CpuidResult(0x20, 0x756E_6547, 0x6C65_746E, 0x4965_6E69),
            1 => new CpuidResult(amd ? 0x00A1_0F11u : 0x000C_06F2u, 0, Word(0), Word(1)),
            4 when !amd && subleaf < 4 => new CpuidResult(0x121, 0x01C0_003F, 0x3F, 0),
            7 when subleaf == 0 => new CpuidResult(2, Word(2), Word(3), Word(4)),
            7 when subleaf == 1 => new CpuidResult(Word(5), 0, 0, 0),
            7 when subleaf == 2 => new CpuidResult(0, 0, 0, Word(12)),
            0xA => new CpuidResult(0x0730_0802, 0, 0, 0x603),
            0xD when subleaf == 0 => new CpuidResult(0x6_02E7, 11008, 11008, 0),
            0xD when subleaf == 1 => new CpuidResult(Word(6), 0, 0, 0),
            0xD => Component(subleaf),
            0x4000_0001 => new CpuidResult(0x0100_7EFB, 0, 0, 0),
            0x8000_0000 => new CpuidResult(0x8000_0021, 0, 0, 0),
            0x8000_0001 => new CpuidResult(0, 0, Word(7), Word(8)),
            0x8000_0007 => new CpuidResult(0, 0, 0, Word(9)),
            0x8000_0008 => new CpuidResult(0x3030, Word(10), 0, 0),
            0x8000_000A => new CpuidResult(1, 0x8000, 0, 0x3FF),
            0x8000_0021 => new CpuidResult(Word(11), 0, 0, 0),
            _ => default,
        };
        uint Word(int word) => ~missing.Where(f => (int)f >> 5 == word).Aggregate(0u, (bits, f) => bits | 1u << ((int)f & 31));
        CpuidResult Component(uint number) => number switch
        {
            2 => new CpuidResult(256, 576, 0, 0),
            5 => new CpuidResult(64, amd ? 832u : 1088, 0, 0),
            6 => new CpuidResult(512, amd ? 896u : 1152, 0, 0),
            7 => new CpuidResult(1024, amd ? 1408u : 1664, 0, 0),
            9 => new CpuidResult(8, amd ? 2432u : 2688, 0, 0),
            17 => new CpuidResult(64, 2752, 2, 0),
            18 => new CpuidResult(8192, 2816, 2, 0),
            _ => default,
        };
        return Answer;
    }

    private static CpuOffer Kvm(bool amd, params CpuFeature[] missing) => CpuOffer.ForHardware("KVM on this host", Host(amd, missing), ArchCapabilities);

    private static CpuModelName[] Named => [.. Enum.GetValues<CpuModelName>().Where(n => n > CpuModelName.V4)];

    private static bool IsAmd(CpuModelName name) => CpuModel.NameText(name).StartsWith("EPYC", StringComparison.Ordinal);

    [Fact]
    public void Names_are_those_of_the_field()
    {
        string[] expected = ["Nehalem", "Haswell", "Skylake-Server", "Icelake-Server", "SapphireRapids", "EPYC", "EPYC-Rome", "EPYC-Milan"];
        foreach (string name in expected)
        {
            Assert.True(CpuModel.TryParseName(name, out CpuModelName model) && CpuModel.NameText(model) == name);
            Assert.True(CpuModel.TryParseName(name.ToLowerInvariant(), out CpuModelName again) && again == model);
            Assert.Contains(name, CpuModel.Names);
        }
        Assert.True(CpuModel.TryParseName("Haswell-noTSX", out CpuModelName haswell) && haswell == CpuModelName.Haswell);
        Assert.True(CpuModel.TryParseName("x86-64-v4", out CpuModelName level) && level == CpuModelName.V4);
        Assert.False(CpuModel.TryParseName("host-noTSX", out _));
        Assert.False(CpuModel.TryParseName("EPYC-", out _));
        Assert.False(CpuModel.TryParseName("", out _));
    }

    [Fact]
    public void A_named_model_is_the_same_on_all_hosts_and_engines_that_can_run_it()
    {
        foreach (CpuModelName name in Named)
        {
            CpuModel full = CpuModel.Create(name, 2, Kvm(IsAmd(name)));
            // Two hosts that differ in much that the model does not have.
            CpuFeature[] other = [.. Enum.GetValues<CpuFeature>().Where(f => !full.Has(f) && f < CpuFeature.RdclNo)];
            CpuModel least = CpuModel.Create(name, 2, Kvm(IsAmd(name), other));
            Assert.Equal(full.Signature, least.Signature);
            Assert.Equal(full.Features.Beyond(least.Features), least.Features.Beyond(full.Features));
            Assert.Equal(full.SupportedXcr0, least.SupportedXcr0);
            if (!full.Has(CpuFeature.Avx512F))
            {
                CpuModel software = CpuModel.Create(name, 2, Software(IsAmd(name)));
                // Software has no hardware's faults to tell of.
                Assert.Empty(software.Features.Beyond(full.Features));
                Assert.All(full.Features.Beyond(software.Features), f => Assert.True(Kvm(IsAmd(name)).Mitigations.Has(Parse(f)), f));
            }
        }
        static CpuFeature Parse(string text) => Enum.TryParse(text, out CpuFeature feature) ? feature : CpuFeature.ArchCapabilities; // "ArchCapabilitiesLow bit 31"
    }

    private static CpuOffer Software(bool amd) => CpuOffer.ForSoftware(Host(amd));

    [Fact]
    public void Newer_models_have_all_that_older_ones_have()
    {
        CpuModelName[] intel = [.. Named.Where(n => !IsAmd(n))], amd = [.. Named.Where(IsAmd)];
        foreach (CpuModelName[] line in (CpuModelName[][])[intel, amd])
        {
            for (int i = 1; i < line.Length; i++)
            {
                CpuModel older = CpuModel.Create(line[i - 1], 1, Kvm(IsAmd(line[i]))), newer = CpuModel.Create(line[i], 1, Kvm(IsAmd(line[i])));
                Assert.Empty(older.Features.Beyond(newer.Features));
                Assert.NotEmpty(newer.Features.Beyond(older.Features));
            }
        }
    }

    [Theory]
    [InlineData(CpuModelName.Haswell, CpuFeature.Fma)]
    [InlineData(CpuModelName.SkylakeServer, CpuFeature.Avx512Vl)]
    [InlineData(CpuModelName.EpycMilan, CpuFeature.Vaes)]
    [InlineData(CpuModelName.V4, CpuFeature.Avx512Cd)]
    [InlineData(CpuModelName.V2, CpuFeature.Ssse3)]
    [InlineData(CpuModelName.SapphireRapids, CpuFeature.AmxTile)]
    public void What_the_kernel_does_not_offer_is_named_in_one_line(CpuModelName name, CpuFeature missing)
    {
        bool amd = IsAmd(name);
        CpuModel.Create(name, 1, Kvm(amd));
        string message = Assert.Throws<NotSupportedException>(() => CpuModel.Create(name, 1, Kvm(amd, missing))).Message;
        Assert.Contains(missing.ToString(), message);
        Assert.Contains("KVM", message);
        Assert.DoesNotContain('\n', message);
    }

    [Theory]
    [InlineData(CpuModelName.V4)]
    [InlineData(CpuModelName.SkylakeServer)]
    [InlineData(CpuModelName.IcelakeServer)]
    [InlineData(CpuModelName.SapphireRapids)]
    [InlineData(CpuModelName.EpycGenoa)]
    public void The_software_engine_has_no_Avx512(CpuModelName name)
    {
        string message = Assert.Throws<NotSupportedException>(() => CpuModel.Create(name, 1, Software(false))).Message;
        Assert.Contains("Avx512F", message);
        Assert.Contains("software engine", message);
        Assert.DoesNotContain('\n', message);
    }

    [Fact]
    public void Another_vendors_model_runs_in_software_only()
    {
        CpuModel epyc = CpuModel.Create(CpuModelName.EpycRome, 1, Software(amd: false));
        Assert.True(epyc.IsAmd);
        Assert.Equal(0x6874_7541u, epyc.Cpuid(0, 0, s_context).Ebx);
        Assert.NotEqual(0u, CpuModel.Create(CpuModelName.Haswell, 1, Software(amd: true)).Cpuid(4, 3, s_context).Eax); // caches, though AMD's host has no leaf 4
        string message = Assert.Throws<NotSupportedException>(() => CpuModel.Create(CpuModelName.EpycRome, 1, Kvm(amd: false))).Message;
        Assert.Contains("AMD's", message);
        Assert.Contains("Intel's", message);
        Assert.DoesNotContain('\n', message);
    }

    [Fact]
    public void Extended_state_has_the_hosts_layout()
    {
        CpuModel intel = CpuModel.Create(CpuModelName.SapphireRapids, 1, Kvm(false)), amd = CpuModel.Create(CpuModelName.EpycGenoa, 1, Kvm(true));
        Assert.Equal((0x6_02E7UL, 0x2E7UL), (intel.SupportedXcr0, amd.SupportedXcr0));
        Assert.Equal((2816u + 8192, 2440u), (intel.Cpuid(0xD, 0, s_context).Ecx, amd.Cpuid(0xD, 0, s_context).Ecx));
        Assert.Equal(new CpuidResult(1024, 1408, 0, 0), amd.Cpuid(0xD, 7, s_context));
        Assert.Equal(new CpuidResult(8192, 2816, 2, 0), intel.Cpuid(0xD, 18, s_context));
        Assert.Equal(576 + 256 + 64 + 512 + 1024 + 8 + 56 + 64 + 8192, CpuModel.CompactedAreaSize(intel.SupportedXcr0));
        Assert.NotEqual(0u, intel.Cpuid(0x1D, 1, s_context).Eax);
    }

    [Fact]
    public void Host_on_hardware_shows_what_the_kernel_offers_but_what_must_be_asked_for()
    {
        CpuModel model = CpuModel.Create(CpuModelName.Host, 1, Kvm(false));
        Assert.True(model.Has(CpuFeature.Avx512Fp16) && model.Has(CpuFeature.KvmStealTime) && model.Has(CpuFeature.KvmTlbFlush) && !model.Has(CpuFeature.Vmx));
        Assert.Equal(ArchCapabilities, model.ArchCapabilitiesRegister);
        Assert.Equal(0x000C_06F2u, model.Signature);
        Assert.Equal(default, model.Cpuid(0xA, 0, s_context));
        Assert.Equal(0u, model.Cpuid(1, 0, s_context with { Cr4 = 0 }).Ecx & (1u << 27 | 1u << 3)); // OSXSAVE and MONITOR follow the processor's state
        CpuModel asked = CpuModel.Create(CpuModelName.Haswell, 1, Kvm(false), new ProcessorOptions { Nested = true, PerformanceMonitoring = true });
        Assert.True(asked.Has(CpuFeature.Vmx));
        Assert.Equal(0x0730_0802u, asked.Cpuid(0xA, 0, s_context).Eax);
        Assert.True(CpuModel.Create(CpuModelName.Epyc, 1, Kvm(true), new ProcessorOptions { Nested = true }).Cpuid(0x8000_000A, 0, s_context).Ebx != 0);
        Assert.Contains("Vmx", Assert.Throws<NotSupportedException>(() => CpuModel.Create(CpuModelName.Haswell, 1, Kvm(false, CpuFeature.Vmx), new ProcessorOptions { Nested = true })).Message);
        Assert.Throws<NotSupportedException>(() => CpuModel.Create(CpuModelName.Haswell, 1, Software(false), new ProcessorOptions { PerformanceMonitoring = true }));
    }

    [Fact]
    public void A_saved_model_is_taken_over_by_the_same_model_with_more()
    {
        CpuModel old = CpuModel.Create(CpuModelName.V3, 2, Kvm(false, CpuFeature.Sha, CpuFeature.Pku)), wide = CpuModel.Create(CpuModelName.V3, 2, Kvm(false));
        old.TimestampFrequency = 2_500_000_000;
        Assert.True(wide.Has(CpuFeature.Sha));
        wide.Adopt(Through(old.Save()));
        Assert.False(wide.Has(CpuFeature.Sha) || wide.Has(CpuFeature.Pku));
        Assert.Equal((2_500_000_000, 7UL, 1), (wide.TimestampFrequency, wide.SupportedXcr0, wide.Revision));
        for (uint leaf = 0; leaf < 0x20; leaf++)
        {
            Assert.Equal(old.Cpuid(leaf, 0, s_context), wide.Cpuid(leaf, 0, s_context));
        }
    }

    [Fact]
    public void A_saved_model_is_refused_where_something_is_missing_and_nothing_changes()
    {
        CpuModel rich = CpuModel.Create(CpuModelName.V3, 1, Kvm(false)), poor = CpuModel.Create(CpuModelName.V3, 1, Kvm(false, CpuFeature.Sha));
        Refused(poor, rich.Save(), "Sha");
        Refused(CpuModel.Create(CpuModelName.Nehalem, 1, Kvm(false)), CpuModel.Create(CpuModelName.Haswell, 1, Kvm(false)).Save(), "Avx2", "Haswell", "Nehalem");
        Refused(CpuModel.Create(CpuModelName.V3, 1, Kvm(true)), rich.Save(), "Intel");
        Refused(rich, rich.Save() with { PhysicalBits = 52 }, "52 bits");
        Refused(rich, rich.Save() with { Name = "../\u001b[2J" }, "..??");
        Refused(rich, rich.Save() with { Features = [.. rich.Save().Features, 4] }, "word 16");
        Refused(rich, rich.Save() with { ComponentOffsets = [.. rich.Save().ComponentOffsets.Select((o, i) => i == 9 ? 840 : o)] }, "component 9");
        Refused(CpuModel.Create(CpuModelName.V3, 1, Software(false)), CpuModel.Create(CpuModelName.V3, 1, Kvm(false)).Save(), "software engine", "AmdSelectiveBranchPredictorBarrier");
        CpuModel nested = CpuModel.Create(CpuModelName.V3, 1, Kvm(false), new ProcessorOptions { Nested = true });
        Refused(rich, nested.Save(), "Vmx", "--nested");
    }

    private static void Refused(CpuModel target, CpuModelState saved, params string[] named)
    {
        CpuModelState before = target.Save();
        string message = Assert.Throws<SavedStateException>(() => target.Adopt(saved)).Message;
        Assert.All(named, n => Assert.Contains(n, message));
        Assert.DoesNotContain('\n', message);
        Assert.Equal(before.Features, target.Save().Features);
        Assert.Equal(0, target.Revision);
    }

    [Fact]
    public void A_model_moves_between_hardware_and_software()
    {
        foreach (CpuModelName name in (CpuModelName[])[CpuModelName.Nehalem, CpuModelName.Haswell, CpuModelName.Epyc, CpuModelName.EpycMilan])
        {
            CpuModel.Create(name, 1, Kvm(IsAmd(name))).Adopt(Through(CpuModel.Create(name, 1, Software(IsAmd(name))).Save()));
        }
        // And back, from hardware whose mitigations the software engine knows.
        CpuFeature[] unusual = [.. Enum.GetValues<CpuFeature>().Where(f => Kvm(true).Mitigations.Has(f) && !Software(true).Features.Has(f))];
        CpuOffer usual = Kvm(true, [.. unusual, CpuFeature.ArchCapabilities]);
        CpuModel.Create(CpuModelName.Epyc, 1, Software(true)).Adopt(Through(CpuModel.Create(CpuModelName.Epyc, 1, usual).Save()));
    }

    [Fact]
    public void Frequencies_are_close_within_250_millionths()
    {
        Assert.True(CpuModel.IsCloseEnough(2_000_000_000, 2_000_500_000));
        Assert.False(CpuModel.IsCloseEnough(2_000_000_000, 2_000_500_001));
        Assert.False(CpuModel.IsCloseEnough(2_000_000_000, 1_999_499_999));
    }

    private static CpuModelState Through(CpuModelState state)
    {
        var writer = new StateWriter();
        writer.Nested(1, state);
        return new StateReader(writer.ToArray()).Nested(1, new CpuModelState());
    }

    [Fact]
    public void Hostile_saved_models_end_in_an_exception_or_a_usable_model()
    {
        var random = new Random(5);
        var writer = new StateWriter();
        writer.Nested(1, CpuModel.Create(CpuModelName.V3, 1, Software(false)).Save());
        byte[] valid = writer.ToArray();
        for (int i = 0; i < 20_000; i++)
        {
            byte[] bytes = (byte[])valid.Clone();
            for (int n = random.Next(1, 4); n > 0; n--)
            {
                bytes[random.Next(bytes.Length)] = (byte)random.Next(256);
            }
            CpuModel model = CpuModel.Create(CpuModelName.V3, 1, Software(false));
            try
            {
                model.Adopt(new StateReader(random.Next(8) == 0 ? bytes.AsMemory(0, random.Next(bytes.Length)) : bytes).Nested(1, new CpuModelState()));
            }
            catch (SavedStateException e)
            {
                Assert.DoesNotContain('\n', e.Message);
                continue;
            }
            Assert.InRange(model.StandardAreaSize(model.SupportedXcr0), 576, 4096);
            for (uint leaf = 0; leaf < 0x20; leaf++)
            {
                model.Cpuid(leaf, 1, s_context);
                model.Cpuid(0x8000_0000 + leaf, 0, s_context);
            }
        }
    }
}
