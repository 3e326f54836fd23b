using System.Buffers.Binary;

namespace Lodge.Network.User;

/// <summary>The Internet checksum (RFC 1071).</summary>
internal static class InternetChecksum
{
    /// <summary>One's complement sum, not inverted, of 16-bit big-endian words; an odd last byte is padded with zero.</summary>
    public static ushort Sum(ReadOnlySpan<byte> bytes)
    {
        ulong sum = 0;
        while (bytes.Length >= 8)
        {
            // Carries between words wrap around in the end, since 2^16 is 1 modulo 2^16 - 1 (RFC 1071, 2).
            ulong word = BinaryPrimitives.ReadUInt64LittleEndian(bytes);
            sum += word;
            sum += sum < word ? 1UL : 0;
            bytes = bytes[8..];
        }
        ulong low = (sum & 0xFFFF_FFFF) + (sum >> 32);
        for (; bytes.Length >= 2; bytes = bytes[2..])
        {
            low += BinaryPrimitives.ReadUInt16LittleEndian(bytes);
        }
        if (bytes.Length == 1)
        {
            low += bytes[0];
        }
        while (low >> 16 != 0)
        {
            low = (low & 0xFFFF) + (low >> 16);
        }
        return BinaryPrimitives.ReverseEndianness((ushort)low);
    }
}
