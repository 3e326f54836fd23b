using System.Text;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Vhd;

/// <summary>The names by which a differencing disk finds its parent.</summary>
internal static class VhdParentName
{
    /// <summary>Room for a name in the file, in bytes.</summary>
    public const int Space = 4096;

    private const int Longest = 64 * 1024;

    /// <summary>All names that the header gives, as paths of this host, the relative ones first.</summary>
    public static async ValueTask<IReadOnlyList<string>> ReadAsync(IStorageFile file, VhdHeader header, CancellationToken cancellation)
    {
        var names = new List<(int Rank, string Name)>();
        foreach (var locator in header.Locators)
        {
            if (locator.DataLength is 0 or > Longest || locator.DataOffset > (ulong)file.Length || locator.DataLength > (ulong)file.Length - locator.DataOffset)
            {
                continue;
            }

            var bytes = await file.ReadBytesAsync((long)locator.DataOffset, (int)locator.DataLength, cancellation).ConfigureAwait(false);
            var name = locator.PlatformCode switch
            {
                "W2ru" or "W2ku" => FromWindows(Encoding.Unicode.GetString(bytes)),
                "Wi2r" or "Wi2k" => FromWindows(Encoding.UTF8.GetString(bytes)),
                "MacX" => FromAddress(Encoding.UTF8.GetString(bytes)),
                _ => "",
            };
            if (name.Length > 0)
            {
                names.Add((locator.PlatformCode is "W2ru" or "Wi2r" ? 0 : 1, name));
            }
        }

        if (FromWindows(header.ParentUnicodeName) is { Length: > 0 } last)
        {
            names.Add((2, last));
        }

        return [.. names.OrderBy(name => name.Rank).Select(name => name.Name).Distinct()];
    }

    /// <summary>The kind of name and its bytes for the file.</summary>
    public static (string PlatformCode, byte[] Bytes) Encode(string name)
    {
        var absolute = name.StartsWith('/');
        var bytes = Encoding.Unicode.GetBytes(absolute ? name : ".\\" + name.Replace('/', '\\'));
        return bytes.Length <= Space
            ? (absolute ? "W2ku" : "W2ru", bytes)
            : throw new DiskException(DiskError.InvalidOption, $"option 'backing_file' has {bytes.Length / 2} characters; {Space / 2} are the most");
    }

    // A drive's letter means nothing here: such a parent is looked for beside the image.
    private static string FromWindows(string name)
    {
        name = name.TrimEnd('\0').Replace('\\', '/');
        while (name.StartsWith("./", StringComparison.Ordinal))
        {
            name = name[2..];
        }

        return (name.Length > 1 && name[1] == ':') || name.StartsWith("//", StringComparison.Ordinal) ? name[(name.LastIndexOfAny(['/', ':']) + 1)..] : name;
    }

    private static string FromAddress(string name)
    {
        name = name.TrimEnd('\0');
        name = name.StartsWith("file://localhost", StringComparison.Ordinal) ? name[16..] : name.StartsWith("file://", StringComparison.Ordinal) ? name[7..] : name;
        return Uri.UnescapeDataString(name);
    }
}
