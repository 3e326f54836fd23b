using System.Net;
using System.Security.Cryptography;
using Lodge.Management.Host;

namespace Lodge.Management.Images;

/// <summary>Fetches an official cloud image with its checksums and, where the distribution signs them, their signature.</summary>
/// <param name="client">Does the requests (with the host's proxy settings).</param>
/// <param name="step">Told what is being done.</param>
/// <param name="percent">Told how far a download is.</param>
public sealed partial class CloudImagePuller(HttpClient client, Action<string> step, Action<double> percent)
{
    private const int LargestChecksums = 1 << 20;
    private const long LargestImage = 64L << 30;

    /// <summary>Fetches into <paramref name="folder"/>; gives the file's name there.</summary>
    /// <param name="image">What to fetch.</param>
    /// <param name="mirror">Base address in place of the site's, or null.</param>
    /// <param name="requireSignature">Whether checksums without a valid signature are refused although the distribution signs them.</param>
    /// <param name="folder">An empty folder.</param>
    /// <exception cref="ManagementException">The site is not reached, or what it sent is not what it vouches for.</exception>
    public async Task<(string File, string Sum)> FetchAsync(CloudImage image, string? mirror, bool requireSignature, string folder)
    {
        string site = (mirror ?? image.Site).TrimEnd('/');
        step($"Fetching the checksums of {image.Name}");
        string sums = Path.Combine(folder, ".checksums");
        await DownloadAsync($"{site}/{image.Checksums}", sums, LargestChecksums, null).ConfigureAwait(false);
        if (image.Signature != CloudImageSignature.None && requireSignature)
        {
            await VerifyAsync(image, site, sums, folder).ConfigureAwait(false);
        }
        string file = Path.GetFileName(image.Path);
        string expected = Checksum(File.ReadAllLines(sums), file, image.Algorithm)
            ?? throw new ManagementException($"{site}/{image.Checksums} has no {image.Algorithm} checksum of {file}");
        step($"Fetching {file}");
        using IncrementalHash hash = IncrementalHash.CreateHash(image.Algorithm == "SHA512" ? HashAlgorithmName.SHA512 : HashAlgorithmName.SHA256);
        await DownloadAsync($"{site}/{image.Path}", Path.Combine(folder, "disk.qcow2"), LargestImage, hash).ConfigureAwait(false);
        string actual = Convert.ToHexStringLower(hash.GetHashAndReset());
        if (actual != expected)
        {
            throw new ManagementException($"{site}/{image.Path} has the {image.Algorithm} checksum {actual}, but {expected} is vouched for; try again, or another mirror");
        }
        File.Delete(sums);
        return ("disk.qcow2", actual);
    }

    /// <summary>The checksum of a file in a list: <c>HEX  NAME</c>, <c>HEX *NAME</c> or <c>SHA256 (NAME) = HEX</c>.</summary>
    internal static string? Checksum(IEnumerable<string> lines, string file, string algorithm)
    {
        int digits = algorithm == "SHA512" ? 128 : 64;
        foreach (string line in lines)
        {
            string[] words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
            string? sum = words switch
            {
                [var hex, var name] when name.TrimStart('*') == file => hex,
                [var kind, var name, "=", var hex] when kind == algorithm && name == $"({file})" => hex,
                _ => null,
            };
            if (sum is not null && sum.Length == digits && sum.All(char.IsAsciiHexDigit))
            {
                return sum.ToLowerInvariant();
            }
        }
        return null;
    }

    private async Task VerifyAsync(CloudImage image, string site, string sums, string folder)
    {
        HostProgram.Require("gpgv", "gpgv");
        string keyring = image.Keyrings.FirstOrDefault(File.Exists) ?? throw new ManagementException(
            $"the keys of {image.Name.Name} to check the signature with are missing ({string.Join(", ", image.Keyrings)}); install the package {image.KeyringPackage}, or give --no-signature to rely on HTTPS alone");
        string binary = Path.Combine(folder, ".keyring");
        byte[] keys = File.ReadAllBytes(keyring);
        File.WriteAllBytes(binary, keys.AsSpan().StartsWith("-----BEGIN"u8) ? Dearmor(keys) : keys);
        List<string> arguments = ["--keyring", binary];
        string checkedText = sums + ".checked";
        if (image.Signature == CloudImageSignature.Detached)
        {
            await DownloadAsync($"{site}/{image.SignaturePath}", sums + ".sig", LargestChecksums, null).ConfigureAwait(false);
            arguments.AddRange([sums + ".sig", sums]);
        }
        else
        {
            // What counts is the signed text alone, not what may stand around it.
            arguments.AddRange(["--output", checkedText, sums]);
        }
        (int status, string error) = HostProgram.Run("gpgv", arguments);
        if (status != 0)
        {
            throw new ManagementException($"the signature of {site}/{image.Checksums} is not by a key of {keyring}: {error}");
        }
        if (File.Exists(checkedText))
        {
            File.Move(checkedText, sums, overwrite: true);
        }
        File.Delete(binary);
        File.Delete(sums + ".sig");
    }

    /// <summary>The binary form of an ASCII-armored key (RFC 9580, section 6): the base64 between the empty line and the checksum.</summary>
    private static byte[] Dearmor(byte[] armored)
    {
        IEnumerable<string> lines = System.Text.Encoding.ASCII.GetString(armored).Split('\n').Select(line => line.Trim())
            .SkipWhile(line => line.Length != 0).Skip(1).TakeWhile(line => !line.StartsWith('=') && !line.StartsWith('-'));
        try
        {
            return Convert.FromBase64String(string.Concat(lines));
        }
        catch (FormatException e)
        {
            throw new ManagementException("the distribution's keyring is damaged: its armor is not base64", e);
        }
    }

    private async Task DownloadAsync(string address, string path, long largest, IncrementalHash? hash)
    {
        try
        {
            using HttpResponseMessage response = await client.GetAsync(address, HttpCompletionOption.ResponseHeadersRead).ConfigureAwait(false);
            if (response.StatusCode != HttpStatusCode.OK)
            {
                throw new ManagementException($"{address} answers {(int)response.StatusCode} {response.ReasonPhrase}; give another site with --mirror");
            }
            long? length = response.Content.Headers.ContentLength;
            await using Stream source = await response.Content.ReadAsStreamAsync().ConfigureAwait(false);
            await using FileStream target = new(path, FileMode.CreateNew, FileAccess.Write, FileShare.Read, 1);
            byte[] buffer = new byte[1 << 17];
            for (long done = 0; ;)
            {
                int count = await source.ReadAsync(buffer).ConfigureAwait(false);
                if (count == 0)
                {
                    if (length is { } all && all != done)
                    {
                        throw new ManagementException($"{address} ended after {done} of {all} bytes; try again");
                    }
                    return;
                }
                done += count;
                if (done > largest)
                {
                    throw new ManagementException($"{address} is larger than {largest} bytes");
                }
                hash?.AppendData(buffer, 0, count);
                await target.WriteAsync(buffer.AsMemory(0, count)).ConfigureAwait(false);
                percent(length is > 0 ? 100.0 * done / length.Value : 0);
            }
        }
        catch (Exception e) when (e is HttpRequestException or TaskCanceledException or HttpIOException)
        {
            throw new ManagementException($"{address} cannot be fetched: {e.Message}; check the network or the proxy (https_proxy), or give another site with --mirror", e);
        }
    }
}
