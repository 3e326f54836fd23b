namespace Lodge.Machine;

/// <summary>How a machine's run ended.</summary>
public enum MachineOutcomeKind
{
    /// <summary>The guest turned the power off.</summary>
    PowerOff,

    /// <summary>The guest reset the machine, which is configured to end then.</summary>
    Reset,

    /// <summary>A processor shut down after a triple fault.</summary>
    TripleFault,

    /// <summary>The guest's kernel reported a panic.</summary>
    Panic,

    /// <summary>The guest wrote to the debug exit port; <see cref="MachineOutcome.Code"/> has the status.</summary>
    DebugExit,

    /// <summary>The host stopped the machine.</summary>
    Stopped,

    /// <summary>The engine or the machine itself failed; <see cref="MachineOutcome.Text"/> says how.</summary>
    EngineFailure,
}

/// <summary>The end of a machine's run.</summary>
/// <param name="Kind">What happened.</param>
/// <param name="Code">Exit status for <see cref="MachineOutcomeKind.DebugExit"/>; the processor's index for a triple fault.</param>
/// <param name="Text">Explanation for <see cref="MachineOutcomeKind.EngineFailure"/>.</param>
public sealed record MachineOutcome(MachineOutcomeKind Kind, int Code = 0, string? Text = null);
