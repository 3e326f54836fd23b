using System.Diagnostics;
using System.Security.Cryptography;
using System.Text;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Encryption;

/// <summary>An unlocked LUKS volume (LUKS1 On-Disk Format Specification 1.2.3): encrypts and decrypts sectors. Used by any number of threads at once.</summary>
public sealed class LuksVolume : IDisposable
{
    private const int Stripes = 4000;
    private const int SlotAlignment = 4096;
    private const int DigestLength = 20;
    private const int SaltLength = 32;
    private const int LeastIterations = 1000;

    private readonly SectorCipher _cipher;

    private LuksVolume(LuksHeader header, SectorCipher cipher)
    {
        Header = header;
        _cipher = cipher;
    }

    /// <summary>The header.</summary>
    public LuksHeader Header { get; }

    /// <summary>Bytes of header and key material before the payload.</summary>
    public long PayloadOffset => Header.PayloadOffset;

    /// <summary>Unlocks the volume whose header begins at byte 0 of <paramref name="header"/>.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Secret"/>: no key slot opens with the passphrase; <see cref="DiskError.WrongFormat"/>, <see cref="DiskError.Corrupt"/>, <see cref="DiskError.Unsupported"/>.</exception>
    public static async ValueTask<LuksVolume> OpenAsync(IDisk header, string passphrase, CancellationToken cancellation = default)
    {
        var parsed = LuksHeader.Parse(await header.ReadBytesAsync(0, LuksHeader.Size, cancellation).ConfigureAwait(false), header.Length);
        var hash = NamedHash.Find(parsed.HashSpec);
        var secret = Encoding.UTF8.GetBytes(passphrase);
        foreach (var slot in parsed.KeySlots.Where(slot => slot.Active))
        {
            cancellation.ThrowIfCancellationRequested();
            var material = await header.ReadBytesAsync(slot.MaterialOffset, (int)slot.MaterialLength(parsed.KeyBytes), cancellation).ConfigureAwait(false);
            var volume = await Task.Run(() => TrySlot(parsed, hash, slot, material, secret), cancellation).ConfigureAwait(false);
            if (volume is not null)
            {
                return volume;
            }
        }

        throw new DiskException(DiskError.Secret, "the passphrase opens none of the image's key slots");
    }

    /// <summary>Makes a new volume with a random master key, its first key slot opened by <paramref name="passphrase"/>.</summary>
    /// <returns>The unlocked volume and all bytes before the payload: header and key material, <see cref="PayloadOffset"/> of them.</returns>
    /// <exception cref="DiskException"><see cref="DiskError.Secret"/> for an empty passphrase, <see cref="DiskError.Unsupported"/>.</exception>
    public static async ValueTask<(LuksVolume Volume, byte[] Header)> CreateAsync(string passphrase, LuksOptions options, CancellationToken cancellation = default)
    {
        if (passphrase.Length == 0)
        {
            throw new DiskException(DiskError.Secret, "an encrypted image needs a passphrase that is not empty");
        }

        return await Task.Run(() => Create(Encoding.UTF8.GetBytes(passphrase), options), cancellation).ConfigureAwait(false);
    }

    /// <summary>Bytes before the payload of a volume that <see cref="CreateAsync"/> makes.</summary>
    public static long HeaderLength(LuksOptions options) => SlotAlignment + (LuksHeader.Slots * SlotLength(options.KeyBytes));

    /// <summary>Encrypts in place.</summary>
    /// <param name="data">Whole sectors of 512 bytes.</param>
    /// <param name="sector512">Number of the first sector: in a plain LUKS volume, counted from the payload's beginning.</param>
    public void Encrypt(Span<byte> data, ulong sector512) => _cipher.Encrypt(data, sector512);

    /// <summary>Decrypts in place.</summary>
    /// <param name="data">Whole sectors of 512 bytes.</param>
    /// <param name="sector512">Number of the first sector: in a plain LUKS volume, counted from the payload's beginning.</param>
    public void Decrypt(Span<byte> data, ulong sector512) => _cipher.Decrypt(data, sector512);

    /// <summary>Forgets the key; nothing may use the volume any more.</summary>
    public void Dispose() => _cipher.Dispose();

    private static LuksVolume? TrySlot(LuksHeader header, NamedHash hash, LuksKeySlot slot, byte[] material, byte[] secret)
    {
        Span<byte> slotKey = stackalloc byte[header.KeyBytes];
        Span<byte> masterKey = stackalloc byte[header.KeyBytes];
        Span<byte> digest = stackalloc byte[DigestLength];
        hash.Derive(secret, slot.Salt, slot.Iterations, slotKey);
        using (var slotCipher = SectorCipher.Create(header.CipherName, header.CipherMode, slotKey))
        {
            slotCipher.Decrypt(material, 0);
        }

        AntiForensic.Merge(material.AsSpan(0, header.KeyBytes * slot.Stripes), masterKey, hash);
        CryptographicOperations.ZeroMemory(material);
        hash.Derive(masterKey, header.MasterKeySalt, header.MasterKeyIterations, digest);
        var volume = CryptographicOperations.FixedTimeEquals(digest, header.MasterKeyDigest)
            ? new LuksVolume(header, SectorCipher.Create(header.CipherName, header.CipherMode, masterKey))
            : null;
        CryptographicOperations.ZeroMemory(slotKey);
        CryptographicOperations.ZeroMemory(masterKey);
        return volume;
    }

    private static (LuksVolume Volume, byte[] Header) Create(byte[] secret, LuksOptions options)
    {
        var hash = NamedHash.Find(options.HashAlg);
        var keyBytes = options.KeyBytes;
        var masterKey = RandomNumberGenerator.GetBytes(keyBytes);
        var iterations = CalibrateIterations(hash, keyBytes, options.IterTime);
        var salts = Enumerable.Range(0, LuksHeader.Slots + 1).Select(_ => RandomNumberGenerator.GetBytes(SaltLength)).ToArray();
        var digest = new byte[DigestLength];
        var digestIterations = Math.Max(iterations / 8, LeastIterations);
        hash.Derive(masterKey, salts[^1], digestIterations, digest);
        var header = new LuksHeader
        {
            CipherName = "aes",
            CipherMode = options.HeaderMode,
            HashSpec = hash.Name,
            PayloadOffset = HeaderLength(options),
            KeyBytes = keyBytes,
            MasterKeyDigest = digest,
            MasterKeySalt = salts[^1],
            MasterKeyIterations = digestIterations,
            Uuid = Guid.NewGuid().ToString(),
            KeySlots = [.. Enumerable.Range(0, LuksHeader.Slots).Select(index => new LuksKeySlot(
                index == 0, index == 0 ? iterations : 0, index == 0 ? salts[0] : new byte[SaltLength], SlotAlignment + (index * SlotLength(keyBytes)), Stripes))],
        };
        var bytes = new byte[header.PayloadOffset];
        header.Write(bytes);

        var material = bytes.AsSpan(SlotAlignment, (int)header.KeySlots[0].MaterialLength(keyBytes));
        AntiForensic.Split(masterKey, material[..(keyBytes * Stripes)], hash);
        Span<byte> slotKey = stackalloc byte[keyBytes];
        hash.Derive(secret, salts[0], iterations, slotKey);
        using (var slotCipher = SectorCipher.Create(header.CipherName, header.CipherMode, slotKey))
        {
            slotCipher.Encrypt(material, 0);
        }

        var volume = new LuksVolume(header, SectorCipher.Create(header.CipherName, header.CipherMode, masterKey));
        CryptographicOperations.ZeroMemory(slotKey);
        CryptographicOperations.ZeroMemory(masterKey);
        return (volume, bytes);
    }

    private static long SlotLength(int keyBytes) => (((long)keyBytes * Stripes) + SlotAlignment - 1) / SlotAlignment * SlotAlignment;

    /// <summary>Rounds that take <paramref name="milliseconds"/> on this host.</summary>
    private static long CalibrateIterations(NamedHash hash, int keyBytes, int milliseconds)
    {
        Span<byte> key = stackalloc byte[keyBytes];
        for (long rounds = 1 << 12; ; rounds *= 2)
        {
            var began = Stopwatch.GetTimestamp();
            hash.Derive("calibration"u8, new byte[SaltLength], rounds, key);
            var took = Stopwatch.GetElapsedTime(began).TotalMilliseconds;
            if (took >= Math.Min(50, milliseconds) || rounds >= 1 << 26)
            {
                return Math.Clamp((long)(rounds * milliseconds / took), LeastIterations, LuksHeader.MostIterations);
            }
        }
    }
}
