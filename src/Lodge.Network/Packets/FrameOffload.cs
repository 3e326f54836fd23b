namespace Lodge.Network.Packets;

/// <summary>Work on frames that is left to the other side.</summary>
[Flags]
public enum OffloadFeatures
{
    /// <summary>Every frame is complete.</summary>
    None = 0,

    /// <summary>The checksum of TCP or UDP is partial; see <see cref="FrameOffload.NeedsChecksum"/>.</summary>
    Checksum = 1 << 0,

    /// <summary>TCP over IPv4 may be longer than the MTU and is to be segmented.</summary>
    TcpV4 = 1 << 1,

    /// <summary>TCP over IPv6 may be longer than the MTU and is to be segmented.</summary>
    TcpV6 = 1 << 2,

    /// <summary>Segmented TCP may have ECN's CWR bit set.</summary>
    TcpEcn = 1 << 3,

    /// <summary>UDP may be longer than the MTU and is to be segmented into datagrams (USO, both IPv4 and IPv6).</summary>
    UdpSegmentation = 1 << 4,
}

/// <summary>How a frame that is longer than the MTU is to be segmented.</summary>
public enum FrameSegmentation : byte
{
    /// <summary>It is one frame.</summary>
    None,

    /// <summary>TCP over IPv4.</summary>
    TcpV4,

    /// <summary>TCP over IPv6.</summary>
    TcpV6,

    /// <summary>UDP, each segment a datagram.</summary>
    Udp,
}

/// <summary>
/// What is left to do on a frame: the content of virtio's packet header (virtio 1.2, 5.1.6) in host terms. From a guest it is hostile: offsets are checked against the
/// frame by whoever uses them.
/// </summary>
public readonly record struct FrameOffload
{
    /// <summary>The checksum field holds the pseudo header's sum only; the sum over the bytes from <see cref="ChecksumStart"/> to the end of the frame goes to <see cref="ChecksumOffset"/> after it.</summary>
    public bool NeedsChecksum { get; init; }

    /// <summary>All checksums of the frame were found right, or it never left this host.</summary>
    public bool ChecksumValid { get; init; }

    /// <summary>First byte of the sum, from the start of the frame.</summary>
    public ushort ChecksumStart { get; init; }

    /// <summary>Place of the 16-bit checksum, from <see cref="ChecksumStart"/>.</summary>
    public ushort ChecksumOffset { get; init; }

    /// <summary>Kind of segmentation.</summary>
    public FrameSegmentation Segmentation { get; init; }

    /// <summary>ECN's CWR bit is set: it goes into the first segment only.</summary>
    public bool Ecn { get; init; }

    /// <summary>Bytes of payload in each segment but the last (gso_size).</summary>
    public ushort SegmentSize { get; init; }

    /// <summary>Bytes of all headers (hdr_len); a hint.</summary>
    public ushort HeaderLength { get; init; }

    /// <summary>What whoever takes the frame must be able to do.</summary>
    public OffloadFeatures Required =>
        (NeedsChecksum || Segmentation != FrameSegmentation.None ? OffloadFeatures.Checksum : OffloadFeatures.None)
        | (Ecn ? OffloadFeatures.TcpEcn : OffloadFeatures.None)
        | Segmentation switch
        {
            FrameSegmentation.None => OffloadFeatures.None,
            FrameSegmentation.TcpV4 => OffloadFeatures.TcpV4,
            FrameSegmentation.TcpV6 => OffloadFeatures.TcpV6,
            _ => OffloadFeatures.UdpSegmentation,
        };
}
