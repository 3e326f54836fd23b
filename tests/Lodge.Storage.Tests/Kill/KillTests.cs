using System.Collections.Concurrent;
using System.Globalization;
using Xunit;

namespace Lodge.Storage.Tests.Kill;

/// <summary>Writers that are killed by SIGKILL: no corruption, nothing lost that was flushed. The long run is <c>tests/stress/run kill</c>; LODGE_KILLS sets the number here.</summary>
public sealed class KillTests
{
    [Fact]
    public async Task AKilledWriterLosesNothingFlushedAndCorruptsNothing()
    {
        var kills = int.TryParse(Environment.GetEnvironmentVariable("LODGE_KILLS"), NumberStyles.None, CultureInfo.InvariantCulture, out var wanted) ? wanted : KillCase.All.Count + 19;
        var results = new ConcurrentBag<KillResult>();
        await Parallel.ForEachAsync(Enumerable.Range(0, kills), new ParallelOptions { MaxDegreeOfParallelism = 3 }, async (number, _) =>
        {
            var kind = KillCase.All[number % KillCase.All.Count];
            var seed = 1000 + (number / KillCase.All.Count);
            var result = await new KillRun(kind, seed).RunAsync();
            results.Add(result with { Failure = result.Failure is { } failure ? $"{kind.Name}, seed {seed}: {failure}" : null });
        });
        Assert.Empty(results.Where(result => result.Failure is not null).Select(result => result.Failure));
        Assert.True(results.Sum(result => result.Completed) > kills, "the writers did nothing: the test shows nothing");
        Assert.True(results.Sum(result => result.Flushes) > kills / 2, "nothing was flushed: the test shows nothing");
    }

    [Fact]
    public async Task AKilledCommandHarmsNothingAndCanBeRunAgain()
    {
        if (KillCommandRun.Program is null)
        {
            Assert.Skip("the program lodge is not built: dotnet build src/Lodge.Cli");
        }

        var results = new ConcurrentBag<(bool Killed, string? Failure)>();
        await Parallel.ForEachAsync(KillCommand.All, new ParallelOptions { MaxDegreeOfParallelism = 2 }, async (command, _) =>
        {
            var (killed, failure) = await new KillCommandRun(command, 1000).RunAsync();
            results.Add((killed, failure is null ? null : $"{command.Name}: {failure}"));
        });
        Assert.Empty(results.Where(result => result.Failure is not null).Select(result => result.Failure));
        Assert.True(results.Count(result => result.Killed) >= 5, "hardly a command was killed: the test shows nothing");
    }
}
