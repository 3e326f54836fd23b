using System.Globalization;
using System.Text.Json;
using Lodge.Management.Control;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Cli.Run;

/// <summary>A card on a network of the host that the command which starts a machine has made for its process.</summary>
/// <param name="Tap">What it is.</param>
/// <param name="Files">What is open of it.</param>
internal sealed record HandedCard(ControlTap Tap, IReadOnlyList<SafeFileHandle> Files)
{
    private const string Prefix = "--card=";

    /// <summary>Argument of the process, to which the numbers of the open files are added.</summary>
    /// <param name="device">The card's name.</param>
    /// <param name="tap">What it is.</param>
    public static string Argument(string device, ControlTap tap) => $"{Prefix}{device}:{Convert.ToBase64String(JsonSerializer.SerializeToUtf8Bytes(tap, ControlJson.Default.ControlTap))}:";

    /// <summary>The cards that arguments of the process speak of, by name.</summary>
    public static IReadOnlyDictionary<string, HandedCard> Read(IReadOnlyList<string> arguments) => arguments
        .Where(word => word.StartsWith(Prefix, StringComparison.Ordinal))
        .Select(word => word[Prefix.Length..].Split(':'))
        .ToDictionary(
            parts => parts[0],
            parts => new HandedCard(
                JsonSerializer.Deserialize(Convert.FromBase64String(parts[1]), ControlJson.Default.ControlTap)!,
                [.. parts[2].Split(',').Select(number => new SafeFileHandle(nint.Parse(number, NumberStyles.None, CultureInfo.InvariantCulture), ownsHandle: true))]),
            StringComparer.Ordinal);
}
