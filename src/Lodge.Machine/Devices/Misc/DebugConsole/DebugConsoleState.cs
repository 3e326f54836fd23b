using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Misc.DebugConsole;

/// <summary>Saved state of <see cref="DebugConsole"/>.</summary>
public sealed record DebugConsoleState : ISavedState<DebugConsoleState>
{
    /// <summary>Bytes that the backend has not taken.</summary>
    public byte[] Output { get; init; } = [];

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer) => writer.Bytes(1, Output);

    /// <inheritdoc/>
    public static DebugConsoleState Read(StateReader reader) => new() { Output = reader.Bytes(1, CharacterOutput.Capacity) };
}
