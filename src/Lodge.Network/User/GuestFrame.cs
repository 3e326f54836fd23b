using System.Buffers.Binary;
using Lodge.Network.Packets;

namespace Lodge.Network.User;

/// <summary>
/// Makes a frame of the guest one that libslirp takes. The stack ends the guest's TCP connections, so it takes long segments as they are: nothing has to be segmented, only length and checksum fields
/// set. Fields of a hostile frame lead to a frame that the stack drops.
/// </summary>
internal static class GuestFrame
{
    private const int Ethernet = 14;
    private const ushort TypeIpv4 = 0x0800, TypeIpv6 = 0x86DD;
    private const byte Tcp = 6;

    /// <summary>Completes the frame in place.</summary>
    public static void Complete(Span<byte> frame, in FrameOffload offload)
    {
        if (offload.Segmentation != FrameSegmentation.None)
        {
            CompleteLong(frame);
        }
        else if (offload.NeedsChecksum)
        {
            // A field outside of the frame is nobody's: the stack finds the checksum wrong.
            _ = InternetChecksum.TryComplete(frame, offload.ChecksumStart, offload.ChecksumOffset);
        }
    }

    /// <summary>TCP longer than the MTU: lengths of the whole, and the checksum from nothing, since drivers differ in what they leave in its field.</summary>
    private static void CompleteLong(Span<byte> frame)
    {
        if (frame.Length < Ethernet + 40)
        {
            return;
        }
        Span<byte> packet = frame[Ethernet..];
        Span<byte> tcp;
        uint pseudo;
        switch (BinaryPrimitives.ReadUInt16BigEndian(frame[12..]))
        {
            case TypeIpv4 when packet.Length <= ushort.MaxValue && packet[9] == Tcp:
                int header = (packet[0] & 0xF) * 4;
                if (header < 20 || packet.Length < header + 20)
                {
                    return;
                }
                BinaryPrimitives.WriteUInt16BigEndian(packet[2..], (ushort)packet.Length);
                packet[10..12].Clear();
                BinaryPrimitives.WriteUInt16BigEndian(packet[10..], InternetChecksum.Compute(packet[..header]));
                tcp = packet[header..];
                pseudo = InternetChecksum.Sum(packet[12..20]);
                break;
            case TypeIpv6 when packet.Length - 40 <= ushort.MaxValue && packet[6] == Tcp && packet.Length >= 60:
                BinaryPrimitives.WriteUInt16BigEndian(packet[4..], (ushort)(packet.Length - 40));
                tcp = packet[40..];
                pseudo = InternetChecksum.Sum(packet[8..40]);
                break;
            default:
                return;
        }
        tcp[16..18].Clear();
        pseudo = InternetChecksum.Add(InternetChecksum.Add(pseudo, Tcp), (uint)tcp.Length);
        BinaryPrimitives.WriteUInt16BigEndian(tcp[16..], (ushort)~InternetChecksum.Add(pseudo, InternetChecksum.Sum(tcp)));
    }

    /// <summary>Whether the frame may make the stack open a socket: everything of IP but TCP that goes on.</summary>
    public static bool MayOpenSocket(ReadOnlySpan<byte> frame)
    {
        if (frame.Length < Ethernet + 20)
        {
            return false;
        }
        ReadOnlySpan<byte> packet = frame[Ethernet..];
        (int header, byte protocol) = BinaryPrimitives.ReadUInt16BigEndian(frame[12..]) switch
        {
            TypeIpv4 => ((packet[0] & 0xF) * 4, packet[9]),
            TypeIpv6 => (40, packet[6]),
            _ => (-1, (byte)0),
        };
        const byte SynAck = 0x12, Syn = 0x02;
        return header >= 0 && (protocol != Tcp || packet.Length < header + 14 || (packet[header + 13] & SynAck) == Syn);
    }
}
