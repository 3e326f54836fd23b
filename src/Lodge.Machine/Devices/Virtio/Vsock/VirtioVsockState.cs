using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Virtio.Vsock;

/// <summary>Saved state of a socket device beside its queues. Streams have their other ends on the host and are not saved: the guest is told that they are gone.</summary>
/// <param name="GuestCid">The guest's context identifier.</param>
public sealed record VirtioVsockState(uint GuestCid) : ISavedState<VirtioVsockState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer) => writer.UInt64(1, GuestCid);

    /// <inheritdoc/>
    public static VirtioVsockState Read(StateReader reader)
    {
        uint cid = reader.UInt32(1, VirtioVsockConfiguration.LowestGuest);
        return cid is >= VirtioVsockConfiguration.LowestGuest and < uint.MaxValue
            ? new(cid)
            : throw new SavedStateException($"saved state has guest CID {cid}; 3 to 4294967294 are possible");
    }
}
