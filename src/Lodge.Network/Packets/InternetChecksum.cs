using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Lodge.Network.Packets;

/// <summary>
/// The Internet checksum (RFC 1071): the complement of the one's complement sum of 16-bit words, most significant byte first. A sum here is folded: 0 to 0xFFFF, where
/// both of these stand for zero.
/// </summary>
public static class InternetChecksum
{
    /// <summary>The folded sum of the words of <paramref name="bytes"/>; an odd last byte is followed by a zero.</summary>
    public static uint Sum(ReadOnlySpan<byte> bytes)
    {
        // The sum of byte-swapped words is the byte-swapped sum (RFC 1071, 2B), so the words are added as the host reads them.
        ulong sum = 0;
        ref byte start = ref MemoryMarshal.GetReference(bytes);
        int done = 0;
        while (Vector256.IsHardwareAccelerated && bytes.Length - done >= Vector256<byte>.Count)
        {
            // A lane grows by less than 2^17 a step; 16,384 steps fit 32 bits.
            int end = done + (Math.Min((bytes.Length - done) / Vector256<byte>.Count, 16384) * Vector256<byte>.Count);
            var low = Vector256<uint>.Zero;
            var high = Vector256<uint>.Zero;
            var mask = Vector256.Create(0xFFFFu);
            for (; done < end; done += Vector256<byte>.Count)
            {
                var words = Unsafe.ReadUnaligned<Vector256<uint>>(ref Unsafe.Add(ref start, done));
                low += words & mask;
                high += words >>> 16;
            }
            sum += Total(low.GetLower()) + Total(low.GetUpper()) + Total(high.GetLower()) + Total(high.GetUpper());
        }
        while (Vector128.IsHardwareAccelerated && bytes.Length - done >= Vector128<byte>.Count)
        {
            int end = done + (Math.Min((bytes.Length - done) / Vector128<byte>.Count, 16384) * Vector128<byte>.Count);
            var low = Vector128<uint>.Zero;
            var high = Vector128<uint>.Zero;
            var mask = Vector128.Create(0xFFFFu);
            for (; done < end; done += Vector128<byte>.Count)
            {
                var words = Unsafe.ReadUnaligned<Vector128<uint>>(ref Unsafe.Add(ref start, done));
                low += words & mask;
                high += words >>> 16;
            }
            sum += Total(low) + Total(high);
        }
        for (; bytes.Length - done >= 4; done += 4)
        {
            sum += Unsafe.ReadUnaligned<uint>(ref Unsafe.Add(ref start, done));
        }
        if (bytes.Length - done >= 2)
        {
            sum += Unsafe.ReadUnaligned<ushort>(ref Unsafe.Add(ref start, done));
            done += 2;
        }
        if (done < bytes.Length)
        {
            sum += BitConverter.IsLittleEndian ? bytes[done] : (uint)bytes[done] << 8;
        }
        uint folded = Fold(sum);
        return BitConverter.IsLittleEndian ? BinaryPrimitives.ReverseEndianness((ushort)folded) : folded;
    }

    /// <summary>The folded sum of two sums.</summary>
    public static uint Add(uint sum, uint other) => Fold((ulong)sum + other);

    /// <summary>The checksum of <paramref name="bytes"/>, whose checksum field is zero.</summary>
    public static ushort Compute(ReadOnlySpan<byte> bytes) => (ushort)~Sum(bytes);

    /// <summary>The checksum after one of the words that it covers changed (RFC 1624, equation 3).</summary>
    public static ushort Update(ushort checksum, ushort before, ushort after) =>
        (ushort)~Fold((ulong)(ushort)~checksum + (ushort)~before + after);

    /// <summary>
    /// Completes a partial checksum: the sum from <paramref name="start"/> to the end, the field included, goes into the field at <paramref name="start"/> +
    /// <paramref name="offset"/>. A result of 0 is stored as 0xFFFF, as UDP demands and all others take. False when the field is not inside of the bytes.
    /// </summary>
    public static bool TryComplete(Span<byte> frame, int start, int offset)
    {
        if (start < 0 || offset < 0 || (long)start + offset + 2 > frame.Length)
        {
            return false;
        }
        ushort checksum = Compute(frame[start..]);
        BinaryPrimitives.WriteUInt16BigEndian(frame[(start + offset)..], checksum == 0 ? (ushort)0xFFFF : checksum);
        return true;
    }

    /// <summary>The folded sum of the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1) of a transport packet of that length in an IPv4 or IPv6 frame.</summary>
    public static uint PseudoHeader(ReadOnlySpan<byte> frame, in FrameLayout layout, int length) => Fold(
        (ulong)Sum(layout.Network == NetworkProtocol.Ipv4 ? frame.Slice(layout.NetworkOffset + 12, 8) : frame.Slice(layout.NetworkOffset + 8, 32))
        + (uint)length + (ulong)layout.Protocol);

    /// <summary>Whether the checksum of a TCP, UDP or ICMPv6 packet is right, and for IPv4 that of its header; true for a UDP packet over IPv4 without one. Not for fragments.</summary>
    public static bool IsTransportValid(ReadOnlySpan<byte> frame, in FrameLayout layout)
    {
        if (layout.Network == NetworkProtocol.Ipv4)
        {
            if (Sum(frame[layout.NetworkOffset..layout.TransportOffset]) != 0xFFFF)
            {
                return false;
            }
            if (layout.Protocol == IpProtocol.Udp && layout.End - layout.TransportOffset >= UdpHeader.Length
                && BinaryPrimitives.ReadUInt16BigEndian(frame[(layout.TransportOffset + UdpHeader.ChecksumOffset)..]) == 0)
            {
                return true;
            }
        }
        var transport = frame[layout.TransportOffset..layout.End];
        return Add(PseudoHeader(frame, layout, transport.Length), Sum(transport)) == 0xFFFF;
    }

    private static ulong Total(Vector128<uint> lanes) => (ulong)lanes[0] + lanes[1] + lanes[2] + lanes[3];

    private static uint Fold(ulong sum)
    {
        sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
        sum = (sum & 0xFFFF) + (sum >> 16);
        sum = (sum & 0xFFFF) + (sum >> 16);
        sum = (sum & 0xFFFF) + (sum >> 16);
        return (uint)sum;
    }
}
