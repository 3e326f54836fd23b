using Lodge.Storage.Formats;

namespace Lodge.Storage.Disks;

/// <summary>A limit of a rate.</summary>
/// <param name="PerSecond">Units (bytes or operations) per second on the average; 0 is no limit.</param>
/// <param name="Burst">Units that may go at once after a rest; 0 takes a tenth of a second's.</param>
public readonly record struct DiskRate(double PerSecond, double Burst = 0);

/// <summary>Limits of a disk's traffic; those for reads, for writes and for both hold together.</summary>
public sealed record DiskLimits
{
    /// <summary>No limits.</summary>
    public static DiskLimits None { get; } = new();

    /// <summary>The names that <see cref="With"/> knows.</summary>
    public static IReadOnlyList<string> Names { get; } =
        ["bps", "bps-rd", "bps-wr", "iops", "iops-rd", "iops-wr", "bps-max", "bps-rd-max", "bps-wr-max", "iops-max", "iops-rd-max", "iops-wr-max"];

    /// <summary>Bytes read and written.</summary>
    public DiskRate Bytes { get; init; }

    /// <summary>Bytes read.</summary>
    public DiskRate ReadBytes { get; init; }

    /// <summary>Bytes written.</summary>
    public DiskRate WriteBytes { get; init; }

    /// <summary>Reads and writes.</summary>
    public DiskRate Operations { get; init; }

    /// <summary>Reads.</summary>
    public DiskRate ReadOperations { get; init; }

    /// <summary>Writes.</summary>
    public DiskRate WriteOperations { get; init; }

    /// <summary>These limits with one set by its name, as QEMU's throttling has them: <c>bps</c>, <c>iops-rd</c>, ...; with <c>-max</c> its burst.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>.</exception>
    public DiskLimits With(string name, string value)
    {
        if (!Names.Contains(name))
        {
            throw new DiskException(DiskError.InvalidOption, $"there is no limit '{name}'; the limits are {string.Join(", ", Names)}");
        }

        if (!FormatOptions.TryParseSize(value, out var number) || number <= 0)
        {
            throw new DiskException(DiskError.InvalidOption, $"the limit '{name}' has the value '{value}'; give a number above 0 such as 500 or 20M");
        }

        var burst = name.EndsWith("-max", StringComparison.Ordinal);
        DiskRate Set(DiskRate rate) => burst ? rate with { Burst = number } : rate with { PerSecond = number };
        return (burst ? name[..^4] : name) switch
        {
            "bps" => this with { Bytes = Set(Bytes) },
            "bps-rd" => this with { ReadBytes = Set(ReadBytes) },
            "bps-wr" => this with { WriteBytes = Set(WriteBytes) },
            "iops" => this with { Operations = Set(Operations) },
            "iops-rd" => this with { ReadOperations = Set(ReadOperations) },
            _ => this with { WriteOperations = Set(WriteOperations) },
        };
    }

    /// <summary>Throws if a burst is given for a rate that has no limit.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>.</exception>
    public void Check()
    {
        (string Name, DiskRate Rate)[] all =
            [("bps", Bytes), ("bps-rd", ReadBytes), ("bps-wr", WriteBytes), ("iops", Operations), ("iops-rd", ReadOperations), ("iops-wr", WriteOperations)];
        foreach (var (name, rate) in all)
        {
            if (rate is { PerSecond: 0, Burst: > 0 })
            {
                throw new DiskException(DiskError.InvalidOption, $"the burst '{name}-max' needs the limit '{name}'");
            }
        }
    }
}
