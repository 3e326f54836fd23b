using System.Globalization;
using System.Text;

namespace Lodge.Cli.Run;

/// <summary>What <c>--vsock</c> asked for.</summary>
/// <param name="Path">Path of the host's Unix socket.</param>
/// <param name="Cid">The guest's context identifier.</param>
internal sealed record VsockOption(string Path, uint Cid)
{
    /// <summary>The guest's context identifier when none is given.</summary>
    public const uint DefaultCid = 3;

    private const int LongestPath = 96;     // the system's 107 bytes with the longest "_PORT"

    /// <summary>Parses <c>PATH[,cid=N]</c>; a comma in the path is written twice.</summary>
    /// <exception cref="FormatException">It is not understood; the message says what to write instead.</exception>
    public static VsockOption Parse(string text)
    {
        IReadOnlyList<string> parts = OptionWords.Split(text);
        string path = parts[0].StartsWith("socket=", StringComparison.Ordinal) ? parts[0]["socket=".Length..] : parts[0];
        if (Encoding.UTF8.GetByteCount(path) is 0 or > LongestPath || path.Contains('\0'))
        {
            throw new FormatException($"vsock socket '{path}' is not usable; give a path of 1 to {LongestPath} bytes");
        }
        uint cid = DefaultCid;
        foreach (string part in parts.Skip(1))
        {
            if (!part.StartsWith("cid=", StringComparison.Ordinal))
            {
                throw new FormatException($"'{part}' of --vsock is not known; write it as PATH[,cid=N]");
            }
            if (!uint.TryParse(part["cid=".Length..], NumberStyles.None, CultureInfo.InvariantCulture, out cid) || cid is < DefaultCid or uint.MaxValue)
            {
                throw new FormatException($"context identifier '{part["cid=".Length..]}' is not possible; give 3 to 4294967294");
            }
        }
        return new VsockOption(path, cid);
    }
}
