using System.Globalization;

namespace Lodge.Management.Limits;

/// <summary>How much of the host a machine's process may use; null in each place: as much as others.</summary>
public sealed record MachineLimits
{
    /// <summary>Nothing is limited.</summary>
    public static MachineLimits None { get; } = new();

    /// <summary>The options that set them, without dashes.</summary>
    public static IReadOnlyList<string> Options { get; } = ["cpu-shares", "cpu-quota", "cpu-set", "memory-limit", "io-weight", "pids-limit"];

    /// <summary>Weight against other groups when CPUs are short, 2 to 262144; others have 1024.</summary>
    public int? CpuShares { get; init; }

    /// <summary>Most CPU time, in percent of one CPU: 150 is one and a half.</summary>
    public int? CpuQuota { get; init; }

    /// <summary>CPUs of the host that it may run on, in order.</summary>
    public IReadOnlyList<int>? CpuSet { get; init; }

    /// <summary>Most memory in bytes: the guest's, as far as it is touched, and the process' own. Above it the host's kernel kills the process.</summary>
    public long? Memory { get; init; }

    /// <summary>Weight of its disk requests against other groups', 1 to 1000; others have 100.</summary>
    public int? IoWeight { get; init; }

    /// <summary>Most threads and processes.</summary>
    public int? Pids { get; init; }

    /// <summary>Whether nothing is limited.</summary>
    public bool IsNone => this == None;

    /// <summary>Parses shares.</summary>
    /// <exception cref="FormatException">The message says what is possible.</exception>
    public static int ParseShares(string text) => Number(text, 2, 262_144, "CPU shares");

    /// <summary>Parses an I/O weight.</summary>
    /// <exception cref="FormatException">The message says what is possible.</exception>
    public static int ParseIoWeight(string text) => Number(text, 1, 1000, "I/O weight");

    /// <summary>Parses a number of threads. A machine needs some dozens of its own.</summary>
    /// <exception cref="FormatException">The message says what is possible.</exception>
    public static int ParsePids(string text) => Number(text, 64, 4_194_304, "limit of threads");

    /// <summary>Parses CPU time: <c>150%</c>, or a number of CPUs as <c>1.5</c>.</summary>
    /// <exception cref="FormatException">The message says what is possible.</exception>
    public static int ParseQuota(string text)
    {
        bool percent = text.EndsWith('%');
        return decimal.TryParse(percent ? text[..^1] : text, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out decimal number)
            && number is > 0 and <= 1_000_000 && decimal.Round(percent ? number : number * 100) is >= 1 and <= 1_000_000 and decimal whole
            ? (int)whole
            : throw new FormatException($"CPU quota '{text}' is not understood; write it as 150% (of one CPU) or 1.5 (CPUs), at least 1%");
    }

    /// <summary>Parses CPUs: numbers and ranges, as <c>0,2-3</c>.</summary>
    /// <exception cref="FormatException">The message says what is possible.</exception>
    public static IReadOnlyList<int> ParseCpuSet(string text)
    {
        const int most = 8192;
        SortedSet<int> all = [];
        foreach (string part in text.Split(','))
        {
            string[] ends = part.Split('-');
            if (ends.Length > 2 || !int.TryParse(ends[0], NumberStyles.None, CultureInfo.InvariantCulture, out int first)
                || !int.TryParse(ends[^1], NumberStyles.None, CultureInfo.InvariantCulture, out int last) || first > last || last >= most)
            {
                throw new FormatException($"CPU set '{text}' is not understood; write it as 0,2-3");
            }
            all.UnionWith(Enumerable.Range(first, last - first + 1));
        }
        return [.. all];
    }

    /// <summary>Parses a limit of memory: bytes with K, M, G or T (powers of 1024; none means MiB).</summary>
    /// <exception cref="FormatException">The message says what is possible.</exception>
    public static long ParseMemory(string text)
    {
        string digits = text.TrimEnd('B', 'b').TrimEnd('i', 'I');
        int shift = digits.Length == 0 ? 0 : char.ToUpperInvariant(digits[^1]) switch { 'K' => 10, 'M' => 20, 'G' => 30, 'T' => 40, _ => 0 };
        digits = shift == 0 ? digits : digits[..^1];
        shift = shift == 0 ? 20 : shift;
        return long.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out long number) && number <= (1L << 50) >> shift && number << shift >= 32L << 20
            ? number << shift
            : throw new FormatException($"memory limit '{text}' is not understood; write it as 512M or 2G, at least 32M");
    }

    /// <inheritdoc/>
    public bool Equals(MachineLimits? other) => other is not null && CpuShares == other.CpuShares && CpuQuota == other.CpuQuota && Memory == other.Memory
        && IoWeight == other.IoWeight && Pids == other.Pids && (CpuSet ?? []).SequenceEqual(other.CpuSet ?? []);

    /// <inheritdoc/>
    public override int GetHashCode() => HashCode.Combine(CpuShares, CpuQuota, Memory, IoWeight, Pids, CpuSet?.Count ?? 0);

    private static int Number(string text, int least, int most, string what) =>
        int.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out int number) && number >= least && number <= most
            ? number
            : throw new FormatException($"{what} '{text}' is out of range; give {least} to {most}");
}
