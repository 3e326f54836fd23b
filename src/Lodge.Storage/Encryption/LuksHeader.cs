using System.Buffers.Binary;
using System.Text;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Encryption;

/// <summary>The partition header of LUKS version 1 (LUKS1 On-Disk Format Specification 1.2.3, figures 1 and 2); all numbers are big-endian.</summary>
public sealed record LuksHeader
{
    /// <summary>Bytes of the header itself, without key material.</summary>
    public const int Size = 592;

    /// <summary>Number of key slots.</summary>
    public const int Slots = 8;

    /// <summary>Most rounds of PBKDF2 that are tried; more would only be a trap for whoever opens the image.</summary>
    internal const long MostIterations = 200_000_000;

    private const uint SlotEnabled = 0x00AC71F3;
    private const uint SlotDisabled = 0x0000DEAD;
    private const int MostStripes = 65536;

    /// <summary>The magic bytes, "LUKS" and BA BE.</summary>
    public static ReadOnlySpan<byte> Magic => [0x4C, 0x55, 0x4B, 0x53, 0xBA, 0xBE];

    /// <summary>cipher-name, such as <c>aes</c>.</summary>
    public required string CipherName { get; init; }

    /// <summary>cipher-mode, such as <c>xts-plain64</c>.</summary>
    public required string CipherMode { get; init; }

    /// <summary>hash-spec, such as <c>sha256</c>.</summary>
    public required string HashSpec { get; init; }

    /// <summary>payload-offset in bytes.</summary>
    public required long PayloadOffset { get; init; }

    /// <summary>key-bytes.</summary>
    public required int KeyBytes { get; init; }

    /// <summary>mk-digest, 20 bytes.</summary>
    public required byte[] MasterKeyDigest { get; init; }

    /// <summary>mk-digest-salt, 32 bytes.</summary>
    public required byte[] MasterKeySalt { get; init; }

    /// <summary>mk-digest-iter.</summary>
    public required long MasterKeyIterations { get; init; }

    /// <summary>uuid, as text.</summary>
    public required string Uuid { get; init; }

    /// <summary>The eight key slots.</summary>
    public required IReadOnlyList<LuksKeySlot> KeySlots { get; init; }

    /// <summary>Reads a header.</summary>
    /// <param name="bytes">The first <see cref="Size"/> bytes at the least.</param>
    /// <param name="length">Bytes that there are for header and key material.</param>
    /// <exception cref="DiskException"><see cref="DiskError.WrongFormat"/>, <see cref="DiskError.Unsupported"/> for another version, <see cref="DiskError.Corrupt"/>.</exception>
    public static LuksHeader Parse(ReadOnlySpan<byte> bytes, long length)
    {
        if (bytes.Length < 8 || !bytes.StartsWith(Magic))
        {
            throw new DiskException(DiskError.WrongFormat, "there is no LUKS header");
        }

        var version = BinaryPrimitives.ReadUInt16BigEndian(bytes[6..]);
        if (version != 1)
        {
            throw new DiskException(DiskError.Unsupported, $"LUKS version {version} is not supported, version 1 is; cryptsetup convert --type luks1 converts where the keys use pbkdf2");
        }

        if (bytes.Length < Size)
        {
            throw new DiskException(DiskError.Corrupt, "the LUKS header is cut short");
        }

        var keyBytes = Number(bytes[108..]);
        if (keyBytes is not (16 or 24 or 32 or 48 or 64))
        {
            throw new DiskException(DiskError.Corrupt, $"the LUKS header says that keys have {keyBytes} bytes");
        }

        var slots = new LuksKeySlot[Slots];
        for (var index = 0; index < Slots; index++)
        {
            slots[index] = ParseSlot(bytes.Slice(208 + (48 * index), 48), index, keyBytes, length);
        }

        var header = new LuksHeader
        {
            CipherName = Text(bytes.Slice(8, 32)),
            CipherMode = Text(bytes.Slice(40, 32)),
            HashSpec = Text(bytes.Slice(72, 32)),
            PayloadOffset = Number(bytes[104..]) * SectorCipher.SectorLength,
            KeyBytes = (int)keyBytes,
            MasterKeyDigest = bytes.Slice(112, 20).ToArray(),
            MasterKeySalt = bytes.Slice(132, 32).ToArray(),
            MasterKeyIterations = Number(bytes[164..]),
            Uuid = Text(bytes.Slice(168, 40)),
            KeySlots = slots,
        };
        CheckIterations(header.MasterKeyIterations);
        for (var index = 0; index < Slots; index++)
        {
            for (var other = 0; other < index; other++)
            {
                var (a, b) = (slots[index], slots[other]);
                if (a.MaterialOffset < b.MaterialOffset + b.MaterialLength(header.KeyBytes) && b.MaterialOffset < a.MaterialOffset + a.MaterialLength(header.KeyBytes)
                    && a.Active && b.Active)
                {
                    throw new DiskException(DiskError.Corrupt, $"LUKS key slots {other} and {index} overlap");
                }
            }
        }

        return header;
    }

    /// <summary>Writes the header; <paramref name="bytes"/> has <see cref="Size"/> bytes or more.</summary>
    public void Write(Span<byte> bytes)
    {
        bytes[..Size].Clear();
        Magic.CopyTo(bytes);
        BinaryPrimitives.WriteUInt16BigEndian(bytes[6..], 1);
        Encoding.ASCII.GetBytes(CipherName, bytes.Slice(8, 31));
        Encoding.ASCII.GetBytes(CipherMode, bytes.Slice(40, 31));
        Encoding.ASCII.GetBytes(HashSpec, bytes.Slice(72, 31));
        BinaryPrimitives.WriteUInt32BigEndian(bytes[104..], checked((uint)(PayloadOffset / SectorCipher.SectorLength)));
        BinaryPrimitives.WriteInt32BigEndian(bytes[108..], KeyBytes);
        MasterKeyDigest.CopyTo(bytes[112..]);
        MasterKeySalt.CopyTo(bytes[132..]);
        BinaryPrimitives.WriteUInt32BigEndian(bytes[164..], (uint)MasterKeyIterations);
        Encoding.ASCII.GetBytes(Uuid, bytes.Slice(168, 39));
        for (var index = 0; index < Slots; index++)
        {
            var slot = KeySlots[index];
            var target = bytes.Slice(208 + (48 * index), 48);
            BinaryPrimitives.WriteUInt32BigEndian(target, slot.Active ? SlotEnabled : SlotDisabled);
            BinaryPrimitives.WriteUInt32BigEndian(target[4..], (uint)slot.Iterations);
            slot.Salt.CopyTo(target[8..]);
            BinaryPrimitives.WriteUInt32BigEndian(target[40..], checked((uint)(slot.MaterialOffset / SectorCipher.SectorLength)));
            BinaryPrimitives.WriteInt32BigEndian(target[44..], slot.Stripes);
        }
    }

    private static LuksKeySlot ParseSlot(ReadOnlySpan<byte> bytes, int index, long keyBytes, long length)
    {
        var state = BinaryPrimitives.ReadUInt32BigEndian(bytes);
        if (state is not (SlotEnabled or SlotDisabled))
        {
            throw new DiskException(DiskError.Corrupt, $"LUKS key slot {index} has the unknown state {state:x8}");
        }

        var slot = new LuksKeySlot(
            state == SlotEnabled, Number(bytes[4..]), bytes.Slice(8, 32).ToArray(), Number(bytes[40..]) * SectorCipher.SectorLength, (int)Math.Min(Number(bytes[44..]), int.MaxValue));
        if (!slot.Active)
        {
            return slot;
        }

        CheckIterations(slot.Iterations);
        if (slot.Stripes is < 1 or > MostStripes || slot.MaterialOffset < Size || slot.MaterialOffset > length - slot.MaterialLength((int)keyBytes))
        {
            throw new DiskException(DiskError.Corrupt, $"the key material of LUKS key slot {index} lies outside of the image or over its header");
        }

        return slot;
    }

    private static void CheckIterations(long iterations)
    {
        if (iterations is < 1 or > MostIterations)
        {
            throw new DiskException(DiskError.Corrupt, $"the LUKS header asks for {iterations} rounds of key derivation");
        }
    }

    private static long Number(ReadOnlySpan<byte> bytes) => BinaryPrimitives.ReadUInt32BigEndian(bytes);

    private static string Text(ReadOnlySpan<byte> bytes)
    {
        var end = bytes.IndexOf((byte)0);
        if (end < 0 || bytes[..end].ContainsAnyExceptInRange((byte)0x20, (byte)0x7E))
        {
            throw new DiskException(DiskError.Corrupt, "a name in the LUKS header is not text");
        }

        return Encoding.ASCII.GetString(bytes[..end]);
    }
}

/// <summary>A key slot of LUKS version 1.</summary>
/// <param name="Active">Whether it holds a key.</param>
/// <param name="Iterations">Rounds of PBKDF2.</param>
/// <param name="Salt">32 bytes.</param>
/// <param name="MaterialOffset">key-material-offset, in bytes.</param>
/// <param name="Stripes">Anti-forensic stripes.</param>
public sealed record LuksKeySlot(bool Active, long Iterations, byte[] Salt, long MaterialOffset, int Stripes)
{
    /// <summary>Bytes of key material, whole sectors.</summary>
    public long MaterialLength(int keyBytes) => (((long)keyBytes * Stripes) + SectorCipher.SectorLength - 1) / SectorCipher.SectorLength * SectorCipher.SectorLength;
}
