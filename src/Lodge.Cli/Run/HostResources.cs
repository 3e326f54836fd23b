using System.Globalization;
using Lodge.Cli.Console;
using Lodge.Engine.Memory;
using Lodge.Machine;

namespace Lodge.Cli.Run;

/// <summary>The options that say what of the host a machine gets: <c>--mergeable</c>, <c>--hugepages</c>, <c>--memory-lock</c>, <c>--pin</c>.</summary>
internal static class HostResources
{
    /// <summary>The option with an optional value.</summary>
    public const string HugePagesOption = "--hugepages";

    private const string MergeSwitch = "/sys/kernel/mm/ksm/run";

    /// <summary>Writes <c>--hugepages</c> without a value out as what it means, so that what follows is not taken for its value.</summary>
    public static string[] WithDefaults(string[] arguments) =>
    [
        .. arguments.Select((word, i) => word == HugePagesOption && !(i + 1 < arguments.Length && arguments[i + 1] is "2M" or "1G" or "transparent") ? $"{HugePagesOption}=2M" : word),
    ];

    /// <summary>Parses the size of huge pages.</summary>
    /// <exception cref="FormatException">It is none.</exception>
    public static HugePages ParseHugePages(string text) => text.ToUpperInvariant() switch
    {
        "2M" or "2048K" => HugePages.Pool2M,
        "1G" or "1024M" => HugePages.Pool1G,
        "TRANSPARENT" => HugePages.Transparent,
        _ => throw new FormatException($"huge page size '{text}' is not known; give 2M, 1G or transparent"),
    };

    /// <summary>Parses CPUs of the host: numbers and ranges, as in <c>0,4-7</c>.</summary>
    /// <exception cref="FormatException">They are none.</exception>
    public static IReadOnlyList<int> ParsePin(string text)
    {
        List<int> cpus = [];
        foreach (string part in text.Split(','))
        {
            string[] ends = part.Split('-');
            if (ends.Length > 2 || !Number(ends[0], out int first) || !Number(ends[^1], out int last) || last < first)
            {
                throw new FormatException($"CPUs '{text}' are not understood; write them as 2, 2,3 or 4-7");
            }
            cpus.AddRange(Enumerable.Range(first, last - first + 1));
        }
        return cpus.Count <= HostProcessors.Limit ? cpus : throw new FormatException($"CPUs '{text}' are more than {HostProcessors.Limit}");

        static bool Number(string digits, out int number) =>
            int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out number) && number < HostProcessors.Limit;
    }

    /// <summary>Refuses what cannot be: before anything is made or fetched.</summary>
    /// <exception cref="LodgeException">One line that says what is wrong.</exception>
    public static void Check(RunOptions options) => Check(options, HostProcessors.Allowed());

    /// <summary>The same for a process that may use the CPUs <paramref name="allowed"/>.</summary>
    public static void Check(RunOptions options, IReadOnlyList<int> allowed)
    {
        if (options.Backing.Contradiction(options.Memory) is { } contradiction)
        {
            throw new LodgeException(contradiction, ExitStatus.Usage);
        }
        if (options.Pin.Count > options.Processors)
        {
            throw new LodgeException($"--pin names {options.Pin.Count} CPUs of the host for {options.Processors} of the machine; one for each is the most", ExitStatus.Usage);
        }
        if (allowed.Count != 0 && options.Pin.Except(allowed).ToList() is [{ } cpu, ..])
        {
            throw new LodgeException($"--pin: CPU {cpu} is not one that this process may use on this host ({Ranges(allowed)})");
        }
    }

    /// <summary>Tells when nothing will come of an option that is otherwise fine.</summary>
    public static void Tell(RunOptions options)
    {
        if (options.Backing.Mergeable && HostFileText(MergeSwitch) is not "1")
        {
            HostFile.Error($"lodge: --mergeable has no effect yet: the host does not merge pages until root turns it on: echo 1 > {MergeSwitch}");
        }
    }

    /// <summary>Numbers as ranges: <c>0-3,8</c>.</summary>
    public static string Ranges(IReadOnlyList<int> numbers)
    {
        List<string> parts = [];
        for (int i = 0; i < numbers.Count;)
        {
            int end = i;
            while (end + 1 < numbers.Count && numbers[end + 1] == numbers[end] + 1)
            {
                end++;
            }
            parts.Add(end == i ? $"{numbers[i]}" : $"{numbers[i]}-{numbers[end]}");
            i = end + 1;
        }
        return string.Join(',', parts);
    }

    private static string? HostFileText(string path)
    {
        try
        {
            return File.ReadAllText(path).Trim();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}
