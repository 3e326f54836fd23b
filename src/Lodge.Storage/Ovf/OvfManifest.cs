using System.Buffers;
using System.Security.Cryptography;
using System.Text;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Ovf;

/// <summary>The digests of a package's files (DSP0243, "Manifest": lines of <c>SHA256(name)= digits</c>).</summary>
internal sealed class OvfManifest
{
    /// <summary>Longest manifest in bytes.</summary>
    public const int MostBytes = 1 << 20;

    private readonly Dictionary<string, (HashAlgorithmName Algorithm, byte[] Digest)> _digests = new(StringComparer.Ordinal);

    /// <summary>The files with digests.</summary>
    public IReadOnlyCollection<string> Names => _digests.Keys;

    /// <exception cref="DiskException"><see cref="DiskError.Corrupt"/>, <see cref="DiskError.Unsupported"/>.</exception>
    public static OvfManifest Parse(byte[] bytes, string path)
    {
        var manifest = new OvfManifest();
        foreach (var raw in Encoding.UTF8.GetString(bytes).Split('\n'))
        {
            var line = raw.Trim();
            if (line.Length == 0)
            {
                continue;
            }

            var open = line.IndexOf('(', StringComparison.Ordinal);
            var close = line.LastIndexOf(')');
            var equals = close < 0 ? -1 : line.IndexOf('=', close);
            if (open <= 0 || close <= open || equals < 0)
            {
                throw new DiskException(DiskError.Corrupt, $"{path}: the line '{Shorten(line)}' is no digest of a file");
            }

            var (algorithm, length) = line[..open].Trim().ToUpperInvariant() switch
            {
                "SHA1" => (HashAlgorithmName.SHA1, 20),
                "SHA256" => (HashAlgorithmName.SHA256, 32),
                "SHA384" => (HashAlgorithmName.SHA384, 48),
                "SHA512" => (HashAlgorithmName.SHA512, 64),
                var other => throw new DiskException(DiskError.Unsupported, $"{path}: digests of the kind '{Shorten(other)}' are not known"),
            };
            var digits = line[(equals + 1)..].Trim();
            var digest = new byte[length];
            if (digits.Length != 2 * length || Convert.FromHexString(digits, digest, out _, out _) != OperationStatus.Done || !manifest._digests.TryAdd(line[(open + 1)..close], (algorithm, digest)))
            {
                throw new DiskException(DiskError.Corrupt, $"{path}: the line '{Shorten(line)}' has a wrong digest, or a file that was named before");
            }
        }

        return manifest;
    }

    /// <summary>The manifest's line of a file.</summary>
    public static string Line(string name, byte[] sha256) => $"SHA256({name})= {Convert.ToHexStringLower(sha256)}\n";

    /// <summary>The digest of a disk's content.</summary>
    public static async ValueTask<byte[]> DigestAsync(IDisk disk, HashAlgorithmName algorithm, CancellationToken cancellation)
    {
        using var hash = IncrementalHash.CreateHash(algorithm);
        var buffer = new byte[1 << 20];
        for (long offset = 0; offset < disk.Length;)
        {
            var length = (int)Math.Min(buffer.Length, disk.Length - offset);
            await disk.ReadAsync(offset, buffer.AsMemory(0, length), cancellation).ConfigureAwait(false);
            hash.AppendData(buffer, 0, length);
            offset += length;
        }

        return hash.GetHashAndReset();
    }

    /// <summary>Throws unless the file is named with the digest of its content.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Corrupt"/>.</exception>
    public async ValueTask VerifyAsync(string name, IDisk content, CancellationToken cancellation)
    {
        if (!_digests.TryGetValue(name, out var known))
        {
            throw new DiskException(DiskError.Corrupt, $"the manifest has no digest of {name}: the package was changed");
        }

        var digest = await DigestAsync(content, known.Algorithm, cancellation).ConfigureAwait(false);
        if (!digest.AsSpan().SequenceEqual(known.Digest))
        {
            throw new DiskException(DiskError.Corrupt, $"the content of {name} is not that of the manifest: the package was damaged or changed");
        }
    }

    private static string Shorten(string text) => text.Length > 100 ? text[..100] + "..." : text;
}
