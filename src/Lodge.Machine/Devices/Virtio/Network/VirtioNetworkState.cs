using Lodge.Engine.State;
using Lodge.Network.Packets;

namespace Lodge.Machine.Devices.Virtio.Network;

/// <summary>Saved state of a card beside its queues. A frame of the guest that the link does not take yet is still in its queue.</summary>
/// <param name="Mac">Its address; null: that of the configuration.</param>
/// <param name="Modes">Receive modes (VIRTIO_NET_CTRL_RX), a bit for each command; promiscuous when missing.</param>
/// <param name="Unicast">Addresses of stations in the table, 6 bytes each.</param>
/// <param name="UnicastOverflowed">The driver listed more than fit.</param>
/// <param name="Multicast">Addresses of groups in the table, 6 bytes each.</param>
/// <param name="MulticastOverflowed">The driver listed more than fit.</param>
/// <param name="Vlans">The VLAN table, a bit for each identifier.</param>
/// <param name="GuestOffloads">What the driver accepts on frames that it receives.</param>
/// <param name="Pairs">Queue pairs in use.</param>
/// <param name="Announce">Whether the driver is to announce itself and has not acknowledged it.</param>
/// <param name="Plugged">Whether the cable is plugged in.</param>
/// <param name="Carrier">Whether the link was up, as far as the driver was told.</param>
/// <param name="Frame">A frame that waits for enough of the guest's buffers; empty when there is none.</param>
/// <param name="FrameOffload">What is left to do on it.</param>
public sealed record VirtioNetworkState(
    ulong? Mac,
    byte Modes,
    byte[] Unicast,
    bool UnicastOverflowed,
    byte[] Multicast,
    bool MulticastOverflowed,
    ulong[] Vlans,
    ulong GuestOffloads,
    ushort Pairs,
    bool Announce,
    bool Plugged,
    bool Carrier,
    byte[] Frame,
    FrameOffload FrameOffload) : ISavedState<VirtioNetworkState>
{
    private const ulong MaximumMac = (1UL << 48) - 1;

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        if (Mac is { } mac)
        {
            writer.UInt64(1, mac);
        }
        writer.UInt64(2, Modes);
        writer.Bytes(3, Unicast);
        writer.Bool(4, UnicastOverflowed);
        writer.Bytes(5, Multicast);
        writer.Bool(6, MulticastOverflowed);
        writer.UInt64Array(7, Vlans);
        writer.UInt64(8, GuestOffloads);
        writer.UInt64(9, Pairs);
        writer.Bool(10, Announce);
        writer.Bool(11, Plugged);
        writer.Bool(12, Carrier);
        writer.Bytes(13, Frame);
        writer.Bool(14, FrameOffload.NeedsChecksum);
        writer.Bool(15, FrameOffload.ChecksumValid);
        writer.UInt64(16, FrameOffload.ChecksumStart);
        writer.UInt64(17, FrameOffload.ChecksumOffset);
        writer.UInt64(18, (ulong)FrameOffload.Segmentation);
        writer.Bool(19, FrameOffload.Ecn);
        writer.UInt64(20, FrameOffload.SegmentSize);
        writer.UInt64(21, FrameOffload.HeaderLength);
    }

    /// <inheritdoc/>
    public static VirtioNetworkState Read(StateReader reader) => new(
        reader.Has(1) ? reader.UInt64(1, maximum: MaximumMac) : null,
        reader.UInt8(2, (byte)ReceiveModes.Promiscuous, (byte)ReceiveModes.All),
        reader.Bytes(3, AddressTable.Capacity * MacAddress.Length),
        reader.Bool(4),
        reader.Bytes(5, AddressTable.Capacity * MacAddress.Length),
        reader.Bool(6),
        reader.UInt64Array(7, ReceiveFilter.Vlans / 64),
        reader.UInt64(8),
        reader.UInt16(9, 1, VirtioNetworkRegisters.MaximumQueuePairs),
        reader.Bool(10),
        reader.Bool(11, true),
        reader.Bool(12, true),
        reader.Bytes(13, VirtioNetworkRegisters.MaximumFrame),
        new FrameOffload
        {
            NeedsChecksum = reader.Bool(14),
            ChecksumValid = reader.Bool(15),
            ChecksumStart = reader.UInt16(16),
            ChecksumOffset = reader.UInt16(17),
            Segmentation = (FrameSegmentation)reader.UInt8(18, maximum: (byte)FrameSegmentation.Udp),
            Ecn = reader.Bool(19),
            SegmentSize = reader.UInt16(20),
            HeaderLength = reader.UInt16(21),
        });
}
