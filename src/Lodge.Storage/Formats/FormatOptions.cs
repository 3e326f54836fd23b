using Lodge.Storage.Disks;

namespace Lodge.Storage.Formats;

/// <summary>The form of an option's value.</summary>
public enum FormatOptionKind
{
    /// <summary>Any text.</summary>
    Text,

    /// <summary>A number of bytes, with suffixes k, M, G, T, P, E (powers of 1024).</summary>
    Size,

    /// <summary><c>on</c> or <c>off</c>.</summary>
    Switch,

    /// <summary>A whole number.</summary>
    Number,

    /// <summary>One of <see cref="FormatOption.Choices"/>.</summary>
    Choice,
}

/// <summary>An option for making an image.</summary>
/// <param name="Name">As written before the equals sign.</param>
/// <param name="Kind">The form of its value.</param>
/// <param name="Description">One line for <c>-o help</c>.</param>
/// <param name="Default">What holds when it is not given, in words or as a value; may be empty.</param>
public sealed record FormatOption(string Name, FormatOptionKind Kind, string Description, string Default = "")
{
    /// <summary>The values of a <see cref="FormatOptionKind.Choice"/>.</summary>
    public IReadOnlyList<string> Choices { get; init; } = [];

    /// <summary>Whether <c>amend</c> can change it on an existing image.</summary>
    public bool Amendable { get; init; }
}

/// <summary>The options given for one image, checked against the format's list.</summary>
public sealed class FormatOptions
{
    private readonly Dictionary<string, string> _values = new(StringComparer.Ordinal);

    /// <summary>No options.</summary>
    public static FormatOptions None => new();

    /// <summary>Names that were given.</summary>
    public IReadOnlyCollection<string> Names => _values.Keys;

    /// <summary>Takes name and value pairs after checking each against <paramref name="format"/>.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>: unknown name or a value of the wrong form.</exception>
    public static FormatOptions Parse(IDiskFormat format, IEnumerable<KeyValuePair<string, string>> pairs)
    {
        var options = new FormatOptions();
        foreach (var (name, value) in pairs)
        {
            var known = format.Options.FirstOrDefault(option => option.Name == name)
                ?? throw new DiskException(DiskError.InvalidOption, $"the format {format.Name} has no option '{name}'; -o help lists its options");
            Check(known, value);
            options._values[name] = value;
        }

        return options;
    }

    /// <summary>Sets one option without a check; for code that knows the format.</summary>
    public FormatOptions With(string name, string value)
    {
        _values[name] = value;
        return this;
    }

    /// <summary>The text of an option, or null.</summary>
    public string? Text(string name) => _values.GetValueOrDefault(name);

    /// <summary>The value of a switch, or <paramref name="missing"/>.</summary>
    public bool Switch(string name, bool missing) => _values.TryGetValue(name, out var value) ? value is "on" or "true" or "yes" : missing;

    /// <summary>The value of a size in bytes, or <paramref name="missing"/>.</summary>
    public long Size(string name, long missing) => _values.TryGetValue(name, out var value) && TryParseSize(value, out var size) ? size : missing;

    /// <summary>The value of a number, or <paramref name="missing"/>.</summary>
    public long Number(string name, long missing) => _values.TryGetValue(name, out var value) && long.TryParse(value, out var number) ? number : missing;

    /// <summary>Reads a size: digits, optionally a fraction, and a suffix of b, k, M, G, T, P, E.</summary>
    public static bool TryParseSize(string text, out long size)
    {
        size = 0;
        var end = text.Length;
        var shift = 0;
        if (end > 0 && !char.IsAsciiDigit(text[end - 1]))
        {
            shift = char.ToLowerInvariant(text[--end]) switch { 'b' => 0, 'k' => 10, 'm' => 20, 'g' => 30, 't' => 40, 'p' => 50, 'e' => 60, _ => -1 };
        }

        if (shift < 0 || !decimal.TryParse(text.AsSpan(0, end), System.Globalization.NumberStyles.AllowDecimalPoint, null, out var number))
        {
            return false;
        }

        var bytes = number * (1L << shift);
        if (bytes > long.MaxValue)
        {
            return false;
        }

        size = (long)Math.Ceiling(bytes);
        return true;
    }

    private static void Check(FormatOption option, string value)
    {
        var wanted = option.Kind switch
        {
            FormatOptionKind.Size when !TryParseSize(value, out _) => "a size such as 64k or 2M",
            FormatOptionKind.Switch when value is not ("on" or "off" or "true" or "false" or "yes" or "no") => "on or off",
            FormatOptionKind.Number when !long.TryParse(value, out _) => "a number",
            FormatOptionKind.Choice when !option.Choices.Contains(value) => "one of " + string.Join(", ", option.Choices),
            _ => null,
        };
        if (wanted is not null)
        {
            throw new DiskException(DiskError.InvalidOption, $"option '{option.Name}' has the value '{value}'; give {wanted}");
        }
    }
}
