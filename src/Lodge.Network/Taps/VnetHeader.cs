using System.Buffers.Binary;
using Lodge.Network.Packets;

namespace Lodge.Network.Taps;

/// <summary>
/// The header before each packet of a tap with IFF_VNET_HDR: struct virtio_net_hdr_v1 (virtio 1.2, 5.1.6, linux/virtio_net.h) in the host's byte order. With a VLAN
/// tag that only the tap's side sees, its offsets are those of the tagged frame.
/// </summary>
internal static class VnetHeader
{
    /// <summary>Bytes: the last two are num_buffers, which a tap does not use.</summary>
    public const int Length = 12;

    private const byte FlagNeedsChecksum = 1, FlagDataValid = 2;
    private const byte SegmentTcpV4 = 1, SegmentTcpV6 = 4, SegmentUdp = 5, SegmentEcn = 0x80;

    /// <summary>Writes the header of a frame that gets <paramref name="tag"/> more bytes after its addresses.</summary>
    public static void Write(Span<byte> header, in FrameOffload offload, int tag)
    {
        header.Clear();
        header[0] = (byte)((offload.NeedsChecksum ? FlagNeedsChecksum : 0) | (offload.ChecksumValid ? FlagDataValid : 0));
        if (offload.Segmentation != FrameSegmentation.None)
        {
            header[1] = (byte)(offload.Segmentation switch
            {
                FrameSegmentation.TcpV4 => SegmentTcpV4,
                FrameSegmentation.TcpV6 => SegmentTcpV6,
                _ => SegmentUdp,
            } | (offload.Ecn ? SegmentEcn : 0));
            BinaryPrimitives.WriteUInt16LittleEndian(header[2..], Add(offload.HeaderLength, offload.HeaderLength == 0 ? 0 : tag));
            BinaryPrimitives.WriteUInt16LittleEndian(header[4..], offload.SegmentSize);
        }
        if (offload.NeedsChecksum)
        {
            BinaryPrimitives.WriteUInt16LittleEndian(header[6..], Add(offload.ChecksumStart, tag));
            BinaryPrimitives.WriteUInt16LittleEndian(header[8..], offload.ChecksumOffset);
        }
    }

    /// <summary>Reads the header of a frame that lost <paramref name="tag"/> bytes after its addresses. False when it has a segmentation that is not known here.</summary>
    public static bool TryRead(ReadOnlySpan<byte> header, int tag, out FrameOffload offload)
    {
        FrameSegmentation segmentation = (header[1] & ~SegmentEcn) switch
        {
            0 => FrameSegmentation.None,
            SegmentTcpV4 => FrameSegmentation.TcpV4,
            SegmentTcpV6 => FrameSegmentation.TcpV6,
            SegmentUdp => FrameSegmentation.Udp,
            _ => (FrameSegmentation)byte.MaxValue,
        };
        offload = default;
        if (segmentation == (FrameSegmentation)byte.MaxValue)
        {
            return false;
        }
        bool partial = (header[0] & FlagNeedsChecksum) != 0;
        offload = new()
        {
            NeedsChecksum = partial,
            ChecksumValid = (header[0] & FlagDataValid) != 0,
            ChecksumStart = partial ? Subtract(BinaryPrimitives.ReadUInt16LittleEndian(header[6..]), tag) : default,
            ChecksumOffset = partial ? BinaryPrimitives.ReadUInt16LittleEndian(header[8..]) : default,
            Segmentation = segmentation,
            Ecn = segmentation != FrameSegmentation.None && (header[1] & SegmentEcn) != 0,
            SegmentSize = segmentation != FrameSegmentation.None ? BinaryPrimitives.ReadUInt16LittleEndian(header[4..]) : default,
            HeaderLength = segmentation != FrameSegmentation.None ? Subtract(BinaryPrimitives.ReadUInt16LittleEndian(header[2..]), tag) : default,
        };
        return true;
    }

    /// <summary>What a receiver must accept to take a frame.</summary>
    public static OffloadFeatures Needs(in FrameOffload offload)
    {
        OffloadFeatures needs = offload.NeedsChecksum ? OffloadFeatures.Checksum : OffloadFeatures.None;
        needs |= offload.Segmentation switch
        {
            FrameSegmentation.TcpV4 => OffloadFeatures.TcpV4,
            FrameSegmentation.TcpV6 => OffloadFeatures.TcpV6,
            FrameSegmentation.Udp => OffloadFeatures.UdpSegmentation,
            _ => OffloadFeatures.None,
        };
        return offload.Ecn ? needs | OffloadFeatures.TcpEcn : needs;
    }

    private static ushort Add(ushort value, int tag) => (ushort)Math.Min(value + tag, ushort.MaxValue); // what is beyond the frame the kernel refuses

    private static ushort Subtract(ushort value, int tag) => (ushort)Math.Max(value - tag, 0);
}
