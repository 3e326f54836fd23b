using System.Security.Cryptography;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Encryption;

/// <summary>A hash function under the name that LUKS headers and qemu-img give it.</summary>
/// <param name="Name">Such as <c>sha256</c>.</param>
/// <param name="Length">Bytes in a digest.</param>
/// <param name="Algorithm">The platform's name.</param>
internal sealed record NamedHash(string Name, int Length, HashAlgorithmName Algorithm)
{
    private static readonly NamedHash[] All =
    [
        new("md5", 16, HashAlgorithmName.MD5),
        new("sha1", 20, HashAlgorithmName.SHA1),
        new("sha256", 32, HashAlgorithmName.SHA256),
        new("sha384", 48, HashAlgorithmName.SHA384),
        new("sha512", 64, HashAlgorithmName.SHA512),
    ];

    /// <summary>Names of all.</summary>
    public static IReadOnlyList<string> Names { get; } = [.. All.Select(hash => hash.Name)];

    /// <summary>The hash of a name.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Unsupported"/>.</exception>
    public static NamedHash Find(string name)
    {
        OpenSslLibrary.Require();
        return Array.Find(All, hash => hash.Name == name)
            ?? throw new DiskException(DiskError.Unsupported, $"the hash '{string.Concat(name.Take(32).Where(char.IsAsciiLetterOrDigit))}' is not supported; {string.Join(", ", Names)} are");
    }

    /// <summary>The digest of <paramref name="data"/>.</summary>
    public void Compute(ReadOnlySpan<byte> data, Span<byte> digest) => CryptographicOperations.HashData(Algorithm, data, digest);

    /// <summary>PBKDF2 (RFC 8018, 5.2) with HMAC of this hash.</summary>
    public void Derive(ReadOnlySpan<byte> passphrase, ReadOnlySpan<byte> salt, long iterations, Span<byte> key) =>
        Rfc2898DeriveBytes.Pbkdf2(passphrase, salt, key, (int)Math.Min(iterations, int.MaxValue), Algorithm);
}
