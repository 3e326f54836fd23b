using Lodge.Engine.Kvm.Cpuid;
using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Kvm.Memory;
using Lodge.Engine.Kvm.Registers;

namespace Lodge.Engine.Kvm;

/// <summary>A machine's processors on the hardware engine: local APICs in the kernel, all other interrupt controllers in the machine (split irqchip).</summary>
internal sealed partial class KvmPartition : Partition
{
    // Pages under 4 GiB that some Intel processors need for real mode; nothing of the machine lies there.
    private const ulong IdentityMapAddress = 0xFEFF_C000, TssAddress = 0xFEFF_D000;
    private const ulong X2ApicWideIds = 1, X2ApicNoBroadcastQuirk = 2, QuirkLint0Reenabled = 1;
    private const ulong MsrExitUnknown = 2, MsrExitFilter = 4;

    private readonly KvmSystem _system;
    private readonly KvmVirtualMachine _machine;
    private readonly KvmProcessor[] _processors;

    internal KvmPartition(PartitionOptions options, bool dirtyRings)
    {
        Options = options;
        DirtyRings = dirtyRings;
        _processors = new KvmProcessor[options.ProcessorCount];
        KickSignal.Install();
        _system = new KvmSystem();
        try
        {
            _machine = _system.CreateVirtualMachine();
            _machine.Enable(KvmCapability.SplitIrqchip, LearnedPlaces);
            _machine.Enable(KvmCapability.X2ApicApi, X2ApicWideIds | X2ApicNoBroadcastQuirk);
            _machine.TryEnable(KvmCapability.DisableQuirks, QuirkLint0Reenabled); // LINT0 after reset is masked, as on a processor
            _machine.TryEnable(KvmCapability.UserSpaceMsr, MsrExitUnknown | MsrExitFilter);
            _machine.SetIdentityMapAddress(IdentityMapAddress);
            _machine.SetTssAddress(TssAddress);
            Slots = new MemorySlots(_machine, options.Memory);
            Registers = new RegisterTransfer(_machine, options.Model);
            var identification = new ProcessorIdentification(_system);
            for (int i = 0; i < _processors.Length; i++)
            {
                KvmProcessorHandle handle = _machine.CreateProcessor(i);
                _processors[i] = new KvmProcessor(this, handle, i);
                if (i == 0)
                {
                    options.Model.TimestampFrequency = handle.TscKhz * 1000L;
                }
                identification.Apply(handle, options.Model, i);
                _processors[i].NoteResetState();
            }
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

    private bool DirtyRings { get; }

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
        foreach (KvmProcessor? processor in _processors)
        {
            processor?.Dispose();
        }
        _machine?.Dispose();
        _system.Dispose();
    }
}
