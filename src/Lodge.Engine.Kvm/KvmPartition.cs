using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Kvm.Interrupts;
using Lodge.Engine.Kvm.Memory;
using Lodge.Engine.Kvm.Registers;
using Lodge.Engine.Memory;

namespace Lodge.Engine.Kvm;

/// <summary>A machine's processors on the hardware engine: local APICs in the kernel, all other interrupt controllers in the machine (split irqchip).</summary>
internal sealed partial class KvmPartition : Partition
{
    // Pages under 4 GiB that some Intel processors need for real mode; nothing of the machine lies there.
    private const ulong IdentityMapAddress = 0xFEFF_C000, TssAddress = 0xFEFF_D000;
    private const ulong X2ApicWideIds = 1, X2ApicNoBroadcastQuirk = 2, X2ApicNoSuppression = 8, QuirkLint0Reenabled = 1;
    private const ulong MsrExitUnknown = 2, MsrExitFilter = 4;

    private readonly KvmSystem _system;
    private readonly KvmVirtualMachine _machine;
    private readonly KvmProcessor[] _processors;
    private readonly RouteTable _routes = null!;
    private readonly DirtyRing? _ring;

    internal KvmPartition(PartitionOptions options, bool dirtyRings)
    {
        Options = options;
        _processors = new KvmProcessor[options.ProcessorCount];
        KickSignal.Install();
        _system = new KvmSystem();
        try
        {
            _machine = _system.CreateVirtualMachine();
            _machine.Enable(KvmCapability.SplitIrqchip, LearnedPlaces);
            // Ends of interrupts are always broadcast, as on the software engine: saved local APICs are the same.
            ulong noSuppression = (ulong)_machine.Check(KvmCapability.X2ApicApi) & X2ApicNoSuppression;
            _machine.Enable(KvmCapability.X2ApicApi, X2ApicWideIds | X2ApicNoBroadcastQuirk | noSuppression);
            _machine.TryEnable(KvmCapability.DisableQuirks, QuirkLint0Reenabled); // LINT0 after reset is masked, as on a processor
            _machine.TryEnable(KvmCapability.UserSpaceMsr, MsrExitUnknown | MsrExitFilter);
            _machine.SetIdentityMapAddress(IdentityMapAddress);
            _machine.SetTssAddress(TssAddress);
            _routes = new RouteTable(_machine, LearnedPlaces);
            Messages = new MessageGate(_machine, _routes);
            Doorbells = _machine.Check(KvmCapability.Ioeventfd) != 0 ? new KvmDoorbells(_machine) : null;
            InterruptEvents = _machine.Check(KvmCapability.Irqfd) != 0 ? _routes : null;
            Slots = new MemorySlots(_machine, options.Memory);
            _ring = dirtyRings ? DirtyRing.TryCreate(_machine, Slots) : null;
            DirtyTracking = _ring ?? (IDirtyTracking)new DirtyLog(_machine, Slots);
            ApplyOptionsBefore();
            Registers = new RegisterTransfer(_system, _machine, options.Model);
            for (int i = 0; i < _processors.Length; i++)
            {
                KvmProcessorHandle handle = _machine.CreateProcessor(i);
                _processors[i] = new KvmProcessor(this, handle, i);
                _ring?.Add(handle);
                Identify(handle, i);
                _processors[i].NoteResetState();
            }
            FilterRegisters();
            BeginTime();
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>What the partition was made from.</summary>
    internal PartitionOptions Options { get; }

    /// <summary>The virtual machine.</summary>
    internal KvmVirtualMachine Machine => _machine;

    /// <summary>Carries registers.</summary>
    internal RegisterTransfer Registers { get; } = null!;

    /// <summary>The guest's memory.</summary>
    internal MemorySlots Slots { get; } = null!;

    /// <inheritdoc/>
    public override IReadOnlyList<VirtualProcessor> Processors => _processors;

    /// <inheritdoc/>
    public override IDoorbells? Doorbells { get; }

    /// <inheritdoc/>
    public override IInterruptEvents? InterruptEvents { get; }

    /// <inheritdoc/>
    public override IDirtyTracking DirtyTracking { get; } = null!;

    /// <summary>What messages to local APICs go through.</summary>
    internal MessageGate Messages { get; } = null!;

    /// <summary>Routes of the kernel's.</summary>
    internal RouteTable Routes => _routes;

    /// <summary>Empties the dirty rings, of which one is full.</summary>
    internal void HarvestDirtyRings() => _ring?.Harvest();

    /// <inheritdoc/>
    public override void Reset()
    {
        foreach (KvmProcessor processor in _processors)
        {
            processor.Reset();
        }
    }

    /// <inheritdoc/>
    public override void Dispose()
    {
        EndTime();
        (DirtyTracking as DirtyLog)?.Stop();
        _ring?.Dispose();
        foreach (KvmProcessor? processor in _processors)
        {
            processor?.Dispose();
        }
        _machine?.Dispose();
        _system.Dispose();
    }
}
