using Lodge.Engine.Kvm.Cpuid;
using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Kvm.Registers;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Engine.State;
using Lodge.Engine.Time;
using Lodge.Engine.Translation;
using Xunit;
using static Iced.Intel.AssemblerRegisters;

namespace Lodge.Engine.Kvm.Tests;

/// <summary>What a machine's processors have on request, and what is kept from them.</summary>
public sealed class ProcessorOptionsTests
{
    private const uint PowerUnit = 0x606; // RAPL: KVM answers zero, but it is no state

    private static Partition Create(IEngine engine, GuestMemory memory, ProcessorOptions options)
    {
        CpuModel model = CpuModel.Create(CpuModelName.V1, 1, engine.CpuOffer, options);
        return engine.CreatePartition(new PartitionOptions(1, model, memory, new SilentBus(), new MachineClock()) { Processor = options });
    }

    public static TheoryData<string> Options => ["hyperv", "nested", "pmu", "tsc"];

    private static ProcessorOptions Asked(string option) => new()
    {
        HyperV = option == "hyperv",
        Nested = option == "nested",
        PerformanceMonitoring = option == "pmu",
        TimestampFrequency = option == "tsc" ? 1_234_567_000 : 0,
    };

    [Theory]
    [MemberData(nameof(Options))]
    public void The_software_engine_refuses_in_one_line(string option)
    {
        using var memory = new GuestMemory(1 << 20);
        string message = Assert.Throws<NotSupportedException>(() => Create(new TranslationEngine(), memory, Asked(option)).Dispose()).Message;
        Assert.Contains("software engine", message);
        Assert.DoesNotContain('\n', message);
    }

    [Theory]
    [MemberData(nameof(Options))]
    public void The_hardware_engine_has_it_or_refuses_in_one_line(string option)
    {
        Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");
        using var memory = new GuestMemory(1 << 20);
        using var system = new KvmSystem();
        bool possible = option switch
        {
            "hyperv" => system.Check(KvmCapability.HyperVCpuid) != 0 && system.Check(KvmCapability.SystemHyperVCpuid) != 0,
            "nested" => system.Check(KvmCapability.NestedState) != 0 && (KvmOffer.Read(system).Features.Has(CpuFeature.Svm) || KvmOffer.Read(system).Features.Has(CpuFeature.Vmx)),
            "tsc" => system.Check(KvmCapability.TscControl) != 0,
            _ => false,
        };
        try
        {
            using Partition partition = Create(new KvmEngine(), memory, Asked(option));
            ProcessorState state = partition.Processors[0].GetState();
            partition.Processors[0].SetState(state);
            Assert.Equal(option == "nested" && state.NestedState.Length > 0, option == "nested");
        }
        catch (NotSupportedException e)
        {
            Assert.False(possible, e.Message);
            Assert.Contains("KVM", e.Message);
            Assert.DoesNotContain('\n', e.Message);
        }
    }

    [Fact]
    public void A_counter_of_another_frequency_is_refused_or_scaled()
    {
        Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");
        using var memory = new GuestMemory(1 << 20);
        var engine = new KvmEngine();
        using var system = new KvmSystem();
        CpuModel model = CpuModel.Create(CpuModelName.V1, 1, engine.CpuOffer);
        using Partition partition = engine.CreatePartition(new PartitionOptions(1, model, memory, new SilentBus(), new MachineClock()));
        ProcessorState state = partition.Processors[0].GetState();
        long own = model.TimestampFrequency;
        Assert.True(own > 0);
        model.Adopt(model.Save() with { TimestampFrequency = own + (own / 10_000) }); // 100 millionths
        partition.Processors[0].SetState(state);
        Assert.Equal(own + (own / 10_000), model.TimestampFrequency);
        model.Adopt(model.Save() with { TimestampFrequency = own * 2 });
        if (system.Check(KvmCapability.TscControl) != 0)
        {
            partition.Processors[0].SetState(state);
            Assert.Equal(own * 2 / 1000, ((KvmProcessor)partition.Processors[0]).Handle.TscKhz);
        }
        else
        {
            Assert.Contains("TSC scaling", Assert.Throws<SavedStateException>(() => partition.Processors[0].SetState(state)).Message);
        }
    }

    [Fact]
    public void Refused_states_name_the_feature()
    {
        Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");
        using var memory = new GuestMemory(1 << 20);
        using Partition partition = Create(new KvmEngine(), memory, ProcessorOptions.None);
        VirtualProcessor processor = partition.Processors[0];
        void Refused(string named, Action<ProcessorState> change)
        {
            ProcessorState state = processor.GetState();
            change(state);
            string message = Assert.Throws<SavedStateException>(() => processor.SetState(state)).Message;
            Assert.Contains(named, message);
            Assert.DoesNotContain('\n', message);
        }
        Refused("La57", s => s.Cr4 |= 1 << 12);
        Refused("Svm", s => s.ModelSpecificRegisters[0xC000_0080] |= 1 << 12);
        Refused("AVX-512", s => s.Xcr0 = 0xE7);
        Refused("AMX", s => s.ExtendedState = Present(s.ExtendedState, 1UL << 18));
        Refused("Pku", s => s.Pkru = 4);
        Refused("MXCSR", s => s.ExtendedState[27] = 0x80);
        Refused("0x4B564DFF", s => s.ModelSpecificRegisters[0x4B56_4DFF] = 1);
        Refused("nested", s => s.NestedState = new byte[4096]);
        Refused("not valid", s => s.Cr0 = 1UL << 31); // paging without protection
        processor.SetState(processor.GetState());
        static byte[] Present(byte[] area, ulong component)
        {
            byte[] longer = new byte[11008];
            area.CopyTo(longer, 0);
            BitConverter.TryWriteBytes(longer.AsSpan(512), component);
            longer[5000] = 1;
            return longer;
        }
    }

    [Fact]
    public void Hostile_states_end_in_an_exception_or_are_taken()
    {
        Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");
        using var memory = new GuestMemory(1 << 20);
        using Partition partition = Create(new KvmEngine(), memory, ProcessorOptions.None);
        VirtualProcessor processor = partition.Processors[0];
        var writer = new StateWriter();
        writer.Nested(1, processor.GetState());
        byte[] valid = writer.ToArray();
        var random = new Random(7);
        int taken = 0;
        for (int i = 0; i < 2000; i++)
        {
            byte[] bytes = (byte[])valid.Clone();
            for (int n = random.Next(1, 6); n > 0; n--)
            {
                bytes[random.Next(bytes.Length)] ^= (byte)(1 << random.Next(8));
            }
            try
            {
                processor.SetState(new StateReader(bytes).Nested(1, new ProcessorState()));
                processor.GetState();
                taken++;
            }
            catch (SavedStateException e)
            {
                Assert.DoesNotContain('\n', e.Message);
            }
        }
        Assert.InRange(taken, 1, 1999);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_register_that_is_no_state_is_kept_from_the_guest_and_counted(bool filter)
    {
        Assert.SkipWhen(KvmEngine.Unusable() is not null, KvmEngine.Unusable() ?? "");
        using (var system = new KvmSystem())
        {
            Assert.SkipWhen(system.Check(KvmCapability.MsrFilter) == 0, "this host's KVM has no MSR filter");
        }
        using var guest = new SmallGuest(options: new ProcessorOptions { FilterModelSpecificRegisters = filter });
        guest.Put(SmallGuest.Code, 64, a =>
        {
            a.mov(ecx, 0x174); // SYSENTER_CS is state
            a.mov(eax, 0x1234);
            a.xor(edx, edx);
            a.wrmsr();
            a.rdmsr();
            a.@out(0x80, eax);
            a.mov(ecx, (int)PowerUnit);
            a.rdmsr();
            a.mov(al, 1);
            a.@out(0x81, al);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.Put(SmallGuest.Code + 0x800, 64, a =>
        {
            a.mov(al, 2);
            a.@out(0x81, al);
            a.@out(SmallGuest.EndPort, al);
        });
        guest.LongMode();
        guest.Gate(13, SmallGuest.Code + 0x800);
        guest.RunToEnd();
        Assert.Equal(0x1234UL, guest.Bus.Ports[0x80]);
        Assert.Equal(filter ? 2UL : 1UL, guest.Bus.Ports[0x81]);
        Assert.Equal(filter ? 1 : 0, guest.Processor.Counters["MSR exits"]);
    }

    [Fact]
    public void The_filter_lets_through_what_is_state_and_what_kernels_need()
    {
        CpuModel model = CpuModel.Create(CpuModelName.V1, 1);
        IReadOnlyList<MsrBitmap> bitmaps = MsrFilter.Build([0x174, 0x277, 0xC000_0081, 0xC1, 0x4B56_4D01], model, performance: false);
        bool Allowed(uint index) => bitmaps.Any(b => b.IsAllowed(index));
        Assert.All(new uint[] { 0x174, 0x277, 0xC000_0081, 0x4B56_4D01, 0x10, 0x1B, 0x6E0, 0xFE, 0xC000_0080, 0xC000_0100, 0x830 }, i => Assert.True(Allowed(i), $"{i:X}"));
        Assert.All(new uint[] { 0xC1, PowerUnit, 0x480, 0x4000_0000, 0xC000_0300, 0x1FFF, 0xC001_1FFF, 0x9999_9999 }, i => Assert.False(Allowed(i), $"{i:X}"));
        Assert.Contains(MsrFilter.Build([0xC1], model, performance: true), b => b.IsAllowed(0xC1));
    }

    [Fact]
    public void Enlightenments_are_chosen_from_what_the_kernel_has()
    {
        KvmCpuidEntry[] kernel =
        [
            new() { Function = 0x4000_0003, Eax = uint.MaxValue, Edx = uint.MaxValue }, new() { Function = 0x4000_0004, Eax = uint.MaxValue },
        ];
        IReadOnlyList<CpuidResult> all = HyperVLeaves.Choose(kernel, synic: true), none = HyperVLeaves.Choose([], synic: true), noSynic = HyperVLeaves.Choose(kernel, synic: false);
        Assert.Equal(0xAFFu & ~(1u << 7), all[3].Eax);
        Assert.Equal((0u, 0u), (none[3].Eax, none[3].Edx));
        Assert.Equal(0u, noSynic[3].Eax & 0xC);
        CpuModel model = CpuModel.Create(CpuModelName.V1, 1), plain = CpuModel.Create(CpuModelName.V1, 1);
        CpuidResult kvm = model.Cpuid(0x4000_0001, 0, default);
        model.SetHyperV(all);
        Assert.Equal(0x7263_694Du, model.Cpuid(0x4000_0000, 0, default).Ebx);
        Assert.Equal((0x4B4D_564Bu, kvm), (model.Cpuid(0x4000_0100, 0, default).Ebx, model.Cpuid(0x4000_0101, 0, default)));
        var writer = new StateWriter();
        writer.Nested(1, model.Save());
        CpuModelState saved = new StateReader(writer.ToArray()).Nested(1, new CpuModelState());
        Assert.Equal(all, saved.HyperV);
        Assert.Contains("--hyperv", Assert.Throws<SavedStateException>(() => plain.Adopt(saved)).Message);
        plain.SetHyperV(noSynic);
        Assert.Contains("0x40000003", Assert.Throws<SavedStateException>(() => plain.Adopt(saved)).Message);
        plain.SetHyperV(all);
        plain.Adopt(saved);
    }
}
