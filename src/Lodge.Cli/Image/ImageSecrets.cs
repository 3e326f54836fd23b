using System.Text;

namespace Lodge.Cli.Image;

/// <summary>Passphrases of encrypted images. They come from files or the environment, never from the command line, which others on the host can read.</summary>
internal sealed class ImageSecrets
{
    private const int Longest = 1 << 20;
    private readonly Dictionary<string, string> _named = new(StringComparer.Ordinal);

    /// <summary>Reads the <c>--object secret,...</c> of a command line.</summary>
    public ImageSecrets(IEnumerable<string> objects)
    {
        foreach (string text in objects)
        {
            Dictionary<string, string> values = [];
            foreach ((string name, string value) in OptionList.Parse(text))
            {
                values[name] = value;
            }
            if (!values.Remove("secret") || !values.Remove("id", out string? id))
            {
                throw new LodgeException($"'--object {text}' is not known; write --object secret,id=NAME,file=FILE", ExitStatus.Usage);
            }
            if (values.ContainsKey("data"))
            {
                throw new LodgeException("a passphrase on the command line is seen by others; write --object secret,id=NAME,file=FILE", ExitStatus.Usage);
            }
            values.Remove("format", out string? format);
            if (!values.Remove("file", out string? file) || values.Count != 0 || format is not (null or "raw" or "base64"))
            {
                throw new LodgeException($"'--object {text}' is not known; write --object secret,id=NAME,file=FILE[,format=raw|base64]", ExitStatus.Usage);
            }
            byte[] bytes = ReadFile(file);
            try
            {
                _named[id] = Encoding.UTF8.GetString(format == "base64" ? Convert.FromBase64String(Encoding.ASCII.GetString(bytes).Trim()) : bytes);
            }
            catch (FormatException)
            {
                throw new LodgeException($"{file} does not hold base64");
            }
        }
    }

    /// <summary>The secret with an id.</summary>
    public string Named(string id) => _named.TryGetValue(id, out string? secret)
        ? secret
        : throw new LodgeException($"there is no secret '{id}'; add --object secret,id={id},file=FILE", ExitStatus.Usage);

    /// <summary>What <c>--secret</c> names: a file, whose last line end does not count, or <c>env:NAME</c>.</summary>
    public static string? Read(string? place)
    {
        if (place is null)
        {
            return null;
        }
        if (place.StartsWith("env:", StringComparison.Ordinal))
        {
            return Environment.GetEnvironmentVariable(place[4..]) ?? throw new LodgeException($"the environment has no variable {place[4..]}, which --secret names");
        }
        string text = Encoding.UTF8.GetString(ReadFile(place));
        return text.EndsWith('\n') ? text[..^1].TrimEnd('\r') : text;
    }

    private static byte[] ReadFile(string path)
    {
        try
        {
            using FileStream file = File.OpenRead(path);
            byte[] room = new byte[Longest];
            int length = file.ReadAtLeast(room, room.Length, throwOnEndOfStream: false);
            return room[..length];
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LodgeException($"the secret cannot be read: {e.Message}");
        }
    }
}
