using System.Buffers.Binary;

namespace Lodge.Network.Packets;

/// <summary>Control bits of TCP (RFC 9293, 3.1; RFC 3168).</summary>
[Flags]
public enum TcpFlags : byte
{
    /// <summary>None.</summary>
    None = 0,

    /// <summary>No more data from the sender.</summary>
    Fin = 1,

    /// <summary>Opens a connection.</summary>
    Syn = 2,

    /// <summary>Ends it at once.</summary>
    Rst = 4,

    /// <summary>The receiver is to hand on what it has.</summary>
    Psh = 8,

    /// <summary>The acknowledgement counts.</summary>
    Ack = 16,

    /// <summary>The urgent pointer counts.</summary>
    Urg = 32,

    /// <summary>Congestion was seen.</summary>
    Ece = 64,

    /// <summary>The congestion window was reduced.</summary>
    Cwr = 128,
}

/// <summary>A TCP header (RFC 9293, 3.1).</summary>
public readonly record struct TcpHeader
{
    /// <summary>Bytes of a header without options.</summary>
    public const int MinimumLength = 20;

    /// <summary>Place of the sequence number.</summary>
    public const int SequenceOffset = 4;

    /// <summary>Place of the control bits.</summary>
    public const int FlagsOffset = 13;

    /// <summary>Place of the checksum.</summary>
    public const int ChecksumOffset = 16;

    /// <summary>Port of the sender.</summary>
    public ushort SourcePort { get; init; }

    /// <summary>Port of the receiver.</summary>
    public ushort DestinationPort { get; init; }

    /// <summary>Number of the first byte of data.</summary>
    public uint Sequence { get; init; }

    /// <summary>Number of the next byte that the sender expects.</summary>
    public uint Acknowledgement { get; init; }

    /// <summary>Bytes of the header with its options, 20 to 60.</summary>
    public int HeaderLength { get; init; }

    /// <summary>Control bits.</summary>
    public TcpFlags Flags { get; init; }

    /// <summary>Reads a header; false when it is malformed or not all there.</summary>
    public static bool TryParse(ReadOnlySpan<byte> segment, out TcpHeader header)
    {
        header = default;
        if (segment.Length < MinimumLength)
        {
            return false;
        }
        int length = (segment[12] >> 4) * 4;
        if (length < MinimumLength || length > segment.Length)
        {
            return false;
        }
        header = new()
        {
            SourcePort = BinaryPrimitives.ReadUInt16BigEndian(segment),
            DestinationPort = BinaryPrimitives.ReadUInt16BigEndian(segment[2..]),
            Sequence = BinaryPrimitives.ReadUInt32BigEndian(segment[SequenceOffset..]),
            Acknowledgement = BinaryPrimitives.ReadUInt32BigEndian(segment[8..]),
            HeaderLength = length,
            Flags = (TcpFlags)segment[FlagsOffset],
        };
        return true;
    }
}
