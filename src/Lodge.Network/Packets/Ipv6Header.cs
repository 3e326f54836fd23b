using System.Buffers.Binary;

namespace Lodge.Network.Packets;

/// <summary>An IPv6 header with its extension headers (RFC 8200), of which at most <see cref="MaximumExtensions"/> are looked through.</summary>
public readonly record struct Ipv6Header
{
    /// <summary>Bytes of the fixed header.</summary>
    public const int MinimumLength = 40;

    /// <summary>Most extension headers of a packet that counts as well formed.</summary>
    public const int MaximumExtensions = 8;

    /// <summary>Bytes of the header and the extension headers that were looked through.</summary>
    public int HeaderLength { get; init; }

    /// <summary>Bytes of headers and content.</summary>
    public int TotalLength { get; init; }

    /// <summary>Protocol behind the extension headers; in a fragment that is not the first, what its fragment header says.</summary>
    public IpProtocol Protocol { get; init; }

    /// <summary>Routers it may still pass.</summary>
    public byte HopLimit { get; init; }

    /// <summary>From whom.</summary>
    public UInt128 Source { get; init; }

    /// <summary>To whom.</summary>
    public UInt128 Destination { get; init; }

    /// <summary>There is a fragment header; the packet may be whole nevertheless (RFC 6946).</summary>
    public bool HasFragmentHeader { get; init; }

    /// <summary>More fragments follow.</summary>
    public bool MoreFragments { get; init; }

    /// <summary>Where this fragment's content belongs, in bytes.</summary>
    public int FragmentOffset { get; init; }

    /// <summary>Bytes of the headers to the end of the fragment header: where the part starts that offsets count from; 0 without one.</summary>
    public int FragmentStart { get; init; }

    /// <summary>Names the datagram among those of its source and destination.</summary>
    public uint Identification { get; init; }

    /// <summary>An extension header gives the packet another way or origin than the addresses: a routing header with segments left or of type 0 (RFC 5095), a home address option (RFC 6275).</summary>
    public bool HasSourceRoute { get; init; }

    /// <summary>Reads a header; false when it is malformed, has too many extension headers, or the packet is longer than the bytes that are there. What follows the packet is padding.</summary>
    public static bool TryParse(ReadOnlySpan<byte> packet, out Ipv6Header header)
    {
        header = default;
        if (packet.Length < MinimumLength || packet[0] >> 4 != 6)
        {
            return false;
        }
        int total = MinimumLength + BinaryPrimitives.ReadUInt16BigEndian(packet[4..]);
        if (total > packet.Length)
        {
            return false;
        }
        int at = MinimumLength;
        var next = (IpProtocol)packet[6];
        bool routed = false, hasFragment = false, more = false;
        int fragmentOffset = 0, fragmentStart = 0;
        uint identification = 0;
        for (int extensions = 0; IsExtension(next); extensions++)
        {
            if (extensions == MaximumExtensions || total - at < 8 || (next == IpProtocol.HopByHop && extensions != 0))
            {
                return false;
            }
            var extension = packet[at..total];
            int length = next switch
            {
                IpProtocol.Fragment => 8,
                IpProtocol.Authentication => (extension[1] + 2) * 4,
                _ => (extension[1] + 1) * 8,
            };
            if (length > extension.Length)
            {
                return false;
            }
            extension = extension[..length];
            switch (next)
            {
                case IpProtocol.Routing:
                    routed |= extension[2] == 0 || extension[3] != 0;
                    break;
                case IpProtocol.HopByHop or IpProtocol.DestinationOptions:
                    if (!TryReadOptions(extension[2..], ref routed))
                    {
                        return false;
                    }
                    break;
                case IpProtocol.Fragment:
                    if (hasFragment)
                    {
                        return false;
                    }
                    hasFragment = true;
                    fragmentStart = at + length;
                    ushort word = BinaryPrimitives.ReadUInt16BigEndian(extension[2..]);
                    fragmentOffset = word & 0xFFF8;
                    more = (word & 1) != 0;
                    identification = BinaryPrimitives.ReadUInt32BigEndian(extension[4..]);
                    break;
            }
            bool isFragment = next == IpProtocol.Fragment;
            next = (IpProtocol)extension[0];
            at += length;
            if (isFragment && fragmentOffset != 0)
            {
                if (fragmentOffset + total - at > ushort.MaxValue)
                {
                    return false;
                }
                break;
            }
        }
        header = new()
        {
            HeaderLength = at,
            TotalLength = total,
            Protocol = next,
            HopLimit = packet[7],
            Source = BinaryPrimitives.ReadUInt128BigEndian(packet[8..]),
            Destination = BinaryPrimitives.ReadUInt128BigEndian(packet[24..]),
            HasFragmentHeader = hasFragment,
            MoreFragments = more,
            FragmentOffset = fragmentOffset,
            FragmentStart = fragmentStart,
            Identification = identification,
            HasSourceRoute = routed,
        };
        return true;
    }

    private static bool IsExtension(IpProtocol protocol) => protocol is IpProtocol.HopByHop or IpProtocol.Routing or IpProtocol.Fragment
        or IpProtocol.Authentication or IpProtocol.DestinationOptions;

    private static bool TryReadOptions(ReadOnlySpan<byte> options, ref bool routed)
    {
        const byte pad1 = 0, jumbo = 0xC2, homeAddress = 0xC9;
        while (!options.IsEmpty)
        {
            byte type = options[0];
            if (type == pad1)
            {
                options = options[1..];
                continue;
            }
            if (type == jumbo || options.Length < 2 || options.Length < options[1] + 2)
            {
                return false;
            }
            routed |= type == homeAddress;
            options = options[(options[1] + 2)..];
        }
        return true;
    }
}
