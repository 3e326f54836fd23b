using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Virtio.Balloon;

/// <summary>Saved state of a balloon beside its queues.</summary>
/// <param name="TargetPages">num_pages.</param>
/// <param name="ActualPages">actual.</param>
/// <param name="PoisonValue">poison_val.</param>
public sealed record VirtioBalloonState(uint TargetPages, uint ActualPages, uint PoisonValue) : ISavedState<VirtioBalloonState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, TargetPages);
        writer.UInt64(2, ActualPages);
        writer.UInt64(3, PoisonValue);
    }

    /// <inheritdoc/>
    public static VirtioBalloonState Read(StateReader reader) => new(reader.UInt32(1), reader.UInt32(2), reader.UInt32(3));
}
