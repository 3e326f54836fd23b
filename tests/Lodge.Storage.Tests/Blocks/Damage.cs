using System.Buffers.Binary;

namespace Lodge.Storage.Tests.Blocks;

/// <summary>Makes checksums of damaged images right, so that what lies behind them is reached.</summary>
internal static class Damage
{
    public static void Mend(string format, byte[] bytes)
    {
        if (format == "vpc")
        {
            Sum(bytes, 0, 512, 64);
            Sum(bytes, 512, 1024, 36);
            Sum(bytes, bytes.Length - 512, 512, 64);
        }
        else if (format == "vhdx")
        {
            Crc(bytes, 64 << 10, 4096);
            Crc(bytes, 128 << 10, 4096);
            Crc(bytes, 192 << 10, 64 << 10);
            Crc(bytes, 256 << 10, 64 << 10);
        }
    }

    private static void Crc(byte[] bytes, int offset, int length)
    {
        if (offset + length > bytes.Length)
        {
            return;
        }

        var part = bytes.AsSpan(offset, length);
        part.Slice(4, 4).Clear();
        var sum = uint.MaxValue;
        foreach (var value in part)
        {
            sum = System.Numerics.BitOperations.Crc32C(sum, value);
        }

        BinaryPrimitives.WriteUInt32LittleEndian(part[4..], ~sum);
    }

    private static void Sum(byte[] bytes, int offset, int length, int checksum)
    {
        if (offset < 0 || offset + length > bytes.Length)
        {
            return;
        }

        var part = bytes.AsSpan(offset, length);
        uint sum = 0;
        part.Slice(checksum, 4).Clear();
        foreach (var value in part)
        {
            sum += value;
        }

        BinaryPrimitives.WriteUInt32BigEndian(part[checksum..], ~sum);
    }
}
