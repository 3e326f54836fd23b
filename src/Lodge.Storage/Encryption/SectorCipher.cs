using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Security.Cryptography;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Encryption;

/// <summary>
/// Encrypts sectors of 512 bytes, each by itself with an initialization vector made from its number: AES in the modes and with the vectors that Linux'
/// dm-crypt names <c>xts-plain64</c>, <c>cbc-essiv:sha256</c> and the like. Used by any number of threads at once.
/// </summary>
internal sealed class SectorCipher : IDisposable
{
    /// <summary>Bytes in a sector.</summary>
    public const int SectorLength = 512;

    private readonly AesBlocks _data;
    private readonly AesBlocks? _tweak;
    private readonly AesBlocks? _essiv;
    private readonly Mode _mode;
    private readonly bool _vector32;

    private SectorCipher(Mode mode, bool vector32, AesBlocks data, AesBlocks? tweak, AesBlocks? essiv)
    {
        _mode = mode;
        _vector32 = vector32;
        _data = data;
        _tweak = tweak;
        _essiv = essiv;
    }

    private enum Mode
    {
        Ecb,
        Cbc,
        Xts,
    }

    /// <summary>Makes the cipher for a name.</summary>
    /// <param name="cipher">The cipher's name: <c>aes</c>.</param>
    /// <param name="mode">Mode and vectors: <c>xts-plain64</c>, <c>xts-plain</c>, <c>cbc-plain64</c>, <c>cbc-plain</c>, <c>cbc-essiv:sha256</c>, <c>ecb</c>.</param>
    /// <param name="key">16, 24 or 32 bytes, twice as many for XTS.</param>
    /// <exception cref="DiskException"><see cref="DiskError.Unsupported"/> for another cipher or mode, <see cref="DiskError.Corrupt"/> for a wrong length of the key.</exception>
    public static SectorCipher Create(string cipher, string mode, ReadOnlySpan<byte> key)
    {
        if (cipher != "aes")
        {
            throw new DiskException(DiskError.Unsupported, $"the cipher '{Printable(cipher)}' is not supported; aes is");
        }

        var parts = mode.Split(['-', ':'], 3);
        var kind = parts[0] switch
        {
            "xts" => Mode.Xts,
            "cbc" => Mode.Cbc,
            "ecb" => Mode.Ecb,
            _ => throw Unknown(mode),
        };
        var vector = parts.Length > 1 ? parts[1] : "";
        if (vector is not ("plain" or "plain64" or "essiv") && !(kind == Mode.Ecb && parts.Length == 1))
        {
            throw Unknown(mode);
        }

        var length = kind == Mode.Xts ? key.Length / 2 : key.Length;
        if (length is not (16 or 24 or 32) || (kind == Mode.Xts && key.Length % 2 != 0))
        {
            throw new DiskException(DiskError.Corrupt, $"a key of {key.Length} bytes does not fit the cipher aes-{Printable(mode)}");
        }

        AesBlocks? essiv = null;
        if (vector == "essiv")
        {
            // ESSIV: the vector is the sector's number encrypted with the hash of the key; the hash's length chooses AES' variant.
            var hash = NamedHash.Find(parts.Length > 2 ? parts[2] : "");
            Span<byte> digest = stackalloc byte[hash.Length];
            hash.Compute(key, digest);
            if (hash.Length is not (16 or 24 or 32))
            {
                throw Unknown(mode);
            }

            essiv = AesBlocks.Create(digest);
            CryptographicOperations.ZeroMemory(digest);
        }

        return new SectorCipher(kind, vector == "plain", AesBlocks.Create(key[..length]), kind == Mode.Xts ? AesBlocks.Create(key[length..]) : null, essiv);
    }

    /// <summary>Encrypts in place.</summary>
    /// <param name="data">Whole sectors; the last may be a part of one, a multiple of 16 bytes.</param>
    /// <param name="sector">Number of the first.</param>
    public void Encrypt(Span<byte> data, ulong sector)
    {
        for (; data.Length > 0; data = data[Math.Min(SectorLength, data.Length)..], sector++)
        {
            Process(data[..Math.Min(SectorLength, data.Length)], sector, encrypt: true);
        }
    }

    /// <summary>Decrypts in place.</summary>
    /// <param name="data">Whole sectors; the last may be a part of one, a multiple of 16 bytes.</param>
    /// <param name="sector">Number of the first.</param>
    public void Decrypt(Span<byte> data, ulong sector)
    {
        for (; data.Length > 0; data = data[Math.Min(SectorLength, data.Length)..], sector++)
        {
            Process(data[..Math.Min(SectorLength, data.Length)], sector, encrypt: false);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _data.Dispose();
        _tweak?.Dispose();
        _essiv?.Dispose();
    }

    private static DiskException Unknown(string mode) =>
        new(DiskError.Unsupported, $"the cipher mode '{Printable(mode)}' is not supported; xts and cbc with plain, plain64 or essiv:sha256, and ecb are");

    private static string Printable(string text) => string.Concat(text.Take(40).Select(letter => char.IsAsciiLetterOrDigit(letter) || letter is '-' or ':' or '_' ? letter : '?'));

    [System.Runtime.CompilerServices.SkipLocalsInit]
    private void Process(Span<byte> data, ulong sector, bool encrypt)
    {
        var blocks = MemoryMarshal.Cast<byte, Vector128<byte>>(data);
        Span<Vector128<byte>> scratch = stackalloc Vector128<byte>[SectorLength / AesBlocks.BlockLength];
        scratch = scratch[..blocks.Length];
        if (_mode == Mode.Ecb)
        {
            ProcessBlocks(data, encrypt);
            return;
        }

        var vector = Vector128.Create(_vector32 ? (uint)sector : sector, 0UL).AsByte();
        var first = MemoryMarshal.CreateSpan(ref vector, 1);
        _essiv?.Encrypt(MemoryMarshal.AsBytes(first));
        if (_mode == Mode.Xts)
        {
            _tweak!.Encrypt(MemoryMarshal.AsBytes(first));
            FillTweaks(vector, scratch);
            Exclusive(blocks, scratch);
            ProcessBlocks(data, encrypt);
            Exclusive(blocks, scratch);
        }
        else if (encrypt)
        {
            foreach (ref var block in blocks)
            {
                block ^= vector;
                _data.Encrypt(MemoryMarshal.AsBytes(MemoryMarshal.CreateSpan(ref block, 1)));
                vector = block;
            }
        }
        else if (blocks.Length > 0)
        {
            // Each block is combined with the ciphertext before it.
            scratch[0] = vector;
            blocks[..^1].CopyTo(scratch[1..]);
            ProcessBlocks(data, encrypt: false);
            Exclusive(blocks, scratch);
        }
    }

    private void ProcessBlocks(Span<byte> data, bool encrypt)
    {
        if (encrypt)
        {
            _data.Encrypt(data);
        }
        else
        {
            _data.Decrypt(data);
        }
    }

    // IEEE 1619, 5.2: each tweak is the one before times x in GF(2^128).
    private static void FillTweaks(Vector128<byte> first, Span<Vector128<byte>> tweaks)
    {
        var low = first.AsUInt64().GetElement(0);
        var high = first.AsUInt64().GetElement(1);
        foreach (ref var tweak in tweaks)
        {
            tweak = Vector128.Create(low, high).AsByte();
            var carry = (ulong)((long)high >> 63) & 0x87;
            high = high << 1 | low >> 63;
            low = low << 1 ^ carry;
        }
    }

    private static void Exclusive(Span<Vector128<byte>> blocks, ReadOnlySpan<Vector128<byte>> with)
    {
        for (var index = 0; index < blocks.Length && index < with.Length; index++)
        {
            blocks[index] ^= with[index];
        }
    }
}
