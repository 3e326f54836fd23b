using System.Globalization;

namespace Lodge.Cli.Image;

/// <summary>Sizes as qemu-img writes them: three digits and a binary unit.</summary>
internal static class SizeText
{
    private static readonly string[] Units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

    /// <summary>Such as <c>1.25 MiB</c>.</summary>
    public static string Of(long bytes)
    {
        double value = bytes;
        int unit = 0;
        while (value >= 1000 && unit < Units.Length - 1)
        {
            value /= 1024;
            unit++;
        }
        return $"{value.ToString("G3", CultureInfo.InvariantCulture)} {Units[unit]}";
    }
}
