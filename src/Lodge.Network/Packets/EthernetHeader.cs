using System.Buffers.Binary;

namespace Lodge.Network.Packets;

/// <summary>Types of Ethernet frames (IEEE 802 numbers). A value below 0x600 is the length of an LLC frame instead.</summary>
public enum EtherType : ushort
{
    /// <summary>IPv4.</summary>
    Ipv4 = 0x0800,

    /// <summary>ARP.</summary>
    Arp = 0x0806,

    /// <summary>Customer VLAN tag, 802.1Q.</summary>
    Vlan = 0x8100,

    /// <summary>IPv6.</summary>
    Ipv6 = 0x86DD,

    /// <summary>Service VLAN tag, 802.1ad.</summary>
    ServiceVlan = 0x88A8,

    /// <summary>Outer tag of QinQ before 802.1ad.</summary>
    OldQinQ = 0x9100,
}

/// <summary>An Ethernet header with up to two VLAN tags.</summary>
public readonly record struct EthernetHeader
{
    /// <summary>Bytes of the header without tags.</summary>
    public const int MinimumLength = 14;

    /// <summary>Most tags that are looked through; the type of a frame with more is that of a tag.</summary>
    public const int MaximumTags = 2;

    /// <summary>Bytes of a tag.</summary>
    public const int TagLength = 4;

    /// <summary>To whom.</summary>
    public MacAddress Destination { get; init; }

    /// <summary>From whom.</summary>
    public MacAddress Source { get; init; }

    /// <summary>Type of the content, behind the tags.</summary>
    public EtherType Type { get; init; }

    /// <summary>Tags before the type.</summary>
    public int TagCount { get; init; }

    /// <summary>VLAN of the outermost tag, 0 to 4095; 0 without.</summary>
    public ushort Vlan { get; init; }

    /// <summary>Bytes of the header and its tags: where the content starts.</summary>
    public int Length => MinimumLength + (TagCount * TagLength);

    /// <summary>Reads a header; false when the frame ends inside of it.</summary>
    public static bool TryParse(ReadOnlySpan<byte> frame, out EthernetHeader header)
    {
        header = default;
        if (frame.Length < MinimumLength)
        {
            return false;
        }
        var type = (EtherType)BinaryPrimitives.ReadUInt16BigEndian(frame[12..]);
        int tags = 0;
        ushort vlan = 0;
        while (tags < MaximumTags && IsTag(type))
        {
            int at = MinimumLength + (tags * TagLength);
            if (frame.Length < at + TagLength)
            {
                return false;
            }
            vlan = tags == 0 ? (ushort)(BinaryPrimitives.ReadUInt16BigEndian(frame[at..]) & 0xFFF) : vlan;
            type = (EtherType)BinaryPrimitives.ReadUInt16BigEndian(frame[(at + 2)..]);
            tags++;
        }
        header = new()
        {
            Destination = MacAddress.Read(frame),
            Source = MacAddress.Read(frame[MacAddress.Length..]),
            Type = type,
            TagCount = tags,
            Vlan = vlan,
        };
        return true;
    }

    /// <summary>Whether a type announces a VLAN tag.</summary>
    public static bool IsTag(EtherType type) => type is EtherType.Vlan or EtherType.ServiceVlan or EtherType.OldQinQ;
}
