namespace Lodge.Management.Images;

/// <summary>A name of a stored image: a distribution or a name of the user's, and a tag, written <c>name:tag</c>.</summary>
/// <param name="Name">For example <c>debian</c>.</param>
/// <param name="Tag">For example <c>bookworm</c>.</param>
public sealed record ImageName(string Name, string Tag)
{
    /// <summary>The tag when none is written, for names that have no other default.</summary>
    public const string Latest = "latest";

    /// <summary>Whether a text looks like an image's name rather than like a path.</summary>
    public static bool IsName(string text) => !text.Contains('/') && !text.StartsWith('.') && TrySplit(text, out _);

    /// <summary>Reads <c>name</c> or <c>name:tag</c>.</summary>
    /// <exception cref="ManagementException">It is none.</exception>
    public static ImageName Parse(string text) => TrySplit(text, out ImageName? name)
        ? name
        : throw new ManagementException($"'{text}' is not an image's name; write it as debian or debian:bookworm (letters, digits, '.', '_', '-')");

    /// <inheritdoc/>
    public override string ToString() => $"{Name}:{Tag}";

    private static bool TrySplit(string text, [System.Diagnostics.CodeAnalysis.NotNullWhen(true)] out ImageName? name)
    {
        int colon = text.IndexOf(':');
        string first = colon < 0 ? text : text[..colon];
        string tag = colon < 0 ? DefaultTag(first) : text[(colon + 1)..];
        name = IsWord(first) && IsWord(tag) ? new ImageName(first, tag) : null;
        return name is not null;
    }

    private static string DefaultTag(string name) => name == "debian" ? DebianBuilder.DefaultSuite : Latest;

    private static bool IsWord(string word) =>
        word.Length is > 0 and <= 64 && char.IsAsciiLetterOrDigit(word[0]) && word.All(c => char.IsAsciiLetterOrDigit(c) || c is '.' or '_' or '-');
}
