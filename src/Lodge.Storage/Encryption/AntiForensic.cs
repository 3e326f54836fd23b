using System.Buffers.Binary;
using System.Security.Cryptography;

namespace Lodge.Storage.Encryption;

/// <summary>The anti-forensic splitter of LUKS (LUKS1 On-Disk Format Specification 1.2.3, section 2.4): spreads a key over stripes that are all needed to get it back.</summary>
internal static class AntiForensic
{
    /// <summary>Splits <paramref name="key"/> into <c>stripes.Length / key.Length</c> stripes.</summary>
    public static void Split(ReadOnlySpan<byte> key, Span<byte> stripes, NamedHash hash)
    {
        Span<byte> state = stackalloc byte[key.Length];
        state.Clear();
        var last = stripes.Length - key.Length;
        RandomNumberGenerator.Fill(stripes[..last]);
        for (var offset = 0; offset < last; offset += key.Length)
        {
            Exclusive(state, stripes.Slice(offset, key.Length));
            Diffuse(state, hash);
        }

        key.CopyTo(stripes[last..]);
        Exclusive(stripes[last..], state);
        state.Clear();
    }

    /// <summary>Gets the key back.</summary>
    public static void Merge(ReadOnlySpan<byte> stripes, Span<byte> key, NamedHash hash)
    {
        key.Clear();
        var last = stripes.Length - key.Length;
        for (var offset = 0; offset < last; offset += key.Length)
        {
            Exclusive(key, stripes.Slice(offset, key.Length));
            Diffuse(key, hash);
        }

        Exclusive(key, stripes[last..]);
    }

    // H1 of the specification: each piece of a digest's length becomes the hash of its number and itself, the last cut to fit.
    private static void Diffuse(Span<byte> state, NamedHash hash)
    {
        Span<byte> input = stackalloc byte[4 + hash.Length];
        Span<byte> digest = stackalloc byte[hash.Length];
        for (int piece = 0, offset = 0; offset < state.Length; piece++, offset += hash.Length)
        {
            var part = state[offset..Math.Min(offset + hash.Length, state.Length)];
            BinaryPrimitives.WriteInt32BigEndian(input, piece);
            part.CopyTo(input[4..]);
            hash.Compute(input[..(4 + part.Length)], digest);
            digest[..part.Length].CopyTo(part);
        }
    }

    private static void Exclusive(Span<byte> target, ReadOnlySpan<byte> with)
    {
        for (var index = 0; index < target.Length; index++)
        {
            target[index] ^= with[index];
        }
    }
}
