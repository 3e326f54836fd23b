using System.Globalization;

namespace Lodge.Network.Limits;

/// <summary>A limit of a rate.</summary>
/// <param name="PerSecond">Units (bytes or packets) per second on the average; 0 is no limit.</param>
/// <param name="Burst">Units that may go at once after a rest; 0 takes a tenth of a second's.</param>
public readonly record struct LinkRate(double PerSecond, double Burst = 0);

/// <summary>Limits of a link's traffic, seen from the machine. Bytes are those of Ethernet frames as they are on a wire: a large offloaded frame counts as its segments.</summary>
public sealed record LinkLimits
{
    /// <summary>No limits.</summary>
    public static LinkLimits None { get; } = new();

    /// <summary>The names that <see cref="With"/> knows.</summary>
    public static IReadOnlyList<string> Names { get; } =
        ["bytes-out", "bytes-in", "packets-out", "packets-in", "bytes-out-max", "bytes-in-max", "packets-out-max", "packets-in-max"];

    /// <summary>Bytes from the machine.</summary>
    public LinkRate SendBytes { get; init; }

    /// <summary>Packets from the machine.</summary>
    public LinkRate SendPackets { get; init; }

    /// <summary>Bytes to the machine.</summary>
    public LinkRate ReceiveBytes { get; init; }

    /// <summary>Packets to the machine.</summary>
    public LinkRate ReceivePackets { get; init; }

    /// <summary>These limits with one set by its name: <c>bytes-out</c>, <c>packets-in</c>, ...; with <c>-max</c> its burst. Values are such as 500, 20M or 1G (powers of 1024).</summary>
    /// <exception cref="NetworkException">There is no such limit, or the value is none.</exception>
    public LinkLimits With(string name, string value)
    {
        if (!Names.Contains(name))
        {
            throw new NetworkException($"there is no limit '{name}'; the limits are {string.Join(", ", Names)}");
        }
        int shift = value.Length == 0 ? 0 : char.ToUpperInvariant(value[^1]) switch { 'K' => 10, 'M' => 20, 'G' => 30, _ => 0 };
        if (!uint.TryParse(shift == 0 ? value : value[..^1], NumberStyles.None, CultureInfo.InvariantCulture, out uint number) || number == 0)
        {
            throw new NetworkException($"the limit '{name}' has the value '{value}'; give a number above 0 such as 500 or 20M");
        }
        double amount = (double)number * (1L << shift);
        bool isBurst = name.EndsWith("-max", StringComparison.Ordinal);
        LinkRate Set(LinkRate rate) => isBurst ? rate with { Burst = amount } : rate with { PerSecond = amount };
        return (isBurst ? name[..^4] : name) switch
        {
            "bytes-out" => this with { SendBytes = Set(SendBytes) },
            "bytes-in" => this with { ReceiveBytes = Set(ReceiveBytes) },
            "packets-out" => this with { SendPackets = Set(SendPackets) },
            _ => this with { ReceivePackets = Set(ReceivePackets) },
        };
    }

    /// <summary>Throws if a burst is given for a rate that has no limit, or a number is none.</summary>
    /// <exception cref="NetworkException">So it is.</exception>
    public void Check()
    {
        (string Name, LinkRate Rate)[] all = [("bytes-out", SendBytes), ("bytes-in", ReceiveBytes), ("packets-out", SendPackets), ("packets-in", ReceivePackets)];
        foreach (var (name, rate) in all)
        {
            if (!(rate.PerSecond >= 0 && double.IsFinite(rate.PerSecond) && rate.Burst >= 0 && double.IsFinite(rate.Burst)))
            {
                throw new NetworkException($"the limit '{name}' is {rate.PerSecond} with the burst {rate.Burst}; give numbers above 0");
            }
            if (rate is { PerSecond: 0, Burst: > 0 })
            {
                throw new NetworkException($"the burst '{name}-max' needs the limit '{name}'");
            }
        }
    }
}
