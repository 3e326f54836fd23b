namespace Lodge.Cli.Image;

/// <summary>Lists such as <c>name=value,name=value</c>; a comma in a value is written twice, a name alone means <c>name=on</c>.</summary>
internal static class OptionList
{
    /// <summary>The pairs in order.</summary>
    public static IEnumerable<KeyValuePair<string, string>> Parse(string text)
    {
        foreach (string item in Split(text))
        {
            int equals = item.IndexOf('=', StringComparison.Ordinal);
            yield return equals < 0 ? new(item, "on") : new(item[..equals], item[(equals + 1)..]);
        }
    }

    private static IEnumerable<string> Split(string text)
    {
        System.Text.StringBuilder item = new();
        for (int index = 0; index < text.Length; index++)
        {
            if (text[index] != ',')
            {
                item.Append(text[index]);
            }
            else if (index + 1 < text.Length && text[index + 1] == ',')
            {
                item.Append(text[index++]);
            }
            else if (item.Length != 0)
            {
                yield return item.ToString();
                item.Clear();
            }
        }
        if (item.Length != 0)
        {
            yield return item.ToString();
        }
    }
}
