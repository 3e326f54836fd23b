using System.Buffers.Binary;
using Lodge.Network.Packets;

namespace Lodge.Network.User;

/// <summary>
/// Fragments IPv4 packets (RFC 791, 3.2) that are no TCP. The network's MTU may be larger than that of a guest whose driver does not ask for it, and TCP agrees upon a segment size, but
/// a datagram from outside would be lost.
/// </summary>
internal static class Ipv4Fragments
{
    private const int Ethernet = 14;

    /// <summary>Takes one fragment, a whole frame.</summary>
    public delegate void Taker(ReadOnlySpan<byte> frame);

    /// <summary>Whether a frame is to be fragmented for an MTU.</summary>
    public static bool IsNeeded(ReadOnlySpan<byte> frame, int mtu) =>
        frame.Length > Ethernet + mtu && frame[12] == 0x08 && frame[13] == 0x00 && frame[Ethernet + 9] != 6 && HeaderLength(frame) is >= 20 and <= 60;

    /// <summary>Fragments a frame.</summary>
    public static void Split(ReadOnlySpan<byte> frame, int mtu, Taker taker)
    {
        int header = HeaderLength(frame);
        ReadOnlySpan<byte> data = frame[(Ethernet + header)..];
        int most = (mtu - header) & ~7;
        ushort word = BinaryPrimitives.ReadUInt16BigEndian(frame[(Ethernet + 6)..]);
        Span<byte> fragment = new byte[Ethernet + header + most];
        frame[..(Ethernet + header)].CopyTo(fragment);
        for (int at = 0; at < data.Length; at += most)
        {
            int length = Math.Min(most, data.Length - at);
            bool more = at + length < data.Length || (word & 0x2000) != 0;
            Span<byte> ip = fragment[Ethernet..];
            BinaryPrimitives.WriteUInt16BigEndian(ip[2..], (ushort)(header + length));
            BinaryPrimitives.WriteUInt16BigEndian(ip[6..], (ushort)(((word & 0x1FFF) + (at >> 3)) | (more ? 0x2000 : 0)));
            ip[10..12].Clear();
            BinaryPrimitives.WriteUInt16BigEndian(ip[10..], InternetChecksum.Compute(ip[..header]));
            data.Slice(at, length).CopyTo(ip[header..]);
            taker(fragment[..(Ethernet + header + length)]);
        }
    }

    private static int HeaderLength(ReadOnlySpan<byte> frame) => (frame[Ethernet] & 0xF) * 4;
}
