using Lodge.Engine.Processor;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation;

/// <summary>A virtual processor of the software engine as the machine sees it.</summary>
internal sealed unsafe class TranslatedProcessor(Vcpu vcpu, int index) : VirtualProcessor
{
    /// <inheritdoc/>
    public override int Index => index;

    /// <inheritdoc/>
    public override ProcessorExit Run()
    {
        try
        {
            ProcessorExit exit = vcpu.RunLoop();
            if (vcpu.Failure is { } failure)
            {
                FailureReason = failure is EngineFailure ? failure.Message : failure.ToString();
                return ProcessorExit.Failed;
            }
            DebugEvent = vcpu.LastDebugEvent;
            return exit;
        }
        catch (Exception failure) when (failure is not OutOfMemoryException)
        {
            FailureReason = failure is EngineFailure ? failure.Message : failure.ToString();
            return ProcessorExit.Failed;
        }
    }

    /// <inheritdoc/>
    public override void Stop() => vcpu.RequestStop();

    /// <inheritdoc/>
    public override ProcessorState GetState() => vcpu.SaveState();

    /// <inheritdoc/>
    public override void SetState(ProcessorState state) => vcpu.RestoreState(state);

    /// <inheritdoc/>
    public override void SetDebug(DebugRequest request) => vcpu.SetDebug(request);

    /// <inheritdoc/>
    public override bool TryTranslate(ulong linear, out ulong physical) => vcpu.TryTranslateQuietly(linear, out physical);

    /// <inheritdoc/>
    public override IReadOnlyDictionary<string, long> Counters => vcpu.Counters();
}
