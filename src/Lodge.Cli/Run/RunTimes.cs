using System.Diagnostics;
using System.Globalization;
using Lodge.Cli.Console;

namespace Lodge.Cli.Run;

/// <summary>
/// With LODGE_TIMES=1 in the environment: where the time of a run goes, one line on standard error for each stage: milliseconds since the process began (to 10 ms), since the
/// last line, and of processor time (all threads) since the last line.
/// </summary>
internal static class RunTimes
{
    private static readonly bool On = Environment.GetEnvironmentVariable("LODGE_TIMES") == "1";
    private static long _last;
    private static double _processor, _first;

    /// <summary>Tells that a stage is over.</summary>
    public static void Mark(string stage)
    {
        if (!On)
        {
            return;
        }
        if (_last == 0)
        {
            using Process process = Process.GetCurrentProcess();
            _first = (DateTime.Now - process.StartTime).TotalMilliseconds;
            _last = Stopwatch.GetTimestamp();
        }
        double wall = Stopwatch.GetElapsedTime(_last).TotalMilliseconds, processor = Environment.CpuUsage.TotalTime.TotalMilliseconds;
        _first += wall;
        HostFile.Error(string.Create(CultureInfo.InvariantCulture, $"lodge: time: {_first,7:f1} {wall,7:f1} {processor - _processor,7:f1} {stage}"));
        (_last, _processor) = (Stopwatch.GetTimestamp(), Environment.CpuUsage.TotalTime.TotalMilliseconds);
    }
}
