using System.Buffers.Binary;

namespace Lodge.Network.Packets;

/// <summary>A UDP header (RFC 768).</summary>
public readonly record struct UdpHeader
{
    /// <summary>Bytes of the header.</summary>
    public const int Length = 8;

    /// <summary>Place of the length.</summary>
    public const int LengthOffset = 4;

    /// <summary>Place of the checksum.</summary>
    public const int ChecksumOffset = 6;

    /// <summary>Port of the sender.</summary>
    public ushort SourcePort { get; init; }

    /// <summary>Port of the receiver.</summary>
    public ushort DestinationPort { get; init; }

    /// <summary>Bytes of header and data as the header says; in a first fragment more than are there.</summary>
    public int DatagramLength { get; init; }

    /// <summary>Reads a header; false when it is not all there.</summary>
    public static bool TryParse(ReadOnlySpan<byte> datagram, out UdpHeader header)
    {
        header = default;
        if (datagram.Length < Length)
        {
            return false;
        }
        header = new()
        {
            SourcePort = BinaryPrimitives.ReadUInt16BigEndian(datagram),
            DestinationPort = BinaryPrimitives.ReadUInt16BigEndian(datagram[2..]),
            DatagramLength = BinaryPrimitives.ReadUInt16BigEndian(datagram[LengthOffset..]),
        };
        return header.DatagramLength >= Length;
    }
}
