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
