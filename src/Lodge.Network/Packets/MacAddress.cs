using System.Buffers.Binary;
using System.Globalization;
using System.Security.Cryptography;

namespace Lodge.Network.Packets;

/// <summary>An Ethernet address: 48 bits, the first byte on the wire the most significant.</summary>
public readonly record struct MacAddress(ulong Value)
{
    /// <summary>Bytes of an address.</summary>
    public const int Length = 6;

    /// <summary>To all stations.</summary>
    public static MacAddress Broadcast { get; } = new(0xFFFF_FFFF_FFFF);

    /// <summary>Whether it names a group of stations, all of them included.</summary>
    public bool IsMulticast => (Value & 0x0100_0000_0000) != 0;

    /// <summary>Reads the first six bytes.</summary>
    public static MacAddress Read(ReadOnlySpan<byte> bytes) =>
        new(((ulong)BinaryPrimitives.ReadUInt16BigEndian(bytes) << 32) | BinaryPrimitives.ReadUInt32BigEndian(bytes[2..]));

    /// <summary>Writes the six bytes.</summary>
    public void Write(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt16BigEndian(destination, (ushort)(Value >> 32));
        BinaryPrimitives.WriteUInt32BigEndian(destination[2..], (uint)Value);
    }

    /// <summary>A random address of a station, locally administered, with the prefix 52:54:00 that virtual machines commonly have.</summary>
    public static MacAddress Random()
    {
        Span<byte> bytes = stackalloc byte[4];
        RandomNumberGenerator.Fill(bytes);
        return new(0x5254_0000_0000UL | (BinaryPrimitives.ReadUInt32LittleEndian(bytes) & 0xFF_FFFF));
    }

    /// <summary>Parses <c>52:54:00:12:34:56</c>, also with hyphens.</summary>
    public static bool TryParse(string text, out MacAddress address)
    {
        string[] parts = text.Split(text.Contains('-') ? '-' : ':');
        ulong value = 0;
        address = default;
        if (parts.Length != Length)
        {
            return false;
        }
        foreach (string part in parts)
        {
            if (part.Length != 2 || !byte.TryParse(part, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out byte one))
            {
                return false;
            }
            value = (value << 8) | one;
        }
        address = new(value);
        return true;
    }

    /// <summary>As <c>52:54:00:12:34:56</c>.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture,
        $"{(byte)(Value >> 40):x2}:{(byte)(Value >> 32):x2}:{(byte)(Value >> 24):x2}:{(byte)(Value >> 16):x2}:{(byte)(Value >> 8):x2}:{(byte)Value:x2}");
}
