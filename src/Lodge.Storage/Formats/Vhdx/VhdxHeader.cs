using System.Buffers.Binary;
using System.Numerics;
using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vhdx;

/// <summary>CRC-32C as [MS-VHDX] section 2.2 uses it: over a structure with its checksum as zero.</summary>
internal static class VhdxChecksum
{
    /// <summary>The checksum of <paramref name="bytes"/>, in which the four from <paramref name="offset"/> count as zero.</summary>
    public static uint Of(ReadOnlySpan<byte> bytes, int offset) => ~Add(Add(Add(uint.MaxValue, bytes[..offset]), stackalloc byte[4]), bytes[(offset + 4)..]);

    public static bool IsRight(ReadOnlySpan<byte> bytes, int offset) => Of(bytes, offset) == BinaryPrimitives.ReadUInt32LittleEndian(bytes[offset..]);

    public static void Put(Span<byte> bytes, int offset) => BinaryPrimitives.WriteUInt32LittleEndian(bytes[offset..], Of(bytes, offset));

    private static uint Add(uint sum, ReadOnlySpan<byte> bytes)
    {
        for (; bytes.Length >= 8; bytes = bytes[8..])
        {
            sum = BitOperations.Crc32C(sum, BinaryPrimitives.ReadUInt64LittleEndian(bytes));
        }

        foreach (var value in bytes)
        {
            sum = BitOperations.Crc32C(sum, value);
        }

        return sum;
    }
}

/// <summary>A header ([MS-VHDX] section 2.2.2); the file has two, and the one with the higher sequence number holds.</summary>
internal sealed record VhdxHeader
{
    public const int Size = 4096;

    /// <summary>Bytes of the header section; nothing else lies there.</summary>
    public const int SectionLength = 1 << 20;

    private const int FirstOffset = 64 << 10;
    private const int SecondOffset = 128 << 10;

    /// <summary>The file type identifier ([MS-VHDX] section 2.2.1).</summary>
    public static ReadOnlySpan<byte> FileSignature => "vhdxfile"u8;

    public ulong SequenceNumber { get; init; }

    public Guid FileWriteGuid { get; init; }

    public Guid DataWriteGuid { get; init; }

    public Guid LogGuid { get; init; }

    public uint LogLength { get; init; }

    public ulong LogOffset { get; init; }

    /// <summary>Whether it is the first of the two.</summary>
    public bool IsFirst { get; init; }

    /// <summary>Reads the header that holds.</summary>
    public static async ValueTask<VhdxHeader> ReadAsync(IStorageFile file, CancellationToken cancellation)
    {
        var signature = await file.ReadBytesAsync(0, 8, cancellation).ConfigureAwait(false);
        if (!signature.AsSpan().SequenceEqual(FileSignature))
        {
            throw new DiskException(DiskError.WrongFormat, "it is not an image of the format vhdx");
        }

        var first = TryParse(await file.ReadBytesAsync(FirstOffset, Size, cancellation).ConfigureAwait(false), true);
        var second = TryParse(await file.ReadBytesAsync(SecondOffset, Size, cancellation).ConfigureAwait(false), false);
        var header = first is not null && (second is null || first.SequenceNumber >= second.SequenceNumber) ? first : second;
        if (header is null)
        {
            throw new DiskException(DiskError.Corrupt, "neither of the two headers is right");
        }

        if (header.LogOffset % SectionLength != 0 || header.LogLength % SectionLength != 0 || header.LogOffset < SectionLength
            || header.LogOffset > (ulong)file.Length || header.LogLength > (ulong)file.Length - header.LogOffset)
        {
            throw new DiskException(DiskError.Corrupt, $"a log of {header.LogLength} bytes at {header.LogOffset} cannot be");
        }

        return header;
    }

    /// <summary>Writes the next header in the other's place and makes it durable; this one holds until then.</summary>
    public async ValueTask<VhdxHeader> ReplaceAsync(IStorageFile file, VhdxHeader next, CancellationToken cancellation)
    {
        next = next with { SequenceNumber = checked(SequenceNumber + 1), IsFirst = !IsFirst };
        await file.WriteAsync(next.IsFirst ? FirstOffset : SecondOffset, next.Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
        await file.FlushAsync(cancellation).ConfigureAwait(false);
        return next;
    }

    /// <summary>Writes the identifier and two headers into a new file.</summary>
    public async ValueTask CreateAsync(IStorageFile file, CancellationToken cancellation)
    {
        var identifier = new byte[Size];
        FileSignature.CopyTo(identifier);
        Encoding.Unicode.GetBytes("Lodge", identifier.AsSpan(8));
        await file.WriteAsync(0, identifier, WriteOptions.None, cancellation).ConfigureAwait(false);
        await file.WriteAsync(FirstOffset, Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
        await file.WriteAsync(SecondOffset, (this with { SequenceNumber = SequenceNumber + 1 }).Encode(), WriteOptions.None, cancellation).ConfigureAwait(false);
    }

    private static VhdxHeader? TryParse(ReadOnlySpan<byte> bytes, bool first)
    {
        if (bytes.Length < Size || !bytes.StartsWith("head"u8) || !VhdxChecksum.IsRight(bytes, 4))
        {
            return null;
        }

        var logVersion = BinaryPrimitives.ReadUInt16LittleEndian(bytes[64..]);
        var version = BinaryPrimitives.ReadUInt16LittleEndian(bytes[66..]);
        if (version != 1 || logVersion != 0)
        {
            throw new DiskException(DiskError.Unsupported, $"version {version} of the format with version {logVersion} of the log is not known");
        }

        return new VhdxHeader
        {
            IsFirst = first,
            SequenceNumber = BinaryPrimitives.ReadUInt64LittleEndian(bytes[8..]),
            FileWriteGuid = new Guid(bytes.Slice(16, 16)),
            DataWriteGuid = new Guid(bytes.Slice(32, 16)),
            LogGuid = new Guid(bytes.Slice(48, 16)),
            LogLength = BinaryPrimitives.ReadUInt32LittleEndian(bytes[68..]),
            LogOffset = BinaryPrimitives.ReadUInt64LittleEndian(bytes[72..]),
        };
    }

    private byte[] Encode()
    {
        var bytes = new byte[Size];
        "head"u8.CopyTo(bytes);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(8), SequenceNumber);
        FileWriteGuid.TryWriteBytes(bytes.AsSpan(16));
        DataWriteGuid.TryWriteBytes(bytes.AsSpan(32));
        LogGuid.TryWriteBytes(bytes.AsSpan(48));
        BinaryPrimitives.WriteUInt16LittleEndian(bytes.AsSpan(66), 1);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes.AsSpan(68), LogLength);
        BinaryPrimitives.WriteUInt64LittleEndian(bytes.AsSpan(72), LogOffset);
        VhdxChecksum.Put(bytes, 4);
        return bytes;
    }
}
