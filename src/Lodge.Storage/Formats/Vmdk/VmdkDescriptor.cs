using System.Globalization;
using System.Text;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats.Vmdk;

/// <summary>A line of the extent description: <c>ACCESS SECTORS TYPE "NAME" OFFSET</c>.</summary>
/// <param name="Access">RW, RDONLY or NOACCESS.</param>
/// <param name="Sectors">Its size.</param>
/// <param name="Type">FLAT, SPARSE, ZERO, VMFS, VMFSSPARSE, ...</param>
/// <param name="Name">Its file, relative to the descriptor; empty for ZERO.</param>
/// <param name="Offset">Where a flat extent begins in its file, in sectors.</param>
internal sealed record VmdkExtentLine(string Access, long Sectors, string Type, string Name, long Offset);

/// <summary>The text that describes a disk (VMware, Virtual Disk Format 5.0, "The Descriptor File"): in a file of its own or in the first sectors of a sparse one.</summary>
internal sealed class VmdkDescriptor
{
    /// <summary><c>CID_NOPARENT</c>.</summary>
    public const uint NoParent = uint.MaxValue;

    /// <summary>Longest text in bytes.</summary>
    public const int MostBytes = 1 << 20;

    private const int MostExtents = 4096;
    private const int MostLines = 65536;
    private const long MostSectors = 1L << 44;

    private readonly Dictionary<string, string> _values = new(StringComparer.OrdinalIgnoreCase);
    private readonly List<VmdkExtentLine> _extents = [];

    private VmdkDescriptor()
    {
    }

    public uint ContentId => Hexadecimal("CID");

    public uint ParentContentId => _values.ContainsKey("parentCID") ? Hexadecimal("parentCID") : NoParent;

    public string CreateType => _values.GetValueOrDefault("createType", "");

    /// <summary>The parent as the image names it, or null.</summary>
    public string? ParentName => ParentContentId != NoParent && _values.GetValueOrDefault("parentFileNameHint") is { Length: > 0 } name ? name : null;

    public IReadOnlyList<VmdkExtentLine> Extents => _extents;

    /// <summary>Whether a file begins as a descriptor: with its first line's comment, maybe after empty lines.</summary>
    public static bool Begins(ReadOnlySpan<byte> head)
    {
        head = head.StartsWith("\xEF\xBB\xBF"u8) ? head[3..] : head;
        head = head[..Math.Min(head.Length, 256)].TrimStart(" \t\r\n"u8);
        return head.Length > 0 && head[0] == '#' && head[1..].TrimStart(" \t"u8) is var rest && rest.Length >= 19
            && Ascii.EqualsIgnoreCase(rest[..19], "Disk DescriptorFile"u8);
    }

    /// <summary>Reads a descriptor; bytes after a NUL are not part of it.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Corrupt"/>.</exception>
    public static VmdkDescriptor Parse(ReadOnlySpan<byte> bytes, string name)
    {
        var descriptor = new VmdkDescriptor();
        var end = bytes.IndexOf((byte)0);
        bytes = end < 0 ? bytes : bytes[..end];
        if (bytes.Length > MostBytes)
        {
            throw new DiskException(DiskError.Corrupt, $"{name}: the descriptor of {bytes.Length} bytes is too long");
        }

        var lines = 0;
        foreach (var raw in Encoding.UTF8.GetString(bytes).AsSpan().EnumerateLines())
        {
            if (++lines > MostLines)
            {
                throw new DiskException(DiskError.Corrupt, $"{name}: the descriptor has more than {MostLines} lines");
            }

            var line = raw.Trim();
            if (line.Length == 0 || line[0] == '#')
            {
                continue;
            }

            if (StartsWithWord(line, "RW") || StartsWithWord(line, "RDONLY") || StartsWithWord(line, "NOACCESS"))
            {
                descriptor.AddExtent(line, name);
            }
            else if (line.IndexOf('=') is > 0 and var equals)
            {
                // The first counts.
                descriptor._values.TryAdd(line[..equals].Trim().ToString(), Unquote(line[(equals + 1)..].Trim()).ToString());
            }
        }

        return descriptor;
    }

    /// <summary>The value of a name such as <c>ddb.adapterType</c>, or null.</summary>
    public string? Value(string name) => _values.GetValueOrDefault(name);

    /// <summary>Where the digits of a line such as <c>CID=</c> are in a descriptor's bytes.</summary>
    /// <returns>Their place and number, 0 if there are none.</returns>
    public static (int Start, int Length) FindDigits(ReadOnlySpan<byte> text, ReadOnlySpan<byte> name)
    {
        for (var at = 0; at < text.Length;)
        {
            var line = text[at..];
            var end = line.IndexOf((byte)'\n');
            line = end < 0 ? line : line[..end];
            if (line.StartsWith(name) && line[name.Length..].TrimStart(" \t"u8).StartsWith("="u8))
            {
                var start = line.IndexOf((byte)'=') + 1;
                while (start < line.Length && line[start] is (byte)' ' or (byte)'\t')
                {
                    start++;
                }

                var length = 0;
                while (start + length < line.Length && char.IsAsciiHexDigit((char)line[start + length]))
                {
                    length++;
                }

                return (at + start, length <= 8 ? length : 0);
            }

            if (end < 0)
            {
                break;
            }

            at += end + 1;
        }

        return (0, 0);
    }

    /// <summary>The text without its parent, or with another one.</summary>
    public static string WithParent(string text, string? parent, uint contentId)
    {
        var lines = text.TrimEnd('\0').Split('\n').Where(line =>
            !line.StartsWith("parentCID", StringComparison.OrdinalIgnoreCase) && !line.StartsWith("parentFileNameHint", StringComparison.OrdinalIgnoreCase)).ToList();
        var at = lines.FindIndex(line => line.StartsWith("CID", StringComparison.OrdinalIgnoreCase)) + 1;
        lines.Insert(at, $"parentCID={contentId:x8}");
        var type = lines.FindIndex(line => line.StartsWith("createType", StringComparison.OrdinalIgnoreCase));
        if (parent is not null)
        {
            lines.Insert(type < 0 ? at + 1 : type + 1, $"parentFileNameHint=\"{CheckName(parent)}\"");
        }

        return string.Join('\n', lines);
    }

    /// <summary>Throws unless a name can stand in a descriptor.</summary>
    public static string CheckName(string name) => name.AsSpan().IndexOfAny("\"\r\n\0") < 0
        ? name
        : throw new DiskException(DiskError.InvalidOption, $"the name {name} has characters that a VMDK descriptor cannot hold");

    private static bool StartsWithWord(ReadOnlySpan<char> line, string word) =>
        line.Length > word.Length && line.StartsWith(word, StringComparison.OrdinalIgnoreCase) && line[word.Length] is ' ' or '\t';

    private static ReadOnlySpan<char> Unquote(ReadOnlySpan<char> text) => text is ['"', .., '"'] ? text[1..^1] : text;

    private void AddExtent(ReadOnlySpan<char> line, string name)
    {
        if (_extents.Count == MostExtents)
        {
            throw new DiskException(DiskError.Corrupt, $"{name}: the descriptor names more than {MostExtents} extents");
        }

        var shown = line.Length > 200 ? line[..200].ToString() : line.ToString();
        var access = Word(ref line).ToString().ToUpperInvariant();
        if (!long.TryParse(Word(ref line), NumberStyles.None, CultureInfo.InvariantCulture, out var sectors) || sectors > MostSectors)
        {
            throw new DiskException(DiskError.Corrupt, $"{name}: the extent line '{shown}' has no usable size");
        }

        var type = Word(ref line).ToString().ToUpperInvariant();
        line = line.TrimStart();
        var file = "";
        if (line is ['"', ..])
        {
            var close = line[1..].IndexOf('"');
            if (close < 0)
            {
                throw new DiskException(DiskError.Corrupt, $"{name}: the extent line '{shown}' has an open quote");
            }

            file = line.Slice(1, close).ToString();
            line = line[(close + 2)..];
        }

        long offset = 0;
        var place = Word(ref line);
        if (place.Length != 0 && (!long.TryParse(place, NumberStyles.None, CultureInfo.InvariantCulture, out offset) || offset > MostSectors))
        {
            throw new DiskException(DiskError.Corrupt, $"{name}: the extent line '{shown}' has no usable offset");
        }

        _extents.Add(new VmdkExtentLine(access, sectors, type, file, offset));
    }

    private static ReadOnlySpan<char> Word(ref ReadOnlySpan<char> line)
    {
        line = line.TrimStart();
        var end = line.IndexOfAny(' ', '\t');
        var word = end < 0 ? line : line[..end];
        line = end < 0 ? default : line[end..];
        return word;
    }

    private uint Hexadecimal(string name) =>
        uint.TryParse(_values.GetValueOrDefault(name), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var value) ? value : 0;
}
