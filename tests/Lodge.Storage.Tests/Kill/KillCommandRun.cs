using System.Collections.Concurrent;
using System.Diagnostics;
using Lodge.Storage.Disks;

namespace Lodge.Storage.Tests.Kill;

/// <summary>One killed command: its files are made, it is killed at a random moment of its life, and the files are looked at.</summary>
public sealed class KillCommandRun(KillCommand command, int seed)
{
    // How long a command takes here, in microseconds, from its first run.
    private static readonly ConcurrentDictionary<string, long> Durations = new();

    /// <summary>The program that is killed, where it is built: LODGE_PROGRAM, or that of the same build; null if there is none.</summary>
    public static string? Program { get; } = Find();

    /// <summary>Whether it was killed before its end, and what is wrong, or null.</summary>
    public async Task<(bool Killed, string? Failure)> RunAsync()
    {
        var path = Directory.CreateTempSubdirectory("lodge-kill-").FullName;
        try
        {
            if (!Durations.TryGetValue(command.Name, out var duration))
            {
                var measured = await RunOnceAsync(Path.Combine(path, "measure"), null);
                duration = Durations.GetOrAdd(command.Name, measured.Duration);
            }

            var run = await RunOnceAsync(Path.Combine(path, "run"), new Random(seed).NextInt64(duration * 11 / 10));
            if (!run.Killed)
            {
                // The first run may have been slow by chance.
                Durations[command.Name] = Math.Min(duration, run.Duration);
            }

            return (run.Killed, null);
        }
        catch (Exception failure) when (failure is DiskException or KillFailure or IOException)
        {
            return (true, failure is IOException ? failure.ToString() : failure.Message);
        }
        finally
        {
            Directory.Delete(path, recursive: true);
        }
    }

    private static string? Find()
    {
        if (Environment.GetEnvironmentVariable("LODGE_PROGRAM") is { Length: > 0 } given)
        {
            return given;
        }

        // tests/Lodge.Storage.Tests/bin/Release/net10.0 and src/Lodge.Cli/bin/Release/net10.0.
        var build = new DirectoryInfo(AppContext.BaseDirectory);
        var root = build.Parent?.Parent?.Parent?.Parent?.Parent?.FullName;
        return root is not null && Path.Combine(root, "src/Lodge.Cli/bin", build.Parent!.Name, build.Name, "lodge") is var program && File.Exists(program) ? program : null;
    }

    private async Task<(bool Killed, long Duration)> RunOnceAsync(string path, long? microseconds)
    {
        Directory.CreateDirectory(path);
        var folder = new KillFolder(path, new Random(seed), Program!);
        await command.Prepare(folder);
        var watch = Stopwatch.StartNew();
        var killed = await folder.RunAsync(command.Arguments, microseconds);
        var duration = (long)watch.Elapsed.TotalMicroseconds;
        await command.Verify(folder, !killed);
        if (killed && command.Again)
        {
            await folder.RunAsync(command.Arguments, null);
            await command.Verify(folder, true);
        }

        return (killed, duration);
    }
}
