using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Misc.Pvpanic;

/// <summary>Saved state of <see cref="Pvpanic"/>: it has none but its presence.</summary>
public sealed record PvpanicState : ISavedState<PvpanicState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
    }

    /// <inheritdoc/>
    public static PvpanicState Read(StateReader reader) => new();
}
