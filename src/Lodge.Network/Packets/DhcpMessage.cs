using System.Buffers.Binary;

namespace Lodge.Network.Packets;

/// <summary>What matters of a DHCP message (RFC 2131, 2132).</summary>
public readonly record struct DhcpMessage
{
    /// <summary>UDP port of servers.</summary>
    public const ushort ServerPort = 67;

    /// <summary>UDP port of clients.</summary>
    public const ushort ClientPort = 68;

    /// <summary>DHCPACK.</summary>
    public const byte Acknowledge = 5;

    private const int FixedLength = 240;

    /// <summary>It is from a server (BOOTREPLY), else from a client.</summary>
    public bool IsReply { get; init; }

    /// <summary>Number of the transaction.</summary>
    public uint Transaction { get; init; }

    /// <summary>Address that the client gets, yiaddr.</summary>
    public uint YourAddress { get; init; }

    /// <summary>Relay in between, giaddr.</summary>
    public uint RelayAddress { get; init; }

    /// <summary>The client's link-layer address, chaddr.</summary>
    public MacAddress Client { get; init; }

    /// <summary>Option 53; 0 without.</summary>
    public byte MessageType { get; init; }

    /// <summary>Option 51 in seconds; 0 without.</summary>
    public uint LeaseSeconds { get; init; }

    /// <summary>First router of option 3; 0 without.</summary>
    public uint Router { get; init; }

    /// <summary>Option 54; 0 without.</summary>
    public uint Server { get; init; }

    /// <summary>Reads the data of a UDP datagram; false when it is not DHCP over Ethernet or is malformed.</summary>
    public static bool TryParse(ReadOnlySpan<byte> data, out DhcpMessage message)
    {
        const byte pad = 0, router = 3, leaseTime = 51, messageType = 53, server = 54, end = 255;
        message = default;
        if (data.Length < FixedLength || data[0] is not (1 or 2) || data[1] != 1 || data[2] != MacAddress.Length
            || BinaryPrimitives.ReadUInt32BigEndian(data[236..]) != 0x63825363)
        {
            return false;
        }
        message = new()
        {
            IsReply = data[0] == 2,
            Transaction = BinaryPrimitives.ReadUInt32BigEndian(data[4..]),
            YourAddress = BinaryPrimitives.ReadUInt32BigEndian(data[16..]),
            RelayAddress = BinaryPrimitives.ReadUInt32BigEndian(data[24..]),
            Client = MacAddress.Read(data[28..]),
        };
        var options = data[FixedLength..];
        while (!options.IsEmpty && options[0] != end)
        {
            if (options[0] == pad)
            {
                options = options[1..];
                continue;
            }
            if (options.Length < 2 || options.Length < options[1] + 2)
            {
                return false;
            }
            var value = options.Slice(2, options[1]);
            message = (options[0], value.Length) switch
            {
                (messageType, 1) => message with { MessageType = value[0] },
                (leaseTime, 4) => message with { LeaseSeconds = BinaryPrimitives.ReadUInt32BigEndian(value) },
                (server, 4) => message with { Server = BinaryPrimitives.ReadUInt32BigEndian(value) },
                (router, >= 4) => message with { Router = BinaryPrimitives.ReadUInt32BigEndian(value) },
                _ => message,
            };
            options = options[(value.Length + 2)..];
        }
        return true;
    }
}
