namespace Lodge.Cli.Run;

/// <summary>The form of an option with options of its own: <c>VALUE[,NAME=VALUE...]</c>; a comma within one of them is written twice.</summary>
internal static class OptionWords
{
    /// <summary>The parts, at least one.</summary>
    public static List<string> Split(string text)
    {
        var parts = new List<string>();
        var part = new System.Text.StringBuilder();
        for (int i = 0; i < text.Length; i++)
        {
            if (text[i] != ',')
            {
                part.Append(text[i]);
            }
            else if (i + 1 < text.Length && text[i + 1] == ',')
            {
                part.Append(',');
                i++;
            }
            else
            {
                parts.Add(part.ToString());
                part.Clear();
            }
        }
        parts.Add(part.ToString());
        return parts;
    }

    /// <summary>Name and value of a part; one without <c>=</c> is turned on.</summary>
    public static (string Name, string Value) Pair(string part)
    {
        int equals = part.IndexOf('=', StringComparison.Ordinal);
        return equals < 0 ? (part, "on") : (part[..equals], part[(equals + 1)..]);
    }

    /// <summary>Parses on or off.</summary>
    /// <param name="what">What has the option, for the message.</param>
    /// <exception cref="FormatException">It is neither.</exception>
    public static bool Switch(string what, string name, string value) => value switch
    {
        "on" or "true" or "yes" => true,
        "off" or "false" or "no" => false,
        _ => throw new FormatException($"{what} option {name}={value} is not understood; give on or off"),
    };
}
