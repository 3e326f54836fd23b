using System.Buffers.Binary;
using Lodge.Network.Packets;

namespace Lodge.Network.Offloads;

/// <summary>
/// Cuts a TCP or UDP packet that is longer than the MTU into packets of the segment size with complete checksums. It keeps the places of the headers only: the frame is given
/// with every call and must be the same.
/// </summary>
public sealed class FrameSegmenter
{
    /// <summary>Smallest segment that is made: what is left of TCP's least MSS of 48 after 40 bytes of options.</summary>
    public const int MinimumSegment = 8;

    /// <summary>Most datagrams of one frame; Linux sends 128 at most.</summary>
    public const int MaximumDatagrams = 512;

    private FrameLayout _layout;
    private int _headers;
    private int _payload;
    private int _segment;

    /// <summary>Frames that come out; 0 before <see cref="TryStart"/>.</summary>
    public int Count { get; private set; }

    /// <summary>Takes a frame. False when it is malformed, a fragment, not of the protocol that <paramref name="offload"/> says, or its segments would be absurdly small or many.</summary>
    public bool TryStart(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        Count = 0;
        FrameLayout.Parse(frame, out _layout);
        int headers = HeaderLength(frame, _layout, offload.Segmentation);
        if (headers == 0 || offload.SegmentSize < MinimumSegment)
        {
            return false;
        }
        int payload = _layout.End - headers;
        int count = Math.Max(1, ((payload - 1) / offload.SegmentSize) + 1);
        if (offload.Segmentation == FrameSegmentation.Udp && count > MaximumDatagrams)
        {
            return false;
        }
        _headers = headers;
        _payload = payload;
        _segment = offload.SegmentSize;
        Count = count;
        return true;
    }

    /// <summary>Writes the frame number <paramref name="index"/>, 0 to <see cref="Count"/> - 1; returns its length, at most that of the whole.</summary>
    public int Write(ReadOnlySpan<byte> frame, int index, Span<byte> destination)
    {
        int from = index * _segment;
        int length = Math.Min(_segment, _payload - from);
        destination = destination[..(_headers + length)];
        frame[.._headers].CopyTo(destination);
        frame.Slice(_headers + from, length).CopyTo(destination[_headers..]);

        int network = _layout.NetworkOffset, start = _layout.TransportOffset;
        var packet = destination[network..];
        if (_layout.Network == NetworkProtocol.Ipv4)
        {
            BinaryPrimitives.WriteUInt16BigEndian(packet[2..], (ushort)packet.Length);
            BinaryPrimitives.WriteUInt16BigEndian(packet[4..], (ushort)(_layout.Ipv4.Identification + index));
            BinaryPrimitives.WriteUInt16BigEndian(packet[10..], 0);
            BinaryPrimitives.WriteUInt16BigEndian(packet[10..], InternetChecksum.Compute(packet[.._layout.Ipv4.HeaderLength]));
        }
        else
        {
            BinaryPrimitives.WriteUInt16BigEndian(packet[4..], (ushort)(packet.Length - Ipv6Header.MinimumLength));
        }

        var transport = destination[start..];
        int checksum;
        if (_layout.Protocol == IpProtocol.Tcp)
        {
            var sequence = transport[TcpHeader.SequenceOffset..];
            BinaryPrimitives.WriteUInt32BigEndian(sequence, BinaryPrimitives.ReadUInt32BigEndian(sequence) + (uint)from);
            var flags = (TcpFlags)transport[TcpHeader.FlagsOffset];
            flags &= index == 0 ? ~TcpFlags.None : ~TcpFlags.Cwr;
            flags &= index == Count - 1 ? ~TcpFlags.None : ~(TcpFlags.Fin | TcpFlags.Psh);
            transport[TcpHeader.FlagsOffset] = (byte)flags;
            checksum = TcpHeader.ChecksumOffset;
        }
        else
        {
            BinaryPrimitives.WriteUInt16BigEndian(transport[UdpHeader.LengthOffset..], (ushort)transport.Length);
            checksum = UdpHeader.ChecksumOffset;
        }
        BinaryPrimitives.WriteUInt16BigEndian(transport[checksum..], (ushort)InternetChecksum.PseudoHeader(destination, _layout, transport.Length));
        InternetChecksum.TryComplete(destination, start, checksum);
        return destination.Length;
    }

    /// <summary>Bytes of all headers of a frame that can be segmented in that way; 0 when it cannot.</summary>
    internal static int HeaderLength(ReadOnlySpan<byte> frame, in FrameLayout layout, FrameSegmentation segmentation)
    {
        if (!layout.IsIp || layout.IsFragment)
        {
            return 0;
        }
        var transport = frame[layout.TransportOffset..layout.End];
        switch (segmentation)
        {
            case FrameSegmentation.TcpV4 when layout.Network == NetworkProtocol.Ipv4 && layout.Protocol == IpProtocol.Tcp:
            case FrameSegmentation.TcpV6 when layout.Network == NetworkProtocol.Ipv6 && layout.Protocol == IpProtocol.Tcp:
                return TcpHeader.TryParse(transport, out var tcp) ? layout.TransportOffset + tcp.HeaderLength : 0;
            case FrameSegmentation.Udp when layout.Protocol == IpProtocol.Udp:
                return transport.Length >= UdpHeader.Length ? layout.TransportOffset + UdpHeader.Length : 0;
            default:
                return 0;
        }
    }
}
