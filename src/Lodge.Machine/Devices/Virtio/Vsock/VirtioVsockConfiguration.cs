using Lodge.Network.Vsock;

namespace Lodge.Machine.Devices.Virtio.Vsock;

/// <summary>How a socket device is set up.</summary>
/// <param name="Host">What the guest reaches.</param>
public sealed record VirtioVsockConfiguration(IVsockHost Host)
{
    /// <summary>Lowest context identifier that a guest may have; 2 is the host.</summary>
    public const uint LowestGuest = 3;

    /// <summary>The guest's context identifier. Hosts reach the guest through a socket of its own, so guests may share one.</summary>
    public uint GuestCid { get; init; } = LowestGuest;

    /// <summary>Streams at one time; more are refused. Each holds at most 192 KiB of the host's memory.</summary>
    public int MaximumStreams { get; init; } = 256;
}
