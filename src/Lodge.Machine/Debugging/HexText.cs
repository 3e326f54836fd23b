using System.Globalization;
using System.Text;

namespace Lodge.Machine.Debugging;

/// <summary>Numbers and bytes as the remote serial protocol writes them. Nothing here throws on bad text.</summary>
internal static class HexText
{
    /// <summary>Value of a hexadecimal digit, or -1.</summary>
    public static int Digit(byte character) => character switch
    {
        >= (byte)'0' and <= (byte)'9' => character - '0',
        >= (byte)'a' and <= (byte)'f' => character - 'a' + 10,
        >= (byte)'A' and <= (byte)'F' => character - 'A' + 10,
        _ => -1,
    };

    /// <summary>Digit for a value of 0 to 15.</summary>
    public static byte Character(int value) => (byte)"0123456789abcdef"[value];

    /// <summary>A number, most significant digit first.</summary>
    public static bool TryNumber(ReadOnlySpan<char> text, out ulong value) =>
        ulong.TryParse(text, NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out value);

    /// <summary>Two numbers with a separator between them.</summary>
    public static bool TryPair(ReadOnlySpan<char> text, char separator, out ulong first, out ulong second)
    {
        int at = text.IndexOf(separator);
        if (at < 0)
        {
            first = second = 0;
            return false;
        }
        second = 0;
        return TryNumber(text[..at], out first) && TryNumber(text[(at + 1)..], out second);
    }

    /// <summary>Bytes, two digits each; null when they are none.</summary>
    public static byte[]? Bytes(ReadOnlySpan<char> text)
    {
        if (text.Length % 2 != 0)
        {
            return null;
        }
        byte[] bytes = new byte[text.Length / 2];
        return Convert.FromHexString(text, bytes, out _, out int written) == System.Buffers.OperationStatus.Done && written == bytes.Length ? bytes : null;
    }

    /// <summary>Two digits for each byte.</summary>
    public static string Text(ReadOnlySpan<byte> bytes) => Convert.ToHexStringLower(bytes);

    /// <summary>A text as the digits of its UTF-8 bytes.</summary>
    public static string Text(string text) => Text(Encoding.UTF8.GetBytes(text));
}
