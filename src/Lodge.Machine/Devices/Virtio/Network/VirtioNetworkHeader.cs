using System.Buffers.Binary;
using Lodge.Network.Packets;

namespace Lodge.Machine.Devices.Virtio.Network;

/// <summary>The packet header before each frame (struct virtio_net_hdr; virtio 1.2, 5.1.6): 12 bytes, always with num_buffers.</summary>
internal static class VirtioNetworkHeader
{
    /// <summary>Bytes of the header.</summary>
    public const int Length = 12;

    private const int FlagsAt = 0;              // u8
    private const int SegmentationAt = 1;       // u8, gso_type
    private const int HeaderLengthAt = 2;       // le16, hdr_len
    private const int SegmentSizeAt = 4;        // le16, gso_size
    private const int ChecksumStartAt = 6;      // le16, csum_start
    private const int ChecksumOffsetAt = 8;     // le16, csum_offset
    private const int BuffersAt = 10;           // le16, num_buffers

    private const byte FlagNeedsChecksum = 1;   // VIRTIO_NET_HDR_F_NEEDS_CSUM
    private const byte FlagDataValid = 2;       // VIRTIO_NET_HDR_F_DATA_VALID

    private const byte SegmentationNone = 0;    // VIRTIO_NET_HDR_GSO_*
    private const byte SegmentationTcpV4 = 1;
    private const byte SegmentationTcpV6 = 4;
    private const byte SegmentationUdp = 5;     // VIRTIO_NET_HDR_GSO_UDP_L4
    private const byte SegmentationEcn = 0x80;

    /// <summary>An Ethernet and an IPv4 header without options lie before any checksum of TCP or UDP: what a filter reads there never changes afterwards.</summary>
    private const int FirstChecksumStart = VirtioNetworkRegisters.EthernetHeader + 20;

    /// <summary>
    /// Takes the header of a frame that the driver sends. False when it asks for something that was not negotiated, or that the frame has no room for.
    /// </summary>
    /// <param name="header">The header.</param>
    /// <param name="features">Negotiated features.</param>
    /// <param name="frameLength">Bytes of the frame.</param>
    /// <param name="offload">What is left to do on the frame.</param>
    public static bool TryRead(ReadOnlySpan<byte> header, ulong features, int frameLength, out FrameOffload offload)
    {
        offload = default;
        bool needsChecksum = (header[FlagsAt] & FlagNeedsChecksum) != 0;
        byte type = header[SegmentationAt];
        if (!needsChecksum && type == SegmentationNone)
        {
            return true;
        }
        ushort start = BinaryPrimitives.ReadUInt16LittleEndian(header[ChecksumStartAt..]);
        ushort offset = BinaryPrimitives.ReadUInt16LittleEndian(header[ChecksumOffsetAt..]);
        if (!needsChecksum || (features & VirtioNetworkRegisters.FeatureChecksum) == 0 || !ChecksumFits(start, offset, frameLength))
        {
            return false;       // segmentation needs the checksum too (5.1.6.2.1)
        }
        FrameSegmentation segmentation = FrameSegmentation.None;
        ushort size = 0;
        bool ecn = (type & SegmentationEcn) != 0;
        if (type != SegmentationNone)
        {
            size = BinaryPrimitives.ReadUInt16LittleEndian(header[SegmentSizeAt..]);
            (segmentation, ulong needed) = (type & ~SegmentationEcn) switch
            {
                SegmentationTcpV4 => (FrameSegmentation.TcpV4, VirtioNetworkRegisters.FeatureHostTso4),
                SegmentationTcpV6 => (FrameSegmentation.TcpV6, VirtioNetworkRegisters.FeatureHostTso6),
                SegmentationUdp when !ecn => (FrameSegmentation.Udp, VirtioNetworkRegisters.FeatureHostUso),
                _ => (FrameSegmentation.None, 0UL),
            };
            needed |= ecn ? VirtioNetworkRegisters.FeatureHostEcn : 0;
            if (segmentation == FrameSegmentation.None || size == 0 || (features & needed) != needed)
            {
                return false;
            }
        }
        offload = new FrameOffload
        {
            NeedsChecksum = true,
            ChecksumStart = start,
            ChecksumOffset = offset,
            Segmentation = segmentation,
            Ecn = ecn,
            SegmentSize = size,
            HeaderLength = (ushort)Math.Min(BinaryPrimitives.ReadUInt16LittleEndian(header[HeaderLengthAt..]), frameLength),
        };
        return true;
    }

    /// <summary>Writes the header of a frame that the driver receives.</summary>
    /// <param name="header">Place for it.</param>
    /// <param name="offload">What is left to do on the frame; already found to be what the driver accepts.</param>
    /// <param name="mayTellValid">Whether the driver understands that checksums are right (VIRTIO_NET_F_GUEST_CSUM).</param>
    public static void Write(Span<byte> header, in FrameOffload offload, bool mayTellValid)
    {
        header[..Length].Clear();
        BinaryPrimitives.WriteUInt16LittleEndian(header[BuffersAt..], 1);
        if (!offload.NeedsChecksum)
        {
            header[FlagsAt] = offload.ChecksumValid && mayTellValid ? FlagDataValid : (byte)0;
            return;
        }
        header[FlagsAt] = FlagNeedsChecksum;
        BinaryPrimitives.WriteUInt16LittleEndian(header[ChecksumStartAt..], offload.ChecksumStart);
        BinaryPrimitives.WriteUInt16LittleEndian(header[ChecksumOffsetAt..], offload.ChecksumOffset);
        if (offload.Segmentation == FrameSegmentation.None)
        {
            return;
        }
        byte type = offload.Segmentation switch
        {
            FrameSegmentation.TcpV4 => SegmentationTcpV4,
            FrameSegmentation.TcpV6 => SegmentationTcpV6,
            _ => SegmentationUdp,
        };
        header[SegmentationAt] = (byte)(type | (offload.Ecn ? SegmentationEcn : 0));
        BinaryPrimitives.WriteUInt16LittleEndian(header[HeaderLengthAt..], offload.HeaderLength);
        BinaryPrimitives.WriteUInt16LittleEndian(header[SegmentSizeAt..], offload.SegmentSize);
    }

    /// <summary>Sets the number of buffers that hold the frame.</summary>
    public static void WriteBuffers(Span<byte> header, int count) => BinaryPrimitives.WriteUInt16LittleEndian(header[BuffersAt..], (ushort)count);

    /// <summary>
    /// Whether a frame may be handed to a driver that accepts <paramref name="accepted"/>: the link promises it, and this keeps it also for what another machine
    /// or a saved state put there.
    /// </summary>
    public static bool IsAccepted(in FrameOffload offload, OffloadFeatures accepted, int frameLength)
    {
        if (!offload.NeedsChecksum)
        {
            return offload.Segmentation == FrameSegmentation.None;
        }
        return (offload.Required & ~accepted) == 0
            && (offload.Segmentation == FrameSegmentation.None || offload.SegmentSize != 0)
            && ChecksumFits(offload.ChecksumStart, offload.ChecksumOffset, frameLength);
    }

    private static bool ChecksumFits(int start, int offset, int frameLength) =>
        start >= FirstChecksumStart && start + offset + sizeof(ushort) <= frameLength;
}
