using System.Globalization;
using System.Text;

namespace Lodge.Management.Templates;

/// <summary>Everything that a template's machine is made from, one line each. Two machines may be clones of one template only when all lines are equal.</summary>
public sealed class TemplateKey
{
    /// <summary>Makes a key.</summary>
    /// <param name="parts">The lines.</param>
    public TemplateKey(IReadOnlyList<string> parts)
    {
        Parts = parts;
        Text = string.Join('\n', parts);
        // FNV-1a, 64 bits: it only names a folder; the text itself is compared.
        ulong hash = 0xCBF2_9CE4_8422_2325;
        foreach (byte b in Encoding.UTF8.GetBytes(Text))
        {
            hash = (hash ^ b) * 0x100_0000_01B3;
        }
        Name = hash.ToString("x16", CultureInfo.InvariantCulture);
    }

    /// <summary>The lines.</summary>
    public IReadOnlyList<string> Parts { get; }

    /// <summary>The lines as one text.</summary>
    public string Text { get; }

    /// <summary>Name of the template's folder, 16 hexadecimal digits.</summary>
    public string Name { get; }

    /// <summary>What identifies a file that is not looked into: its path, length and time of change.</summary>
    public static string OfFile(string path)
    {
        FileInfo file = new(path);
        return file.Exists ? string.Create(CultureInfo.InvariantCulture, $"{path} {file.Length} {file.LastWriteTimeUtc.Ticks}") : $"{path} missing";
    }

    /// <summary>Whether a text can be the name of a template.</summary>
    public static bool IsName(string text) => text.Length == 16 && text.All(char.IsAsciiHexDigitLower);
}
