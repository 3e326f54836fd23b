using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Misc.DebugExit;

/// <summary>Saved state of <see cref="DebugExit"/>: it has none but its presence.</summary>
public sealed record DebugExitState : ISavedState<DebugExitState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
    }

    /// <inheritdoc/>
    public static DebugExitState Read(StateReader reader) => new();
}
