using System.Diagnostics;
using System.Text.Json;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>Machines that are kept, with the default system: every verb as a new user would try it, and the same verbs killed at any moment.</summary>
[Collection("guests")]
public sealed class MachineLifeTests : IDisposable
{
    private readonly MachineStoreFolder _store = new();

    public void Dispose() => _store.Dispose();

    [Fact]
    public void AMachineLivesItsLife()
    {
        Assert.Equal("first\n", _store.Done("create", "--name", "first", "--net", "none", "--memory", "128M"));
        Assert.Equal("stopped", _store.State("first"));
        _store.Refused("the name 'first' is taken", "create", "--name", "first");
        _store.Refused("does not run; start it: lodge start first", "pause", "first");
        _store.Done("start", "first");
        _store.AwaitLog("first", "root@first");
        JsonElement listed = _store.List()["first"];
        Assert.Equal("running", listed.GetProperty("state").GetString());
        Assert.True(Directory.Exists($"/proc/{listed.GetProperty("process").GetInt32()}"));
        _store.Refused("runs already", "start", "first");
        _store.Refused("runs; stop it first", "remove", "first");
        _store.Refused("runs; stop it first", "rename", "first", "second");

        (int status, _, string error) = _store.RunWithInput("echo sum $((20 + 22))\n", "console", "first");
        Assert.True(status == 0, error);
        _store.AwaitLog("first", "sum 42");

        _store.Done("pause", "first");
        Assert.Equal("paused", _store.State("first"));
        _store.Done("pause", "first"); // again is no mistake
        _store.Done("resume", "first");
        Assert.Equal("running", _store.State("first"));
        Assert.Contains("first", _store.Done("stats"));
        Assert.True(JsonDocument.Parse(_store.Done("stats", "first", "--json")).RootElement.GetProperty("first").GetProperty("processorTime").GetInt64() > 0);
        Assert.Contains("Engine:", _store.Done("show", "first"));
        _store.Refused("has no guest agent", "exec", "first", "true");

        _store.Done("edit", "first", "--memory", "192M", "--cpus", "2");
        _store.Done("restart", "first");
        _store.AwaitLog("first", "root@first");
        using (JsonDocument shown = JsonDocument.Parse(_store.Done("show", "first", "--json")))
        {
            Assert.Equal("192M", shown.RootElement.GetProperty("definition").GetProperty("options").GetProperty("memory")[0].GetString());
        }
        _store.Done("stop", "--force", "first");
        Assert.Equal("stopped", _store.State("first"));
        Assert.Equal("stopped by force", _store.List()["first"].GetProperty("end").GetProperty("reason").GetString());
        _store.Refused("has no option 'disk'", "edit", "first", "--unset", "disk");
        _store.Refused("memory size '1X' is not understood", "edit", "first", "--memory", "1X");
        _store.Refused("see 'lodge snapshot create --help'", "snapshot", "create");
        _store.Refused("'nix' is not a command of lodge snapshot", "snapshot", "nix");
        _store.Done("edit", "first", "--unset", "cpus");
        _store.Done("rename", "first", "second");
        Assert.Equal(["second"], _store.List().Keys);
        _store.Done("start", "second");
        _store.AwaitLog("second", "root@second");
        _store.Done("stop", "second"); // the guest ends by itself
        Assert.Equal("the guest turned its power off", _store.List()["second"].GetProperty("end").GetProperty("reason").GetString());
        _store.Done("remove", "second");
        Assert.Empty(_store.List());
        Assert.Equal(
            ["created", "started", "paused", "resumed", "edited", "stopped", "started", "stopped", "edited", "renamed", "started", "stopped", "removed"],
            _store.Done("events", "--no-follow", "--json").Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonDocument.Parse(line).RootElement.GetProperty("event").GetString()));
        Assert.Empty(_store.Processes());
    }

    [Fact]
    public void ACommandInTheBackgroundIsLoggedAndItsStatusWaitedFor()
    {
        Assert.Equal("job\n", _store.Done("run", "-d", "--name", "job", "--net", "none", "--", "sh", "-c", "echo out; echo err >&2; exit 7"));
        Assert.Equal(7, _store.Run("wait", "job").Status);
        string log = _store.Done("logs", "job");
        Assert.Contains("out\n", log);
        Assert.Contains("err\n", log);
        Assert.Equal("stopped", _store.State("job"));
        _store.Done("remove", "job");
        string name = _store.Done("run", "-d", "--rm", "--net", "none", "--", "true").Trim();
        Assert.StartsWith("machine-", name);
        _store.Run("wait", name);
        for (int i = 0; Directory.Exists(_store.Of(name)) && i < 1000; i++)
        {
            Thread.Sleep(20);
        }
        Assert.Empty(_store.List());
    }

    [Fact]
    public void WhatCannotStartLeavesNothingBehind()
    {
        _store.Refused("there is no image nix", "create", "nix");
        _store.Refused("'/nix'", "run", "-d", "--net", "none", "--disk", "/nix");
        _store.Refused("for 'lodge run' in the foreground only", "create", "--timeout", "5s");
        Assert.Empty(_store.List());
        _store.Done("create", "--name", "gone", "--net", "none", "--kernel", "/nix/vmlinuz");
        _store.Refused("machine 'gone' cannot be started", "start", "gone");
        Assert.Equal("stopped", _store.State("gone"));
    }

    [Fact]
    public void AKilledMachineIsStoppedAndStartsAgain()
    {
        _store.Done("create", "--name", "victim", "--net", "none", "--memory", "128M");
        _store.Done("start", "victim");
        using (Process process = Process.GetProcessById(_store.List()["victim"].GetProperty("process").GetInt32()))
        {
            process.Kill();
        }
        for (int i = 0; _store.Processes().Count != 0 && i < 1000; i++)
        {
            Thread.Sleep(10);
        }
        JsonElement killed = _store.List()["victim"];
        Assert.Equal("stopped", killed.GetProperty("state").GetString());
        Assert.Contains("killed", killed.GetProperty("end").GetProperty("reason").GetString());
        _store.Refused("does not run", "stop", "victim");
        _store.Done("start", "victim");
        _store.AwaitLog("victim", "root@victim");
        _store.Done("remove", "--force", "victim");
        Assert.Empty(_store.Processes());
    }

    /// <summary>A process that hangs in the host, as one whose shared folder does not answer: the plug is pulled all the same.</summary>
    [Fact]
    public void AProcessThatDoesNotEndIsKilledByForce()
    {
        _store.Done("run", "-d", "--name", "one", "--net", "none", "--memory", "128M");
        Assert.Equal(0, LodgeProcess.Script("kill -STOP $1", $"{_store.List()["one"].GetProperty("process").GetInt32()}").Status);
        _store.Done("stop", "--force", "--timeout", "1", "one");
        Assert.Equal("stopped", _store.State("one"));
        Assert.Empty(_store.Processes());
        _store.Done("start", "one");
        _store.Done("remove", "--force", "one");
    }

    /// <summary>A status that cannot be written, as on a full disk, is when it can be.</summary>
    [Fact]
    public void AStatusThatCouldNotBeWrittenIsWrittenLater()
    {
        _store.Done("run", "-d", "--name", "one", "--net", "none", "--memory", "128M");
        _store.Done("stop", "--force", "one");
        string status = Path.Combine(_store.Of("one"), "work", "status.json");
        File.Delete(status);
        Directory.CreateDirectory(status);
        (int started, _, string error) = _store.Run("start", "one");
        Assert.True(started == 0, error);
        Assert.Contains("status cannot be written", error, StringComparison.Ordinal);
        Directory.Delete(status);
        for (int i = 0; _store.State("one") != "running" && i < 100; i++)
        {
            Thread.Sleep(50);
        }
        Assert.Equal("running", _store.State("one"));
        _store.Done("remove", "--force", "one");
    }

    /// <summary>
    /// Random verbs on a few machines, each killed (kill -9) at a random moment, now and then a machine's process too. After each the list answers, and what it says of processes is so; at the end everything can be
    /// used and removed. LODGE_KILL_ROUNDS for more.
    /// </summary>
    [Fact]
    public void WhateverIsKilledTheListIsTrueAndEverythingUsable()
    {
        int rounds = int.TryParse(Environment.GetEnvironmentVariable("LODGE_KILL_ROUNDS"), out int asked) ? asked : 40;
        int seed = int.TryParse(Environment.GetEnvironmentVariable("LODGE_SEED"), out int given) ? given : Environment.TickCount;
        Random random = new(seed);
        string[] names = ["a", "b", "c"];
        string[] states = ["stopped", "starting", "running", "paused", "stopping"];
        for (int i = 0; i < rounds; i++)
        {
            string name = names[random.Next(names.Length)], other = names[random.Next(names.Length)];
            string[] verb = random.Next(12) switch
            {
                0 or 1 => ["create", "--name", name, "--net", "none", "--memory", "64M"],
                2 or 3 => ["start", name],
                4 => ["stop", "--force", name],
                5 => ["pause", name],
                6 => ["resume", name],
                7 => ["rename", name, other],
                8 => ["edit", name, "--memory", $"{64 + random.Next(64)}M"],
                9 => ["remove", "--force", name],
                10 => ["clone", name, other],
                _ => ["restart", "--force", name],
            };
            string told = $"seed {seed}, round {i}: lodge {string.Join(' ', verb)}";
            using (Process command = _store.Begin(verb))
            {
                if (!command.WaitForExit(random.Next(400)))
                {
                    command.Kill();
                    command.WaitForExit();
                }
            }
            if (random.Next(6) == 0 && _store.Processes() is { Count: not 0 } processes)
            {
                try
                {
                    using Process machine = Process.GetProcessById(processes[random.Next(processes.Count)]);
                    machine.Kill();
                    machine.WaitForExit(10_000);
                }
                catch (ArgumentException)
                {
                    // It ended in between.
                }
            }
            foreach ((string listed, JsonElement machine) in _store.List())
            {
                Assert.True(names.Contains(listed), $"{told}: '{listed}' is listed");
                Assert.True(states.Contains(machine.GetProperty("state").GetString()), $"{told}: '{listed}' is {machine}");
                Assert.False(machine.TryGetProperty("problem", out JsonElement problem), $"{told}: '{listed}' has the problem {problem}");
            }
        }
        foreach (string name in names)
        {
            if (!_store.List().TryGetValue(name, out JsonElement machine))
            {
                _store.Done("create", "--name", name, "--net", "none", "--memory", "64M");
                _store.Done("start", name);
            }
            else if (machine.GetProperty("state").GetString() == "stopped")
            {
                _store.Done("start", name);
            }
            Assert.Equal("stopped", Final(name));
            _store.Done("remove", name);
        }
        Assert.Empty(_store.List());
        Assert.Empty(_store.Processes());
        Assert.DoesNotContain(Directory.GetDirectories(Path.Combine(_store.Data, "lodge", "machines")), folder => Path.GetFileName(folder).StartsWith(".gone-", StringComparison.Ordinal));
    }

    private string Final(string name)
    {
        (int status, _, string error) = _store.Run("stop", "--force", name);
        Assert.True(status == 0 || error.Contains("does not run", StringComparison.Ordinal), error); // one that was just stopping when its command was killed
        return _store.State(name);
    }
}
