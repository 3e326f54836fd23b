using System.Diagnostics;
using System.Globalization;

namespace Lodge.Storage.Tests.Kill;

/// <summary>The long runs: they kill writers of all kinds of images, or commands, and print what came of it (tests/stress/run kill).</summary>
internal static class KillDriver
{
    /// <summary>Commands of <c>lodge image</c>. Arguments: kills, first seed, part of a name or nothing for all.</summary>
    public static int RunCommands(string[] arguments)
    {
        var count = int.Parse(arguments[0], CultureInfo.InvariantCulture);
        var first = arguments.Length > 1 ? int.Parse(arguments[1], CultureInfo.InvariantCulture) : 0;
        var commands = KillCommand.All.Where(command => arguments.Length < 3 || command.Name.Contains(arguments[2], StringComparison.Ordinal)).ToArray();
        var results = commands.ToDictionary(command => command, _ => new List<(bool Killed, string? Failure)>());
        var watch = Stopwatch.StartNew();
        if (KillCommandRun.Program is null)
        {
            Console.Error.WriteLine("the program lodge is not built; LODGE_PROGRAM names it");
            return 2;
        }

        Parallel.ForEachAsync(Enumerable.Range(0, count), new ParallelOptions { MaxDegreeOfParallelism = Environment.ProcessorCount }, async (number, _) =>
        {
            var command = commands[number % commands.Length];
            var seed = first + (number / commands.Length);
            var result = await new KillCommandRun(command, seed).RunAsync();
            lock (results)
            {
                results[command].Add(result);
                if (result.Failure is { } failure)
                {
                    Console.WriteLine($"FAIL  {command.Name}, seed {seed}: {failure}");
                }
            }
        }).Wait();

        Console.WriteLine($"{"lodge image ...",-66} {"runs",6} {"killed",6} {"failed",6}");
        foreach (var (command, list) in results)
        {
            Console.WriteLine($"{command.Name,-66} {list.Count,6} {list.Count(result => result.Killed),6} {list.Count(result => result.Failure is not null),6}");
        }

        var all = results.Values.SelectMany(list => list).ToArray();
        Console.WriteLine($"{"all",-66} {all.Length,6} {all.Count(result => result.Killed),6} {all.Count(result => result.Failure is not null),6}  in {watch.Elapsed.TotalSeconds:0} s");
        return all.Any(result => result.Failure is not null) ? 1 : 0;
    }

    /// <summary>Writers. Arguments: kills, first seed, part of a name or nothing for all.</summary>
    public static int Run(string[] arguments)
    {
        var count = int.Parse(arguments[0], CultureInfo.InvariantCulture);
        var first = arguments.Length > 1 ? int.Parse(arguments[1], CultureInfo.InvariantCulture) : 0;
        var kinds = KillCase.All.Where(kind => arguments.Length < 3 || kind.Name.Contains(arguments[2], StringComparison.Ordinal)).ToArray();
        var keep = Environment.GetEnvironmentVariable("LODGE_KILL_KEEP");
        var results = kinds.ToDictionary(kind => kind, _ => new List<KillResult>());
        var watch = Stopwatch.StartNew();
        Parallel.ForEachAsync(Enumerable.Range(0, count), new ParallelOptions { MaxDegreeOfParallelism = Environment.ProcessorCount + 1 }, async (number, _) =>
        {
            var kind = kinds[number % kinds.Length];
            var seed = first + (number / kinds.Length);
            var result = await new KillRun(kind, seed).RunAsync(keep);
            lock (results)
            {
                results[kind].Add(result);
                if (result.Failure is { } failure)
                {
                    Console.WriteLine($"FAIL  {kind.Name}, seed {seed}: {failure}");
                }
            }
        }).Wait();

        Console.WriteLine($"{"image",-40} {"kills",6} {"requests",10} {"flushes",8} {"leaks",6} {"failed",6}");
        foreach (var (kind, list) in results)
        {
            Console.WriteLine($"{kind.Name,-40} {list.Count,6} {list.Sum(result => result.Completed),10} {list.Sum(result => result.Flushes),8} {list.Count(result => result.Leaks),6} {list.Count(result => result.Failure is not null),6}");
        }

        var all = results.Values.SelectMany(list => list).ToArray();
        Console.WriteLine($"{"all",-40} {all.Length,6} {all.Sum(result => result.Completed),10} {all.Sum(result => result.Flushes),8} {all.Count(result => result.Leaks),6} {all.Count(result => result.Failure is not null),6}  in {watch.Elapsed.TotalSeconds:0} s");
        return all.Any(result => result.Failure is not null) ? 1 : 0;
    }
}
