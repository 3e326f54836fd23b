using System.Globalization;
using Lodge.Storage.Shares;

namespace Lodge.Cli.Run;

/// <summary>A folder that <c>--share</c> asked for.</summary>
/// <param name="Host">The folder here.</param>
/// <param name="Guest">Where the guest has it: an absolute path.</param>
internal sealed record ShareOption(string Host, string Guest)
{
    /// <summary>Whether the guest may only read.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>Whose the files of this host's user are in the guest; null: see <see cref="ShareOptions.Owner"/>.</summary>
    public ShareOwner? Owner { get; init; }

    /// <summary>How long the guest may cache.</summary>
    public ShareCache Cache { get; init; }

    /// <summary>What the guest mounts the share of a number by.</summary>
    public static string Tag(int index) => string.Create(CultureInfo.InvariantCulture, $"share{index}");

    /// <summary>Parses <c>HOST:GUEST[:ro][,NAME=VALUE...]</c>; a comma in a path is written twice.</summary>
    /// <exception cref="FormatException">It is not understood; the message says what to write instead.</exception>
    public static ShareOption Parse(string text)
    {
        const char Comma = '\x1';       // stands for a doubled one while the text is split
        string[] parts = text.Contains(Comma) ? [] : text.Replace(",,", Comma.ToString(), StringComparison.Ordinal).Split(',');
        string paths = parts.Length == 0 ? "" : parts[0].Replace(Comma, ',');
        bool readOnly = false;
        foreach ((string ending, bool only) in (ReadOnlySpan<(string, bool)>)[(":ro", true), (":rw", false)])
        {
            if (paths.EndsWith(ending, StringComparison.Ordinal))
            {
                (paths, readOnly) = (paths[..^ending.Length], only);
                break;
            }
        }
        int colon = paths.LastIndexOf(':');
        if (colon <= 0)
        {
            throw new FormatException($"shared folder '{text}' is not understood; write it as HOST:GUEST or HOST:GUEST:ro, for example .:/work");
        }
        ShareOption option = new(paths[..colon], GuestPath(paths[(colon + 1)..], text)) { ReadOnly = readOnly };
        foreach (string part in parts.Skip(1))
        {
            int equals = part.IndexOf('=', StringComparison.Ordinal);
            (string name, string value) = equals < 0 ? (part, "") : (part[..equals], part[(equals + 1)..]);
            option = name switch
            {
                "owner" => option with { Owner = ParseOwner(value) },
                "cache" => option with { Cache = ParseCache(value) },
                _ => throw new FormatException($"option '{name}' of a shared folder is not known; there are owner and cache (a comma in a path is written twice)"),
            };
        }
        return option;
    }

    /// <summary>The path goes to kernel command lines and unit names, so that only plain ones are taken.</summary>
    private static string GuestPath(string path, string text)
    {
        string[] names = path.Split('/', StringSplitOptions.RemoveEmptyEntries);
        bool plain = path.All(c => c is > ' ' and < '\x7f' and not ('\'' or '"' or '\\' or ':' or ',' or '%' or '$' or '`'));
        if (!path.StartsWith('/') || names.Length == 0 || !plain || names.Contains(".") || names.Contains("..") || path.Length > 200)
        {
            throw new FormatException($"'{path}' of shared folder '{text}' is not usable as the place in the guest; give an absolute path of plain characters below /, such as /work");
        }
        return "/" + string.Join('/', names);
    }

    private static ShareOwner ParseOwner(string value)
    {
        string[] numbers = value.Split(':');
        if (numbers.Length is 1 or 2 && numbers.All(n => uint.TryParse(n, NumberStyles.None, CultureInfo.InvariantCulture, out uint id) && id < uint.MaxValue))
        {
            uint user = uint.Parse(numbers[0], CultureInfo.InvariantCulture);
            return new ShareOwner(user, numbers.Length == 2 ? uint.Parse(numbers[1], CultureInfo.InvariantCulture) : user);
        }
        throw new FormatException($"owner '{value}' of a shared folder is not understood; give the guest's numbers of user and group, such as 1000:1000");
    }

    private static ShareCache ParseCache(string value) => value switch
    {
        "auto" => ShareCache.Auto,
        "none" => ShareCache.None,
        "always" => ShareCache.Always,
        _ => throw new FormatException($"cache '{value}' of a shared folder is not known; give auto, none or always"),
    };
}
