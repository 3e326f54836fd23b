using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;

namespace Lodge.Network.User;

/// <summary>struct sockaddr_in and struct sockaddr_in6 of Linux, see ip(7) and ipv6(7).</summary>
internal static class SocketAddressBytes
{
    private const ushort Ipv4 = 2, Ipv6 = 10;
    private const int Length4 = 16, Length6 = 28;

    /// <summary>Most bytes.</summary>
    public const int MaximumLength = Length6;

    /// <summary>Writes an address; returns its length.</summary>
    public static int Write(IPEndPoint address, Span<byte> bytes)
    {
        bytes.Clear();
        bool four = address.AddressFamily == AddressFamily.InterNetwork;
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, four ? Ipv4 : Ipv6);
        BinaryPrimitives.WriteUInt16BigEndian(bytes[2..], (ushort)address.Port);
        address.Address.TryWriteBytes(bytes[(four ? 4 : 8)..], out _);
        if (!four)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(bytes[24..], (uint)address.Address.ScopeId);
        }
        return four ? Length4 : Length6;
    }

    /// <summary>Reads an address; null when it is of another family.</summary>
    public static IPEndPoint? Read(ReadOnlySpan<byte> bytes)
    {
        if (bytes.Length < Length4)
        {
            return null;
        }
        int port = BinaryPrimitives.ReadUInt16BigEndian(bytes[2..]);
        return BinaryPrimitives.ReadUInt16LittleEndian(bytes) switch
        {
            Ipv4 => new IPEndPoint(new IPAddress(bytes.Slice(4, 4)), port),
            Ipv6 when bytes.Length >= Length6 => new IPEndPoint(new IPAddress(bytes.Slice(8, 16), BinaryPrimitives.ReadUInt32LittleEndian(bytes[24..])), port),
            _ => null,
        };
    }
}
