using System.Buffers.Binary;

namespace Lodge.Network.Packets;

/// <summary>Protocols over IPv4 and IPv6 (IANA's protocol numbers) that are looked into, and IPv6's extension headers.</summary>
public enum IpProtocol : byte
{
    /// <summary>IPv6 hop-by-hop options.</summary>
    HopByHop = 0,

    /// <summary>ICMP.</summary>
    Icmp = 1,

    /// <summary>TCP.</summary>
    Tcp = 6,

    /// <summary>UDP.</summary>
    Udp = 17,

    /// <summary>IPv6 routing header.</summary>
    Routing = 43,

    /// <summary>IPv6 fragment header.</summary>
    Fragment = 44,

    /// <summary>Authentication header.</summary>
    Authentication = 51,

    /// <summary>ICMPv6.</summary>
    IcmpV6 = 58,

    /// <summary>Nothing follows.</summary>
    NoNextHeader = 59,

    /// <summary>IPv6 destination options.</summary>
    DestinationOptions = 60,
}

/// <summary>An IPv4 header (RFC 791).</summary>
public readonly record struct Ipv4Header
{
    /// <summary>Bytes of a header without options.</summary>
    public const int MinimumLength = 20;

    /// <summary>Bytes of the header with its options, 20 to 60.</summary>
    public int HeaderLength { get; init; }

    /// <summary>Bytes of header and content.</summary>
    public int TotalLength { get; init; }

    /// <summary>Names the datagram among those of its source, destination and protocol.</summary>
    public ushort Identification { get; init; }

    /// <summary>It may not be fragmented.</summary>
    public bool DontFragment { get; init; }

    /// <summary>More fragments follow.</summary>
    public bool MoreFragments { get; init; }

    /// <summary>Where this fragment's content belongs, in bytes.</summary>
    public int FragmentOffset { get; init; }

    /// <summary>Routers it may still pass.</summary>
    public byte TimeToLive { get; init; }

    /// <summary>Protocol of the content.</summary>
    public IpProtocol Protocol { get; init; }

    /// <summary>From whom.</summary>
    public uint Source { get; init; }

    /// <summary>To whom.</summary>
    public uint Destination { get; init; }

    /// <summary>There is an option that routes by the packet's word (loose or strict source route), or the options are malformed.</summary>
    public bool HasSourceRoute { get; init; }

    /// <summary>It is a part of a datagram.</summary>
    public bool IsFragment => MoreFragments || FragmentOffset != 0;

    /// <summary>Reads a header; false when it is malformed or the packet is longer than the bytes that are there. What follows the packet is padding.</summary>
    public static bool TryParse(ReadOnlySpan<byte> packet, out Ipv4Header header)
    {
        header = default;
        if (packet.Length < MinimumLength || packet[0] >> 4 != 4)
        {
            return false;
        }
        int headerLength = (packet[0] & 15) * 4;
        int total = BinaryPrimitives.ReadUInt16BigEndian(packet[2..]);
        if (headerLength < MinimumLength || total < headerLength || total > packet.Length)
        {
            return false;
        }
        ushort fragment = BinaryPrimitives.ReadUInt16BigEndian(packet[6..]);
        int fragmentOffset = (fragment & 0x1FFF) * 8;
        if (fragmentOffset + total - headerLength > ushort.MaxValue)
        {
            return false;
        }
        header = new()
        {
            HeaderLength = headerLength,
            TotalLength = total,
            Identification = BinaryPrimitives.ReadUInt16BigEndian(packet[4..]),
            DontFragment = (fragment & 0x4000) != 0,
            MoreFragments = (fragment & 0x2000) != 0,
            FragmentOffset = fragmentOffset,
            TimeToLive = packet[8],
            Protocol = (IpProtocol)packet[9],
            Source = BinaryPrimitives.ReadUInt32BigEndian(packet[12..]),
            Destination = BinaryPrimitives.ReadUInt32BigEndian(packet[16..]),
            HasSourceRoute = headerLength != MinimumLength && Routes(packet[MinimumLength..headerLength]),
        };
        return true;
    }

    private static bool Routes(ReadOnlySpan<byte> options)
    {
        const byte end = 0, nothing = 1, looseRoute = 131, strictRoute = 137;
        while (!options.IsEmpty)
        {
            switch (options[0])
            {
                case end:
                    return false;
                case nothing:
                    options = options[1..];
                    continue;
                case looseRoute or strictRoute:
                    return true;
            }
            if (options.Length < 2 || options[1] < 2 || options[1] > options.Length)
            {
                return true;
            }
            options = options[options[1]..];
        }
        return false;
    }
}
