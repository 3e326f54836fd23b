using System.Runtime.InteropServices;
using Lodge.Engine.Processor;
using Lodge.Engine.Time;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Execution;
using Lodge.Engine.Translation.Interrupts;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation;

/// <summary>The software engine: a dynamic binary translator for x86-64 on x86-64. Needs no privileges and no hardware virtualization.</summary>
public sealed class TranslationEngine : IEngine
{
    /// <inheritdoc/>
    public string Name => "translate";

    /// <summary>Why this host cannot run it, in one line; null when it can.</summary>
    public static string? Unusable() => System.Runtime.Intrinsics.X86.Bmi2.X64.IsSupported && System.Runtime.Intrinsics.X86.Avx2.IsSupported
        ? null
        : "the software engine needs a host processor with AVX2 and BMI2 (x86-64-v3, any since about 2015); this one lacks them";

    /// <inheritdoc/>
    public void Prepare()
    {
        try
        {
            if (Unusable() is null && !Lockstep.TierComparison.IsAsked)
            {
                FirstGuest.Run();
            }
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // Whatever the host refuses here it refuses to the machine too, which tells.
        }
    }

    /// <inheritdoc/>
    /// <exception cref="NotSupportedException">This host cannot run it, with the message of <see cref="Unusable"/>, or it lacks something that was asked for.</exception>
    public Partition CreatePartition(PartitionOptions options)
    {
        if (Unusable() is { } reason)
        {
            throw new NotSupportedException(reason);
        }
        ProcessorOptions asked = options.Processor;
        string? refused = asked.HyperV ? "Hyper-V's enlightenments" : asked.Nested ? "nested virtualization" : asked.PerformanceMonitoring ? "performance counters" : null;
        if (refused is not null)
        {
            throw new NotSupportedException($"the software engine has no {refused}; the engine kvm has, where the host does");
        }
        var partition = new TranslationPartition(options);
        if (asked.TimestampFrequency != 0 && !CpuModel.IsCloseEnough(asked.TimestampFrequency, partition.TimestampFrequency))
        {
            long own = partition.TimestampFrequency;
            partition.Dispose();
            throw new NotSupportedException($"the software engine cannot scale the time stamp counter: the host's runs at {own / 1000} kHz");
        }
        return partition;
    }
}

/// <summary>A machine's processors on the software engine.</summary>
internal sealed unsafe partial class TranslationPartition : Partition, ITranslatedCode
{
    private readonly TranslatedProcessor[] _processors = [];

    internal PartitionOptions Options = null!;
    internal Vcpu[] Vcpus = [];
    internal CodePages Code = null!;

    /// <summary>For tests that make processors by hand.</summary>
    internal TranslationPartition()
    {
    }

    internal TranslationPartition(PartitionOptions options)
    {
        HostSignals.Install();
        Options = options;
        Timers = new TimerService(options.Clock);
        Code = new CodePages(this, options.Memory);
        Vcpus = new Vcpu[options.ProcessorCount];
        _processors = new TranslatedProcessor[options.ProcessorCount];
        for (int i = 0; i < Vcpus.Length; i++)
        {
            var block = (ProcessorBlock*)NativeMemory.AlignedAlloc((nuint)sizeof(ProcessorBlock), 4096);
            NativeMemory.Clear(block, (nuint)sizeof(ProcessorBlock));
            var vcpu = new Vcpu(this, block) { Number = i };
            Vcpus[i] = vcpu;
            vcpu.Initialize();
            vcpu.Comparison = Lockstep.TierComparison.FromEnvironment(options.Memory, options.ProcessorCount);
            _processors[i] = new TranslatedProcessor(vcpu, i);
        }
        Reset();
        _clockRuns = options.Clock.Running;
        options.Clock.Changed += ClockChanged;
    }

    /// <inheritdoc/>
    public override IReadOnlyList<VirtualProcessor> Processors => _processors;

    /// <inheritdoc/>
    public override void SignalMessage(ulong address, uint data) => RouteMessage(address, data);

    /// <inheritdoc/>
    public override void SetExternalInterrupt(bool asserted) => RouteExternalInterrupt(asserted);

    /// <inheritdoc/>
    public override void SignalNmi() => RouteNmi();

    /// <inheritdoc/>
    public override void Reset()
    {
        foreach (Vcpu vcpu in Vcpus)
        {
            vcpu.Reset();
        }
    }

    /// <inheritdoc/>
    public override ITranslatedCode? TranslatedCode => this;

    /// <inheritdoc/>
    public override void Dispose()
    {
        Options.Clock.Changed -= ClockChanged;
        Timers.Dispose();
        foreach (Vcpu vcpu in Vcpus)
        {
            vcpu.Dispose();
        }
        _kept?.Dispose();
    }
}
