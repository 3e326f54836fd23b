using System.Globalization;

namespace Lodge.Storage.Disks;

/// <summary>What goes wrong.</summary>
public enum DiskFaultKind
{
    /// <summary>Sectors cannot be read.</summary>
    ReadError,

    /// <summary>Sectors cannot be written.</summary>
    WriteError,

    /// <summary>Flushes fail.</summary>
    FlushError,

    /// <summary>Only the first sectors of a write arrive, although it succeeds.</summary>
    TornWrite,

    /// <summary>Requests take longer.</summary>
    Delay,
}

/// <summary>A fault that a disk is made to show.</summary>
/// <param name="Kind">What goes wrong.</param>
/// <param name="FirstSector">First sector of 512 bytes that is affected.</param>
/// <param name="LastSector">Last one; <see cref="long.MaxValue"/> for the rest of the disk.</param>
/// <param name="Rate">How often a request that touches these sectors meets it, above 0 to 1.</param>
/// <param name="Time">How much longer requests take (<see cref="DiskFaultKind.Delay"/>).</param>
public sealed record DiskFault(DiskFaultKind Kind, long FirstSector, long LastSector, double Rate, TimeSpan Time)
{
    /// <summary>Bytes in a sector.</summary>
    public const int SectorLength = 512;

    /// <summary>How a fault is written.</summary>
    public const string Syntax = "KIND[@LBA[-LBA]][:TIME][:RATE] with KIND read-error, write-error, flush-error, torn-write or delay (which needs a TIME such as 20ms) and RATE such as 0.01 or 1%";

    /// <summary>Whether it concerns all sectors.</summary>
    public bool IsEverywhere => FirstSector == 0 && LastSector == long.MaxValue;

    /// <summary>Reads a fault: <c>read-error@2048</c>, <c>read-error@2048-4095:0.5</c>, <c>write-error:1%</c>, <c>flush-error</c>, <c>torn-write:0.01</c>, <c>delay@0-99:20ms</c>, <c>delay:2s:10%</c>.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>: the message says which part is wrong.</exception>
    public static DiskFault Parse(string text)
    {
        var parts = text.Split(':');
        var head = parts[0].Split('@', 2);
        var kind = head[0] switch
        {
            "read-error" => DiskFaultKind.ReadError,
            "write-error" => DiskFaultKind.WriteError,
            "flush-error" => DiskFaultKind.FlushError,
            "torn-write" => DiskFaultKind.TornWrite,
            "delay" => DiskFaultKind.Delay,
            _ => throw Wrong(text, $"there is no kind '{head[0]}'"),
        };
        var (first, last) = head.Length == 1 ? (0, long.MaxValue)
            : kind == DiskFaultKind.FlushError ? throw Wrong(text, "a flush has no place")
            : ParseSectors(text, head[1]);
        var next = 1;
        var time = TimeSpan.Zero;
        if (kind == DiskFaultKind.Delay)
        {
            time = next < parts.Length ? ParseTime(text, parts[next++]) : throw Wrong(text, "the time is missing");
        }

        var rate = next < parts.Length ? ParseRate(text, parts[next++]) : 1;
        return next == parts.Length ? new DiskFault(kind, first, last, rate, time) : throw Wrong(text, $"'{parts[next]}' is too much");
    }

    private static (long First, long Last) ParseSectors(string text, string sectors)
    {
        var ends = sectors.Split('-', 2);
        if (!long.TryParse(ends[0], NumberStyles.None, CultureInfo.InvariantCulture, out var first))
        {
            throw Wrong(text, $"'{ends[0]}' is no sector number");
        }

        var last = first;
        if (ends.Length == 2 && !long.TryParse(ends[1], NumberStyles.None, CultureInfo.InvariantCulture, out last))
        {
            throw Wrong(text, $"'{ends[1]}' is no sector number");
        }

        const long Most = long.MaxValue / SectorLength;
        return first <= last && last < Most ? (first, last) : throw Wrong(text, $"'{sectors}' is no range of sectors");
    }

    private static TimeSpan ParseTime(string text, string time)
    {
        var (digits, unit) = time.EndsWith("ms", StringComparison.Ordinal) ? (time[..^2], 1.0)
            : time.EndsWith("us", StringComparison.Ordinal) ? (time[..^2], 0.001)
            : time.EndsWith('s') ? (time[..^1], 1000.0)
            : (time, -1.0);
        return unit > 0 && double.TryParse(digits, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out var number) && number * unit <= 3_600_000
            ? TimeSpan.FromMilliseconds(number * unit)
            : throw Wrong(text, $"'{time}' is no time such as 500us, 20ms or 2s, an hour at the most");
    }

    private static double ParseRate(string text, string rate)
    {
        var (digits, unit) = rate.EndsWith('%') ? (rate[..^1], 0.01) : (rate, 1.0);
        return double.TryParse(digits, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out var number) && number * unit is > 0 and <= 1
            ? number * unit
            : throw Wrong(text, $"'{rate}' is no rate above 0 and up to 1 (or 100%)");
    }

    private static DiskException Wrong(string text, string why) => new(DiskError.InvalidOption, $"fault '{text}': {why}; a fault is {Syntax}");
}
