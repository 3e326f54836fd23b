using System.Buffers.Binary;

namespace Lodge.Network.Packets;

/// <summary>An ARP packet for IPv4 over Ethernet (RFC 826).</summary>
public readonly record struct ArpPacket
{
    /// <summary>Bytes of the packet.</summary>
    public const int Length = 28;

    /// <summary>ares_op$REQUEST.</summary>
    public const ushort Request = 1;

    /// <summary>ares_op$REPLY.</summary>
    public const ushort Reply = 2;

    /// <summary>What it does.</summary>
    public ushort Operation { get; init; }

    /// <summary>Who says it.</summary>
    public MacAddress SenderMac { get; init; }

    /// <summary>The IPv4 address that the sender has by its word, 0 in a probe (RFC 5227).</summary>
    public uint SenderAddress { get; init; }

    /// <summary>Whom it concerns.</summary>
    public MacAddress TargetMac { get; init; }

    /// <summary>The IPv4 address it concerns.</summary>
    public uint TargetAddress { get; init; }

    /// <summary>Reads a packet; false when it is short, or of other hardware or protocols.</summary>
    public static bool TryParse(ReadOnlySpan<byte> packet, out ArpPacket arp)
    {
        arp = default;
        if (packet.Length < Length || BinaryPrimitives.ReadUInt16BigEndian(packet) != 1 || BinaryPrimitives.ReadUInt16BigEndian(packet[2..]) != (ushort)EtherType.Ipv4
            || packet[4] != MacAddress.Length || packet[5] != 4)
        {
            return false;
        }
        arp = new()
        {
            Operation = BinaryPrimitives.ReadUInt16BigEndian(packet[6..]),
            SenderMac = MacAddress.Read(packet[8..]),
            SenderAddress = BinaryPrimitives.ReadUInt32BigEndian(packet[14..]),
            TargetMac = MacAddress.Read(packet[18..]),
            TargetAddress = BinaryPrimitives.ReadUInt32BigEndian(packet[24..]),
        };
        return true;
    }
}
