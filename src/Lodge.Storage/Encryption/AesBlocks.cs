using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;
using System.Security.Cryptography;
using AesInstructions = System.Runtime.Intrinsics.X86.Aes;

namespace Lodge.Storage.Encryption;

/// <summary>AES (FIPS 197) on many blocks with one key, each block by itself. Used by any number of threads at once.</summary>
internal abstract class AesBlocks : IDisposable
{
    /// <summary>Bytes in a block.</summary>
    public const int BlockLength = 16;

    /// <summary>The fastest implementation of this processor.</summary>
    /// <param name="key">16, 24 or 32 bytes.</param>
    public static AesBlocks Create(ReadOnlySpan<byte> key) => AesInstructions.IsSupported ? new AesInstructionBlocks(key) : new AesLibraryBlocks(key);

    /// <summary>Encrypts in place; the length is a multiple of 16.</summary>
    public abstract void Encrypt(Span<byte> blocks);

    /// <summary>Decrypts in place; the length is a multiple of 16.</summary>
    public abstract void Decrypt(Span<byte> blocks);

    /// <summary>Forgets the key.</summary>
    public abstract void Dispose();
}

/// <summary>AES by the processor's instructions, eight blocks side by side to hide their latency.</summary>
internal sealed class AesInstructionBlocks : AesBlocks
{
    private readonly Vector128<byte>[] _encryption;
    private readonly Vector128<byte>[] _decryption;

    /// <summary>Expands the key.</summary>
    public AesInstructionBlocks(ReadOnlySpan<byte> key)
    {
        _encryption = Expand(key);
        _decryption = new Vector128<byte>[_encryption.Length];
        for (var round = 0; round < _decryption.Length; round++)
        {
            // Equivalent inverse cipher (FIPS 197, 5.3.5): the round keys backwards, the inner ones through InvMixColumns.
            var roundKey = _encryption[^(round + 1)];
            _decryption[round] = round == 0 || round == _decryption.Length - 1 ? roundKey : AesInstructions.InverseMixColumns(roundKey);
        }
    }

    public override void Encrypt(Span<byte> blocks)
    {
        ref var keys = ref MemoryMarshal.GetArrayDataReference(_encryption);
        var rounds = _encryption.Length - 1;
        var rest = MemoryMarshal.Cast<byte, Vector128<byte>>(blocks);
        while (rest.Length >= 8)
        {
            ref var p = ref MemoryMarshal.GetReference(rest);
            var k = keys;
            var (a, b, c, d) = (p ^ k, Unsafe.Add(ref p, 1) ^ k, Unsafe.Add(ref p, 2) ^ k, Unsafe.Add(ref p, 3) ^ k);
            var (e, f, g, h) = (Unsafe.Add(ref p, 4) ^ k, Unsafe.Add(ref p, 5) ^ k, Unsafe.Add(ref p, 6) ^ k, Unsafe.Add(ref p, 7) ^ k);
            for (var round = 1; round < rounds; round++)
            {
                k = Unsafe.Add(ref keys, round);
                a = AesInstructions.Encrypt(a, k);
                b = AesInstructions.Encrypt(b, k);
                c = AesInstructions.Encrypt(c, k);
                d = AesInstructions.Encrypt(d, k);
                e = AesInstructions.Encrypt(e, k);
                f = AesInstructions.Encrypt(f, k);
                g = AesInstructions.Encrypt(g, k);
                h = AesInstructions.Encrypt(h, k);
            }

            k = Unsafe.Add(ref keys, rounds);
            p = AesInstructions.EncryptLast(a, k);
            Unsafe.Add(ref p, 1) = AesInstructions.EncryptLast(b, k);
            Unsafe.Add(ref p, 2) = AesInstructions.EncryptLast(c, k);
            Unsafe.Add(ref p, 3) = AesInstructions.EncryptLast(d, k);
            Unsafe.Add(ref p, 4) = AesInstructions.EncryptLast(e, k);
            Unsafe.Add(ref p, 5) = AesInstructions.EncryptLast(f, k);
            Unsafe.Add(ref p, 6) = AesInstructions.EncryptLast(g, k);
            Unsafe.Add(ref p, 7) = AesInstructions.EncryptLast(h, k);
            rest = rest[8..];
        }

        foreach (ref var block in rest)
        {
            var state = block ^ keys;
            for (var round = 1; round < rounds; round++)
            {
                state = AesInstructions.Encrypt(state, Unsafe.Add(ref keys, round));
            }

            block = AesInstructions.EncryptLast(state, Unsafe.Add(ref keys, rounds));
        }
    }

    public override void Decrypt(Span<byte> blocks)
    {
        ref var keys = ref MemoryMarshal.GetArrayDataReference(_decryption);
        var rounds = _decryption.Length - 1;
        var rest = MemoryMarshal.Cast<byte, Vector128<byte>>(blocks);
        while (rest.Length >= 8)
        {
            ref var p = ref MemoryMarshal.GetReference(rest);
            var k = keys;
            var (a, b, c, d) = (p ^ k, Unsafe.Add(ref p, 1) ^ k, Unsafe.Add(ref p, 2) ^ k, Unsafe.Add(ref p, 3) ^ k);
            var (e, f, g, h) = (Unsafe.Add(ref p, 4) ^ k, Unsafe.Add(ref p, 5) ^ k, Unsafe.Add(ref p, 6) ^ k, Unsafe.Add(ref p, 7) ^ k);
            for (var round = 1; round < rounds; round++)
            {
                k = Unsafe.Add(ref keys, round);
                a = AesInstructions.Decrypt(a, k);
                b = AesInstructions.Decrypt(b, k);
                c = AesInstructions.Decrypt(c, k);
                d = AesInstructions.Decrypt(d, k);
                e = AesInstructions.Decrypt(e, k);
                f = AesInstructions.Decrypt(f, k);
                g = AesInstructions.Decrypt(g, k);
                h = AesInstructions.Decrypt(h, k);
            }

            k = Unsafe.Add(ref keys, rounds);
            p = AesInstructions.DecryptLast(a, k);
            Unsafe.Add(ref p, 1) = AesInstructions.DecryptLast(b, k);
            Unsafe.Add(ref p, 2) = AesInstructions.DecryptLast(c, k);
            Unsafe.Add(ref p, 3) = AesInstructions.DecryptLast(d, k);
            Unsafe.Add(ref p, 4) = AesInstructions.DecryptLast(e, k);
            Unsafe.Add(ref p, 5) = AesInstructions.DecryptLast(f, k);
            Unsafe.Add(ref p, 6) = AesInstructions.DecryptLast(g, k);
            Unsafe.Add(ref p, 7) = AesInstructions.DecryptLast(h, k);
            rest = rest[8..];
        }

        foreach (ref var block in rest)
        {
            var state = block ^ keys;
            for (var round = 1; round < rounds; round++)
            {
                state = AesInstructions.Decrypt(state, Unsafe.Add(ref keys, round));
            }

            block = AesInstructions.DecryptLast(state, Unsafe.Add(ref keys, rounds));
        }
    }

    public override void Dispose()
    {
        Array.Clear(_encryption);
        Array.Clear(_decryption);
    }

    /// <summary>Key expansion (FIPS 197, 5.2).</summary>
    private static Vector128<byte>[] Expand(ReadOnlySpan<byte> key)
    {
        var keyWords = key.Length / 4;
        var rounds = keyWords + 6;
        Span<uint> words = stackalloc uint[4 * (rounds + 1)];
        for (var index = 0; index < keyWords; index++)
        {
            words[index] = BinaryPrimitives.ReadUInt32LittleEndian(key[(4 * index)..]);
        }

        uint constant = 1;
        for (var index = keyWords; index < words.Length; index++)
        {
            var word = words[index - 1];
            if (index % keyWords == 0)
            {
                // The words are little-endian here, so RotWord goes to the right.
                word = SubstituteWord(uint.RotateRight(word, 8)) ^ constant;
                constant = constant << 1 ^ ((constant & 0x80) != 0 ? 0x11Bu : 0);
            }
            else if (keyWords > 6 && index % keyWords == 4)
            {
                word = SubstituteWord(word);
            }

            words[index] = words[index - keyWords] ^ word;
        }

        var schedule = new Vector128<byte>[rounds + 1];
        for (var round = 0; round <= rounds; round++)
        {
            schedule[round] = Vector128.Create(words.Slice(4 * round, 4)).AsByte();
        }

        words.Clear();
        return schedule;
    }

    // AESKEYGENASSIST substitutes word 1 into word 0 of its result: the S-box without a table whose cache lines tell the key.
    private static uint SubstituteWord(uint word) => AesInstructions.KeygenAssist(Vector128.Create(0, word, 0, 0).AsByte(), 0).AsUInt32().ToScalar();
}

/// <summary>AES by the platform's library, for processors without the instructions.</summary>
internal sealed class AesLibraryBlocks : AesBlocks
{
    private readonly ConcurrentBag<Aes> _idle = [];
    private readonly byte[] _key;

    /// <summary>Keeps the key for as many library objects as threads use at once.</summary>
    public AesLibraryBlocks(ReadOnlySpan<byte> key)
    {
        OpenSslLibrary.Require();
        _key = key.ToArray();
    }

    public override void Encrypt(Span<byte> blocks)
    {
        var aes = Rent();
        aes.EncryptEcb(blocks, blocks, PaddingMode.None);
        _idle.Add(aes);
    }

    public override void Decrypt(Span<byte> blocks)
    {
        var aes = Rent();
        aes.DecryptEcb(blocks, blocks, PaddingMode.None);
        _idle.Add(aes);
    }

    public override void Dispose()
    {
        while (_idle.TryTake(out var aes))
        {
            aes.Dispose();
        }

        CryptographicOperations.ZeroMemory(_key);
    }

    private Aes Rent()
    {
        if (_idle.TryTake(out var aes))
        {
            return aes;
        }

        aes = Aes.Create();
        aes.Key = _key;
        return aes;
    }
}
