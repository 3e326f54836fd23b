using System.Buffers.Binary;
using Lodge.Network.Packets;

namespace Lodge.Network.Offloads;

/// <summary>
/// Puts consecutive TCP segments of one connection together again, so that a guest handles one large frame. What comes out would be cut into the very same
/// segments: all headers are equal but for lengths, checksums and sequence numbers, IPv4 identifications go up by one (or are without meaning, as all are that may
/// not be fragmented: RFC 6864), and the payloads are of one size, the last at most of it.
/// </summary>
public sealed class SegmentMerger
{
    private FrameLayout _layout;
    private int _headers;
    private int _segment;
    private int _end;
    private int _count;
    private uint _nextSequence;
    private bool _complete;

    /// <summary>Takes a first segment, whose checksums are known to be right; false when it can have none after it.</summary>
    public bool TryStart(ReadOnlySpan<byte> frame, in FrameLayout layout)
    {
        if (!TryParse(frame, layout, out var tcp) || (tcp.Flags & ~TcpFlags.Ece) != TcpFlags.Ack)
        {
            return false;
        }
        _layout = layout;
        _headers = layout.TransportOffset + tcp.HeaderLength;
        _end = layout.End;
        _segment = _end - _headers;
        _nextSequence = tcp.Sequence + (uint)_segment;
        _count = 1;
        _complete = false;
        return true;
    }

    /// <summary>Appends a segment, whose checksums are known to be right, to the frame in <paramref name="merged"/>; false when it does not continue it.</summary>
    public bool TryAppend(Span<byte> merged, ReadOnlySpan<byte> frame, in FrameLayout layout)
    {
        int payload = layout.End - _headers;
        if (_complete || payload > _segment || _end + payload - _layout.NetworkOffset > ushort.MaxValue || _end + payload > merged.Length
            || !TryParse(frame, layout, out var tcp) || tcp.Sequence != _nextSequence || layout.TransportOffset + tcp.HeaderLength != _headers
            || !HasSameHeaders(merged, frame, layout))
        {
            return false;
        }
        frame[_headers..layout.End].CopyTo(merged[_end..]);
        merged[_layout.TransportOffset + TcpHeader.FlagsOffset] |= (byte)(tcp.Flags & TcpFlags.Psh);
        _end += payload;
        _nextSequence += (uint)payload;
        _count++;
        _complete = payload < _segment || (tcp.Flags & TcpFlags.Psh) != 0;
        return true;
    }

    /// <summary>Writes the lengths and partial checksums of what was appended. Returns the frame's length.</summary>
    public int Finish(Span<byte> merged, out FrameOffload offload)
    {
        if (_count == 1)
        {
            offload = new() { ChecksumValid = true };
            return _end;
        }
        int network = _layout.NetworkOffset, start = _layout.TransportOffset;
        bool isIpv4 = _layout.Network == NetworkProtocol.Ipv4;
        var packet = merged[network.._end];
        if (isIpv4)
        {
            BinaryPrimitives.WriteUInt16BigEndian(packet[2..], (ushort)packet.Length);
            BinaryPrimitives.WriteUInt16BigEndian(packet[10..], 0);
            BinaryPrimitives.WriteUInt16BigEndian(packet[10..], InternetChecksum.Compute(packet[..Ipv4Header.MinimumLength]));
        }
        else
        {
            BinaryPrimitives.WriteUInt16BigEndian(packet[4..], (ushort)(packet.Length - Ipv6Header.MinimumLength));
        }
        BinaryPrimitives.WriteUInt16BigEndian(merged[(start + TcpHeader.ChecksumOffset)..], (ushort)InternetChecksum.PseudoHeader(merged, _layout, _end - start));
        offload = new()
        {
            NeedsChecksum = true,
            ChecksumStart = (ushort)start,
            ChecksumOffset = TcpHeader.ChecksumOffset,
            Segmentation = isIpv4 ? FrameSegmentation.TcpV4 : FrameSegmentation.TcpV6,
            SegmentSize = (ushort)_segment,
            HeaderLength = (ushort)_headers,
        };
        return _end;
    }

    private static bool TryParse(ReadOnlySpan<byte> frame, in FrameLayout layout, out TcpHeader tcp)
    {
        tcp = default;
        return layout.IsIp && layout.Protocol == IpProtocol.Tcp && !layout.IsFragment
            && layout.TransportOffset - layout.NetworkOffset == (layout.Network == NetworkProtocol.Ipv4 ? Ipv4Header.MinimumLength : Ipv6Header.MinimumLength)
            && TcpHeader.TryParse(frame[layout.TransportOffset..layout.End], out tcp)
            && layout.End - layout.TransportOffset - tcp.HeaderLength >= FrameSegmenter.MinimumSegment;
    }

    private bool HasSameHeaders(ReadOnlySpan<byte> merged, ReadOnlySpan<byte> frame, in FrameLayout layout)
    {
        int network = _layout.NetworkOffset, start = _layout.TransportOffset;
        if (layout.Network != _layout.Network || !frame[..network].SequenceEqual(merged[..network]))
        {
            return false;
        }
        var here = frame[network..start];
        var there = merged[network..start];
        if (layout.Network == NetworkProtocol.Ipv4)
        {
            if ((layout.Ipv4.Identification != (ushort)(_layout.Ipv4.Identification + _count) && !layout.Ipv4.DontFragment)
                || !here[..2].SequenceEqual(there[..2]) || !here[6..10].SequenceEqual(there[6..10]) || !here[12..].SequenceEqual(there[12..]))
            {
                return false;
            }
        }
        else if (!here[..4].SequenceEqual(there[..4]) || !here[6..].SequenceEqual(there[6..]))
        {
            return false;
        }
        here = frame[start.._headers];
        there = merged[start.._headers];
        const int flags = TcpHeader.FlagsOffset, checksum = TcpHeader.ChecksumOffset;
        return here[..TcpHeader.SequenceOffset].SequenceEqual(there[..TcpHeader.SequenceOffset])
            && here[(TcpHeader.SequenceOffset + 4)..flags].SequenceEqual(there[(TcpHeader.SequenceOffset + 4)..flags])
            && (here[flags] & ~(byte)TcpFlags.Psh) == there[flags]
            && here[(flags + 1)..checksum].SequenceEqual(there[(flags + 1)..checksum])
            && here[(checksum + 2)..].SequenceEqual(there[(checksum + 2)..]);
    }
}
