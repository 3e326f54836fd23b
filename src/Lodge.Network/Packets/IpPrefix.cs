using System.Globalization;
using System.Net;
using System.Net.Sockets;

namespace Lodge.Network.Packets;

/// <summary>
/// A range of IPv4 or IPv6 addresses with a common prefix; a single address has the full length. Addresses are 128-bit numbers, IPv4's those of <c>::ffff:0:0/96</c> with their
/// family beside them, since IPv6 packets could carry the same numbers.
/// </summary>
public readonly record struct IpPrefix
{
    private readonly UInt128 _mask;

    private IpPrefix(UInt128 address, int length, bool isIpv4)
    {
        int bits = length + (isIpv4 ? 96 : 0);
        _mask = bits == 0 ? UInt128.Zero : UInt128.MaxValue << (128 - bits);
        Address = address & _mask;
        Length = length;
        IsIpv4 = isIpv4;
    }

    /// <summary>First address.</summary>
    public UInt128 Address { get; }

    /// <summary>Bits of the prefix, 0 to 32 or 128.</summary>
    public int Length { get; }

    /// <summary>The family is IPv4.</summary>
    public bool IsIpv4 { get; }

    /// <summary>The number of an IPv4 address.</summary>
    public static UInt128 FromIpv4(uint address) => new(0, 0xFFFF_0000_0000UL | address);

    /// <summary>A range of IPv4 addresses.</summary>
    public static IpPrefix Ipv4(uint address, int length = 32) => new(FromIpv4(address), Math.Clamp(length, 0, 32), true);

    /// <summary>A range of IPv6 addresses.</summary>
    public static IpPrefix Ipv6(UInt128 address, int length = 128) => new(address, Math.Clamp(length, 0, 128), false);

    /// <summary>Whether an address is in the range.</summary>
    public bool Contains(UInt128 address, bool isIpv4) => isIpv4 == IsIpv4 && (address & _mask) == Address;

    /// <summary>Parses <c>10.0.0.0/8</c>, <c>192.0.2.1</c>, <c>2001:db8::/32</c>. Bits beyond the prefix must be zero.</summary>
    public static bool TryParse(string text, out IpPrefix prefix)
    {
        prefix = default;
        string[] parts = text.Split('/');
        bool isIpv4 = !text.Contains(':');
        int most = isIpv4 ? 32 : 128;
        int length = most;
        if (parts.Length > 2 || (parts.Length == 2 && (!int.TryParse(parts[1], NumberStyles.None, CultureInfo.InvariantCulture, out length) || length > most)))
        {
            return false;
        }
        UInt128 address;
        if (isIpv4)
        {
            // IPAddress takes "10" and "010.1" too, which mean something else to most people.
            string[] bytes = parts[0].Split('.');
            uint value = 0;
            if (bytes.Length != 4)
            {
                return false;
            }
            foreach (string part in bytes)
            {
                if (!byte.TryParse(part, NumberStyles.None, CultureInfo.InvariantCulture, out byte one) || (part.Length > 1 && part[0] == '0'))
                {
                    return false;
                }
                value = (value << 8) | one;
            }
            address = FromIpv4(value);
        }
        else
        {
            if (parts[0].AsSpan().IndexOfAny("%[]") >= 0 || !IPAddress.TryParse(parts[0], out var parsed) || parsed.AddressFamily != AddressFamily.InterNetworkV6)
            {
                return false;
            }
            Span<byte> bytes = stackalloc byte[16];
            parsed.TryWriteBytes(bytes, out _);
            address = System.Buffers.Binary.BinaryPrimitives.ReadUInt128BigEndian(bytes);
        }
        prefix = new(address, length, isIpv4);
        return prefix.Address == address;
    }

    /// <summary>As it is parsed; a single address without its length.</summary>
    public override string ToString()
    {
        byte[] bytes = new byte[16];
        System.Buffers.Binary.BinaryPrimitives.WriteUInt128BigEndian(bytes, Address);
        var address = new IPAddress(IsIpv4 ? bytes.AsSpan(12) : bytes);
        return Length == (IsIpv4 ? 32 : 128) ? address.ToString() : string.Create(CultureInfo.InvariantCulture, $"{address}/{Length}");
    }
}
