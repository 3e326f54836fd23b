using System.Buffers.Binary;

namespace Lodge.Network.Packets;

/// <summary>Types of ICMP (RFC 792) that are told apart.</summary>
public enum IcmpType : byte
{
    /// <summary>Answer to an echo request.</summary>
    EchoReply = 0,

    /// <summary>Destination unreachable: an error about the packet inside.</summary>
    Unreachable = 3,

    /// <summary>Source quench.</summary>
    SourceQuench = 4,

    /// <summary>Sends the receiver to another router.</summary>
    Redirect = 5,

    /// <summary>Ping.</summary>
    Echo = 8,

    /// <summary>A router says that it is one (RFC 1256).</summary>
    RouterAdvertisement = 9,

    /// <summary>Too many hops.</summary>
    TimeExceeded = 11,

    /// <summary>A field is wrong.</summary>
    ParameterProblem = 12,
}

/// <summary>Types of ICMPv6 (RFC 4443, 4861, 2710, 3810) that are told apart.</summary>
public enum IcmpV6Type : byte
{
    /// <summary>Destination unreachable: the first of the errors about the packet inside.</summary>
    Unreachable = 1,

    /// <summary>Parameter problem: the last of them.</summary>
    ParameterProblem = 4,

    /// <summary>Ping.</summary>
    Echo = 128,

    /// <summary>Answer to it.</summary>
    EchoReply = 129,

    /// <summary>Multicast listener query.</summary>
    ListenerQuery = 130,

    /// <summary>Multicast listener report.</summary>
    ListenerReport = 131,

    /// <summary>Multicast listener done.</summary>
    ListenerDone = 132,

    /// <summary>Asks for routers.</summary>
    RouterSolicitation = 133,

    /// <summary>A router says that it is one.</summary>
    RouterAdvertisement = 134,

    /// <summary>Asks for the link-layer address of an address.</summary>
    NeighborSolicitation = 135,

    /// <summary>Says it.</summary>
    NeighborAdvertisement = 136,

    /// <summary>Sends the receiver to another router.</summary>
    Redirect = 137,

    /// <summary>Version 2 multicast listener report.</summary>
    ListenerReport2 = 143,
}

/// <summary>The first bytes of ICMP and ICMPv6.</summary>
public readonly record struct IcmpHeader
{
    /// <summary>Bytes that all messages have.</summary>
    public const int Length = 8;

    /// <summary>Place of the checksum.</summary>
    public const int ChecksumOffset = 2;

    /// <summary>Type: an <see cref="IcmpType"/> or <see cref="IcmpV6Type"/>.</summary>
    public byte Type { get; init; }

    /// <summary>What exactly.</summary>
    public byte Code { get; init; }

    /// <summary>Identifier of an echo; otherwise without meaning.</summary>
    public ushort Identifier { get; init; }

    /// <summary>Reads a header; false when it is not all there.</summary>
    public static bool TryParse(ReadOnlySpan<byte> message, out IcmpHeader header)
    {
        header = default;
        if (message.Length < Length)
        {
            return false;
        }
        header = new() { Type = message[0], Code = message[1], Identifier = BinaryPrimitives.ReadUInt16BigEndian(message[4..]) };
        return true;
    }
}
