namespace Lodge.Management.Machines;

/// <summary>Names of machines.</summary>
public static class MachineName
{
    /// <summary>Whether a text can name a machine: 1 to 63 letters, digits, '-', '_' or '.', a letter or digit first. It is a folder's name and the guest's host name.</summary>
    public static bool IsName(string text) =>
        text.Length is > 0 and <= 63 && text.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.') && char.IsAsciiLetterOrDigit(text[0]);

    /// <summary>Checks a name.</summary>
    /// <exception cref="ManagementException">It is none.</exception>
    public static string Check(string text) => IsName(text)
        ? text
        : throw new ManagementException($"name '{text}' is not usable; give 1 to 63 letters, digits, '-', '_' or '.', a letter or digit first");
}
