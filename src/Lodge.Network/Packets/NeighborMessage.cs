using System.Buffers.Binary;

namespace Lodge.Network.Packets;

/// <summary>A message of IPv6 neighbor discovery (RFC 4861, 4): types 133 to 137.</summary>
public readonly ref struct NeighborMessage
{
    /// <summary>Option with the sender's link-layer address.</summary>
    public const byte SourceLinkLayerAddress = 1;

    /// <summary>Option with the target's link-layer address.</summary>
    public const byte TargetLinkLayerAddress = 2;

    /// <summary>Option with a prefix of the link.</summary>
    public const byte PrefixInformation = 3;

    private NeighborMessage(IcmpV6Type type, UInt128 target, ReadOnlySpan<byte> options)
    {
        Type = type;
        Target = target;
        Options = options;
    }

    /// <summary>Which.</summary>
    public IcmpV6Type Type { get; }

    /// <summary>Address that a solicitation, an advertisement or a redirect is about.</summary>
    public UInt128 Target { get; }

    /// <summary>The options: type, length in units of 8 bytes with these two, content. All are well formed.</summary>
    public ReadOnlySpan<byte> Options { get; }

    /// <summary>Reads a message; false when it is of another type or malformed.</summary>
    public static bool TryParse(ReadOnlySpan<byte> message, out NeighborMessage parsed)
    {
        parsed = default;
        if (message.Length < 8)
        {
            return false;
        }
        var type = (IcmpV6Type)message[0];
        int fixedLength = type switch
        {
            IcmpV6Type.RouterSolicitation => 8,
            IcmpV6Type.RouterAdvertisement => 16,
            IcmpV6Type.NeighborSolicitation or IcmpV6Type.NeighborAdvertisement => 24,
            IcmpV6Type.Redirect => 40,
            _ => int.MaxValue,
        };
        if (message.Length < fixedLength)
        {
            return false;
        }
        var options = message[fixedLength..];
        for (var rest = options; !rest.IsEmpty; rest = rest[(rest[1] * 8)..])
        {
            if (rest.Length < 8 || rest[1] == 0 || rest[1] * 8 > rest.Length)
            {
                return false;
            }
        }
        var target = fixedLength >= 24 ? BinaryPrimitives.ReadUInt128BigEndian(message[8..]) : UInt128.Zero;
        parsed = new(type, target, options);
        return true;
    }

    /// <summary>Whether every option with a link-layer address has this one.</summary>
    public bool IsAllFrom(MacAddress address)
    {
        for (var rest = Options; !rest.IsEmpty; rest = rest[(rest[1] * 8)..])
        {
            if (rest[0] is SourceLinkLayerAddress or TargetLinkLayerAddress && (rest[1] != 1 || MacAddress.Read(rest[2..]) != address))
            {
                return false;
            }
        }
        return true;
    }

    /// <summary>Whether there is an option of the type.</summary>
    public bool Has(byte type)
    {
        for (var rest = Options; !rest.IsEmpty; rest = rest[(rest[1] * 8)..])
        {
            if (rest[0] == type)
            {
                return true;
            }
        }
        return false;
    }
}
