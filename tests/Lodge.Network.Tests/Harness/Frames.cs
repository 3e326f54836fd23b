using System.Buffers.Binary;
using System.Net;
using Lodge.Network.Packets;

namespace Lodge.Network.Tests.Harness;

/// <summary>Makes frames from the specifications' drawings, independently of the parsers; checksums by the naive sum.</summary>
public static class Frames
{
    public static readonly byte[] Guest = [0x52, 0x54, 0, 1, 2, 3];
    public static readonly byte[] Other = [0x52, 0x54, 0, 9, 9, 9];
    public static readonly MacAddress GuestMac = MacAddress.Read(Guest);

    public static byte[] Ethernet(byte[] source, byte[] destination, int type, params byte[] payload) => [.. destination, .. source, .. Be16(type), .. payload];

    public static byte[] Tagged(byte[] frame, int type, int vlan) => [.. frame[..12], .. Be16(type), .. Be16(vlan), .. frame[12..]];

    public static byte[] Ip(byte[] source, byte[] destination, string from, string to, int protocol, byte[] payload, byte[]? options = null, int id = 1, int fragment = 0x4000,
        int hops = 64)
    {
        byte[] a = IPAddress.Parse(from).GetAddressBytes(), b = IPAddress.Parse(to).GetAddressBytes();
        if (a.Length == 16)
        {
            return Ethernet(source, destination, 0x86DD, [0x60, 0, 0, 0, .. Be16(payload.Length), (byte)protocol, (byte)hops, .. a, .. b, .. payload]);
        }
        int header = 20 + (options?.Length ?? 0);
        byte[] packet = [(byte)(0x40 | (header / 4)), 0, .. Be16(header + payload.Length), .. Be16(id), .. Be16(fragment), (byte)hops, (byte)protocol, 0, 0, .. a, .. b, .. options ?? [], .. payload];
        BinaryPrimitives.WriteUInt16BigEndian(packet.AsSpan(10), (ushort)~NaiveSum(packet.AsSpan(0, header)));
        return Ethernet(source, destination, 0x0800, packet);
    }

    /// <summary>From the guest.</summary>
    public static byte[] Out(string from, string to, int protocol, byte[] payload, int hops = 64) => Ip(Guest, Other, from, to, protocol, payload, hops: hops);

    /// <summary>To the guest.</summary>
    public static byte[] In(string from, string to, int protocol, byte[] payload, int hops = 64) => Ip(Other, Guest, from, to, protocol, payload, hops: hops);

    public static byte[] Tcp(string from, string to, int sourcePort, int destinationPort, TcpFlags flags, byte[]? data = null, uint sequence = 1, byte[]? options = null)
    {
        options ??= [];
        byte[] segment = [.. Be16(sourcePort), .. Be16(destinationPort), .. Be32(sequence), .. Be32(77), (byte)((20 + options.Length) / 4 << 4), (byte)flags, 0x10, 0, 0, 0, 0, 0, .. options, .. data ?? []];
        return WithChecksum(from, to, 6, segment, 16);
    }

    public static byte[] Udp(string from, string to, int sourcePort, int destinationPort, byte[]? data = null)
    {
        data ??= [1, 2, 3, 4];
        return WithChecksum(from, to, 17, [.. Be16(sourcePort), .. Be16(destinationPort), .. Be16(8 + data.Length), 0, 0, .. data], 6);
    }

    public static byte[] IcmpV6(string from, string to, int type, params byte[] rest) => WithChecksum(from, to, 58, [(byte)type, 0, 0, 0, .. rest], 2);

    public static byte[] Icmp(int type, params byte[] rest)
    {
        byte[] message = [(byte)type, 0, 0, 0, .. rest];
        BinaryPrimitives.WriteUInt16BigEndian(message.AsSpan(2), (ushort)~NaiveSum(message));
        return message;
    }

    public static byte[] Arp(byte[] sender, string senderAddress, string target, int operation = 1, byte[]? ethernetSource = null) => Ethernet(ethernetSource ?? sender,
        [255, 255, 255, 255, 255, 255], 0x0806,
        [0, 1, 8, 0, 6, 4, 0, (byte)operation, .. sender, .. IPAddress.Parse(senderAddress).GetAddressBytes(), 0, 0, 0, 0, 0, 0, .. IPAddress.Parse(target).GetAddressBytes()]);

    /// <summary>The data of a DHCP datagram.</summary>
    public static byte[] Dhcp(int operation, int type, byte[] client, string yours = "0.0.0.0", uint transaction = 0x1234, string server = "10.0.0.1", string relay = "0.0.0.0",
        uint lease = 3600)
    {
        byte[] message = new byte[240];
        (message[0], message[1], message[2]) = ((byte)operation, 1, 6);
        Be32(transaction).CopyTo(message, 4);
        IPAddress.Parse(yours).GetAddressBytes().CopyTo(message, 16);
        IPAddress.Parse(relay).GetAddressBytes().CopyTo(message, 24);
        client.CopyTo(message, 28);
        Be32(0x63825363).CopyTo(message, 236);
        return [.. message, 53, 1, (byte)type, 54, 4, .. IPAddress.Parse(server).GetAddressBytes(), 51, 4, .. Be32(lease), 3, 4, .. IPAddress.Parse(server).GetAddressBytes(), 255];
    }

    public static byte[] Be16(int value) => [(byte)(value >> 8), (byte)value];

    public static byte[] Be32(uint value) => [(byte)(value >> 24), (byte)(value >> 16), (byte)(value >> 8), (byte)value];

    public static uint NaiveSum(ReadOnlySpan<byte> bytes)
    {
        uint sum = 0;
        for (int i = 0; i < bytes.Length; i++)
        {
            sum += i % 2 == 0 ? (uint)bytes[i] << 8 : bytes[i];
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        return sum;
    }

    /// <summary>The sum over pseudo header and content of an IPv4 (without options) or IPv6 frame: 0xFFFF when the checksum is right.</summary>
    public static uint TransportSum(byte[] frame)
    {
        bool isIpv6 = frame[12] == 0x86;
        byte[] addresses = isIpv6 ? frame[22..54] : frame[26..34];
        byte[] content = frame[(isIpv6 ? 54 : 34)..];
        return NaiveSum([.. addresses, 0, isIpv6 ? frame[20] : frame[23], .. Be16(content.Length), .. content]);
    }

    private static byte[] WithChecksum(string from, string to, int protocol, byte[] content, int place)
    {
        byte[] pseudo = [.. IPAddress.Parse(from).GetAddressBytes(), .. IPAddress.Parse(to).GetAddressBytes(), 0, (byte)protocol, .. Be16(content.Length)];
        Be16((ushort)~NaiveSum([.. pseudo, .. content])).CopyTo(content, place);
        return content;
    }
}
