using Lodge.Network.Links;
using Lodge.Network.Packets;

namespace Lodge.Machine.Devices.Virtio.Network;

/// <summary>How a network card is set up.</summary>
/// <param name="Link">What it is plugged into. The device does not dispose it.</param>
/// <param name="Mac">Its address, as long as the driver sets no other; of a station, not of a group.</param>
public sealed record VirtioNetworkConfiguration(ILink Link, MacAddress Mac)
{
    /// <summary>Pairs of a receive and a transmit queue, 1 to 31: one for each processor is best.</summary>
    public int QueuePairs { get; init; } = 1;

    /// <summary>Descriptors of a receive or transmit queue, a power of two from 16 to 1024.</summary>
    public ushort QueueSize { get; init; } = 256;

    /// <summary>What the guest is told as the largest MTU, 68 to 65,535; null: what the link can carry.</summary>
    public int? Mtu { get; init; }

    /// <summary>Speed that the guest is shown, in megabits per second; null: none. It limits nothing.</summary>
    public uint? SpeedMegabits { get; init; } = 10_000;

    /// <summary>Whether the cable is plugged in at first; see <see cref="VirtioNetwork.SetLinkUp"/>.</summary>
    public bool LinkUp { get; init; } = true;

    /// <summary>A frame that needs more buffers than the guest has given is dropped after so long.</summary>
    public int HoldMilliseconds { get; init; } = 500;
}
