using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Virtio.Block;

/// <summary>Saved state of a block device beside its queues. No request is in flight when it is taken.</summary>
/// <param name="Writeback">The configuration's writeback field.</param>
public sealed record VirtioBlockState(bool Writeback) : ISavedState<VirtioBlockState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer) => writer.Bool(1, Writeback);

    /// <inheritdoc/>
    public static VirtioBlockState Read(StateReader reader) => new(reader.Bool(1, true));
}
