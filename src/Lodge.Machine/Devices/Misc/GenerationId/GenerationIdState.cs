using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Misc.GenerationId;

/// <summary>Saved state of <see cref="GenerationId"/>.</summary>
/// <param name="Value">The identifier, 16 bytes as in guest memory.</param>
public sealed record GenerationIdState(byte[] Value) : ISavedState<GenerationIdState>
{
    /// <summary>Bytes of an identifier.</summary>
    public const int Length = 16;

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer) => writer.Bytes(1, Value);

    /// <inheritdoc/>
    public static GenerationIdState Read(StateReader reader) =>
        reader.Bytes(1, Length) is { Length: Length } value ? new(value) : throw new SavedStateException($"saved generation identifier has not {Length} bytes");
}
