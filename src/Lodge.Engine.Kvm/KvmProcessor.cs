using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Processor;

namespace Lodge.Engine.Kvm;

/// <summary>A virtual processor of the hardware engine.</summary>
internal sealed unsafe partial class KvmProcessor : VirtualProcessor, IDisposable
{
    private readonly KvmPartition _partition;
    private readonly KvmProcessorHandle _handle;
    private ProcessorState _resetState = new();

    internal KvmProcessor(KvmPartition partition, KvmProcessorHandle handle, int index)
    {
        _partition = partition;
        _handle = handle;
        Index = index;
    }

    /// <inheritdoc/>
    public override int Index { get; }

    /// <summary>The descriptor and its shared page.</summary>
    internal KvmProcessorHandle Handle => _handle;

    /// <inheritdoc/>
    public override ProcessorState GetState()
    {
        ServeNmi();
        ProcessorState state = _partition.Registers.Store(_handle);
        ShowHeldTime(state);
        return state;
    }

    /// <inheritdoc/>
    public override void SetState(ProcessorState state)
    {
        Interlocked.Exchange(ref _lint1, 0);
        _partition.Registers.Load(_handle, Index, state);
        _partition.Routes.LearnPending(Index, state.LocalApic);
        _partition.HoldTimeOf(this, state);
    }

    /// <summary>Keeps the state of a processor that has never run as its reset state.</summary>
    internal void NoteResetState()
    {
        const uint TimestampCounter = 0x10;
        _resetState = _partition.Registers.Store(_handle);
        _resetState.GeneralRegisters[2] = _partition.Options.Model.Signature; // EDX (Intel SDM vol. 3, table 11-1)
        _resetState.ModelSpecificRegisters[TimestampCounter] = 0;
        Reset();
    }

    /// <summary>Power-on state.</summary>
    internal void Reset() => SetState(_resetState);

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_kickGate)
        {
            _handle.Dispose();
        }
    }
}
