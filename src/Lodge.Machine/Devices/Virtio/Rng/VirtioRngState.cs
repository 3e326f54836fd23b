using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Virtio.Rng;

/// <summary>Saved state of an entropy device beside its queues.</summary>
/// <param name="BytesGiven">Bytes given to the guest since power-on.</param>
public sealed record VirtioRngState(ulong BytesGiven) : ISavedState<VirtioRngState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer) => writer.UInt64(1, BytesGiven);

    /// <inheritdoc/>
    public static VirtioRngState Read(StateReader reader) => new(reader.UInt64(1));
}
