using System.Diagnostics;
using System.Globalization;
using System.Text.RegularExpressions;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>Save, restore and snapshots of a machine that writes to its disk, killed (kill -9) at any moment: the command, or the machine's process, or both.</summary>
[Collection("guests")]
public sealed partial class SavedMachineKillTests : IDisposable
{
    private const string Name = "victim";

    // It counts on its disk, and says a number when that is durable. Its memory and its disk say the same, always.
    private const string Guest = """
        number() { echo $((1$(head -c 8 /dev/vda | tr '\0' 0) - 100000000)); }
        i=$(number); echo "boot $i"
        while :; do
            i=$((i + 1)); printf %08d $i >/tmp/kept; dd if=/tmp/kept of=/dev/vda conv=notrunc,fsync 2>/dev/null; echo "durable $i"
            usleep 20000; echo 1 >/proc/sys/vm/drop_caches
            [ $(number) = $i ] || echo "wrong $(number) for $i"
        done
        """;

    private readonly MachineStoreFolder _store = new();

    public void Dispose() => _store.Dispose();

    /// <summary>LODGE_KILL_ROUNDS for more, LODGE_SEED for the same ones.</summary>
    [Fact]
    public void WhateverIsKilledWhatTheGuestHadWrittenIsThereAndEverythingUsable()
    {
        int rounds = int.TryParse(Environment.GetEnvironmentVariable("LODGE_KILL_ROUNDS"), out int asked) ? asked : 2;
        int seed = int.TryParse(Environment.GetEnvironmentVariable("LODGE_SEED"), out int given) ? given : Environment.TickCount;
        Random random = new(seed);
        string disk = Path.Combine(_store.Data, "disk.qcow2"), work = Path.Combine(_store.Of(Name), "work");
        _store.Done("image", "create", "-f", "qcow2", disk, "4M");
        _store.Done("create", "--name", Name, "--no-sandbox", "--net", "none", "--memory", "128M", "--disk", disk, "--", "sh", "-c", Guest);
        _store.Done("start", Name);
        Dictionary<string, int> snapshots = []; // with a number that was durable before
        for (int i = 0; i < rounds; i++)
        {
            int durable = Next(Durable());
            string state = _store.State(Name);
            string[] there = Listed(); // one whose command was killed may have come later
            string chosen = there.Length == 0 ? "none" : there[random.Next(there.Length)];
            string[] verb = random.Next(7) switch
            {
                0 or 1 => ["save", Name],
                2 or 3 => ["snapshot", "create", Name, $"s{i}", .. random.Next(3) == 0 ? ["--no-memory"] : Array.Empty<string>()],
                4 when there.Length != 0 => ["snapshot", "remove", Name, chosen],
                _ when there.Length != 0 => ["snapshot", "revert", Name, chosen],
                _ => ["snapshot", "create", Name, $"s{i}"],
            };
            string told = $"seed {seed}, round {i}, {state}: lodge {string.Join(' ', verb)}";
            Kill(random, verb);

            // What the list says is so; then it runs again.
            state = _store.State(Name);
            Assert.True(state is "running" or "saved" or "stopped" or "stopping" or "starting", $"{told}: {state}");
            if (state == "saved" && random.Next(2) == 0)
            {
                Kill(random, ["restore", Name]);
            }
            int floor = verb[1] == "revert" ? Math.Min(durable, snapshots[chosen]) : durable;
            if (verb[1] == "create")
            {
                snapshots[$"s{i}"] = durable;
            }
            (int status, _, string error) = Run(told);
            if (status != 0 && error.Contains("do it again: lodge snapshot revert", StringComparison.Ordinal))
            {
                Assert.True(verb[1] == "revert", $"{told}: {error}");
                _store.Refused("do it again", "snapshot", "create", Name, "never");
                _store.Refused("do it again", "snapshot", "remove", Name, chosen);
                _store.Done("snapshot", "revert", Name, chosen);
                (status, _, error) = Run(told);
            }
            Assert.True(status == 0, $"{told}: {error}");
            int now = Next(floor);
            Assert.True(now >= floor, $"{told}: {now} after {floor}");
            Assert.DoesNotContain("wrong", Log(), StringComparison.Ordinal);
            string[] after = Listed();
            Assert.True(there.Except(after).All(gone => verb[1] is "remove" && gone == chosen), $"{told}: {string.Join(' ', after)} of {string.Join(' ', there)}");
        }
        foreach (string one in Listed())
        {
            _store.Done("snapshot", "remove", Name, one);
        }
        _store.Done("snapshot", "create", Name, "last", "--no-memory");
        _store.Done("stop", "--force", Name);
        _store.Done("snapshot", "remove", Name, "last");
        Assert.Empty(_store.Processes());
        (int check, string report, _) = _store.Run("image", "check", disk);
        Assert.True(check is 0 or 3, report); // 3: clusters that a killed process had taken and not used yet, no harm to data; repaired, nothing is left
        _store.Done("image", "check", "-r", "leaks", disk);
        _store.Done("image", "check", disk);
        Assert.DoesNotContain("lodge-", _store.Done("image", "snapshot", "-l", disk), StringComparison.Ordinal);
        Assert.Empty(Directory.GetDirectories(Path.Combine(work, "snapshots")));
        Assert.DoesNotContain(Directory.GetFiles(work, "*", new EnumerationOptions { AttributesToSkip = 0, RecurseSubdirectories = true }), file => file.EndsWith(".lodge", StringComparison.Ordinal));
        _store.Done("start", Name);
        Next(Durable());
        _store.Done("remove", "--force", Name);
    }

    /// <summary>Begins a command and kills it, or the machine's process, or one after the other.</summary>
    private void Kill(Random random, string[] verb)
    {
        using Process command = _store.Begin(verb);
        if (random.Next(2) == 0)
        {
            Thread.Sleep(random.Next(700));
            foreach (int number in _store.Processes().Where(number => number != command.Id))
            {
                try
                {
                    using Process machine = Process.GetProcessById(number);
                    machine.Kill();
                    machine.WaitForExit(10_000);
                }
                catch (ArgumentException)
                {
                    // It has ended.
                }
            }
        }
        else
        {
            command.WaitForExit(random.Next(700));
            command.Kill();
        }
        if (!command.WaitForExit(120_000))
        {
            command.Kill();
            Assert.Fail($"lodge {string.Join(' ', verb)} does not end");
        }
    }

    /// <summary>Names of its snapshots.</summary>
    private string[] Listed() => [.. Regex.Matches(_store.Done("snapshot", "list", Name), @"(?m)^s\d+").Select(one => one.Value)];

    /// <summary>Sees to it that the machine runs.</summary>
    private (int Status, string Output, string Error) Run(string told)
    {
        for (int tries = 0; ; tries++)
        {
            string state = _store.State(Name);
            if (state == "running")
            {
                return (0, "", "");
            }
            if (state is "saved" or "stopped")
            {
                (int status, string output, string error) result = _store.Run("start", Name);
                if (!result.error.Contains("runs already", StringComparison.Ordinal))
                {
                    return result;
                }
            }
            Assert.True(tries < 600, $"{told}: {state}"); // a save whose command was killed goes on, and so does a start
            Thread.Sleep(100);
        }
    }

    private string Log() => string.Concat(new[] { "console.log", "work/console.log" }.Select(file => Path.Combine(_store.Of(Name), file)).Where(File.Exists).Select(File.ReadAllText));

    /// <summary>The last number that the guest said was durable, or had found.</summary>
    private int Durable() => Said().Matches(Log()) is [.., Match last] ? int.Parse(last.Groups[1].Value, CultureInfo.InvariantCulture) : 0;

    /// <summary>Waits until the guest has said three more; gives the last.</summary>
    private int Next(int floor)
    {
        int before = Said().Count(Log());
        for (int i = 0; i < 2000; i++)
        {
            if (Said().Count(Log()) >= before + 3)
            {
                return Durable();
            }
            Thread.Sleep(50);
            if (i % 20 == 19 && _store.State(Name) != "running")
            {
                Run("a save went on whose command was killed");
                before = Said().Count(Log());
            }
        }
        throw new Xunit.Sdk.XunitException($"the guest says nothing after {floor}: {_store.Run("list").Output}{Log()}");
    }

    [GeneratedRegex(@"(?m)^(?:durable|boot) (\d+)\r?$")]
    private static partial Regex Said();
}
