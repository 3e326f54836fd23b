using System.Globalization;
using System.Text;

namespace Lodge.Management.Host.Inventory;

/// <summary>
/// The host's file tree for those who look at <c>/proc</c>, <c>/sys</c> and <c>/dev</c>; tests give another root. Whatever is missing, unreadable, too long or no
/// number is null or empty: an odd host is described as far as it can be, and never an error.
/// </summary>
/// <param name="root">Where the tree begins, <c>/</c> on a real host.</param>
public sealed class HostTree(string root)
{
    /// <summary>What is read of one file at most; /proc/cpuinfo of a large host is longer, and its first processors are enough.</summary>
    public const int MaximumFile = 256 << 10;

    /// <summary>Entries of a folder that are looked at.</summary>
    public const int MaximumEntries = 8192;

    /// <summary>The host's own.</summary>
    public static HostTree OfHost { get; } = new("/");

    /// <summary>Text of a file without white space at its ends, or null.</summary>
    /// <param name="path">Path without a leading slash.</param>
    public string? Text(string path)
    {
        try
        {
            string place = Place(path);
            if (!File.Exists(place))
            {
                return null; // the usual case for much that is looked for, and an exception takes a millisecond
            }
            // Files of /proc and /sys have no length.
            using var stream = new FileStream(place, FileMode.Open, FileAccess.Read, FileShare.ReadWrite, 0);
            byte[] buffer = new byte[4096];
            int length = 0;
            while (stream.Read(buffer, length, buffer.Length - length) is > 0 and int more)
            {
                length += more;
                if (length == buffer.Length)
                {
                    if (length >= MaximumFile)
                    {
                        break;
                    }
                    Array.Resize(ref buffer, length * 4);
                }
            }
            return Encoding.UTF8.GetString(buffer, 0, length).Trim();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or NotSupportedException)
        {
            return null;
        }
    }

    /// <summary>Lines of a file; none when it cannot be read.</summary>
    public IReadOnlyList<string> Lines(string path) => Text(path) is { Length: > 0 } text ? text.Split('\n') : [];

    /// <summary>The number that a file holds, or null.</summary>
    public long? Number(string path) => Parse(Text(path));

    /// <summary>A switch of the kernel: <c>Y</c>, <c>1</c>, or <c>N</c>, <c>0</c>; null when it is not there or something else.</summary>
    public bool? Switch(string path) => Text(path) switch
    {
        "Y" or "y" or "1" => true,
        "N" or "n" or "0" => false,
        _ => null,
    };

    /// <summary>The chosen word of a file like <c>always [madvise] never</c>, or null.</summary>
    public string? Chosen(string path)
    {
        string text = Text(path) ?? "";
        int start = text.IndexOf('['), end = text.IndexOf(']', Math.Max(start, 0));
        return start >= 0 && end > start ? text[(start + 1)..end] : null;
    }

    /// <summary>Values of a file of lines <c>NAME: VALUE</c>; the first of each name counts.</summary>
    public IReadOnlyDictionary<string, string> Fields(string path)
    {
        Dictionary<string, string> fields = new(StringComparer.Ordinal);
        foreach (string line in Lines(path))
        {
            int colon = line.IndexOf(':', StringComparison.Ordinal);
            if (colon > 0)
            {
                fields.TryAdd(line[..colon].Trim(), line[(colon + 1)..].Trim());
            }
        }
        return fields;
    }

    /// <summary>Names in a folder, sorted; none when it cannot be read.</summary>
    public IReadOnlyList<string> Names(string path)
    {
        try
        {
            return [.. Directory.EnumerateFileSystemEntries(Place(path)).Take(MaximumEntries).Select(entry => Path.GetFileName(entry)).Order(StringComparer.Ordinal)];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    /// <summary>Whether there is a file, folder or device.</summary>
    public bool Exists(string path) => Path.Exists(Place(path));

    /// <summary>Last part of what a symbolic link points to, or null.</summary>
    public string? LinkName(string path)
    {
        try
        {
            return new FileInfo(Place(path)).LinkTarget is { } target ? Path.GetFileName(target) : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>Numbers of a list as the kernel writes it, <c>0-3,8</c>; what is not understood is left out.</summary>
    public static IReadOnlyList<int> List(string? text)
    {
        List<int> numbers = [];
        foreach (string part in (text ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))
        {
            string[] ends = part.Split('-');
            if (ends.Length <= 2 && Parse(ends[0]) is { } first and >= 0 && Parse(ends[^1]) is { } last && last >= first && last < MaximumEntries)
            {
                numbers.AddRange(Enumerable.Range((int)first, (int)(last - first) + 1));
            }
        }
        return [.. numbers.Distinct().Order().Take(MaximumEntries)];
    }

    /// <summary>The number at the beginning of a text such as <c>512 kB</c>, or null.</summary>
    public static long? Parse(string? text)
    {
        ReadOnlySpan<char> word = text.AsSpan().Trim();
        int end = word.IndexOfAny(" \t\n");
        return long.TryParse(end < 0 ? word : word[..end], NumberStyles.AllowLeadingSign, CultureInfo.InvariantCulture, out long number) ? number : null;
    }

    private string Place(string path) => Path.Combine(root, path);
}
