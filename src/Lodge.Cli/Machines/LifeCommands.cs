using System.CommandLine;
using Lodge.Cli.Console;
using Lodge.Cli.Run;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Limits;
using Lodge.Management.Machines;
using Lodge.Network;

namespace Lodge.Cli.Machines;

/// <summary>The verbs <c>start</c>, <c>stop</c>, <c>restart</c>, <c>pause</c>, <c>resume</c> and <c>reset</c>.</summary>
internal static class LifeCommands
{
    private static readonly TimeSpan DefaultPatience = TimeSpan.FromSeconds(90), Between = TimeSpan.FromMilliseconds(20);
    private static readonly TimeSpan BootTime = TimeSpan.FromMinutes(1), AskAgain = TimeSpan.FromMilliseconds(500);

    // How long a process has to end when the plug is pulled, before it is killed: it waits for a disk of the host's up to ten seconds, and for a shared folder that does not answer without end.
    private static readonly TimeSpan PlugTime = TimeSpan.FromSeconds(15);

    /// <summary>Builds <c>start</c>.</summary>
    public static Command CreateStart()
    {
        Argument<string[]> names = OrAll();
        Option<bool> autostart = new("--autostart") { Description = "All machines that are to start with the host" };
        Option<bool> fresh = new("--fresh") { Description = "Forget where a saved machine was: it boots" };
        Command command = new("start", "Start machines in the background; a saved one goes on where it was") { names, autostart, fresh };
        command.SetAction(parsed => MachineCommands.Each(
            Choose(parsed.GetValue(names)!, parsed.GetValue(autostart), "--autostart", report => report.Definition?.Autostart == true && report.State is MachineStates.Stopped or MachineStates.Saved),
            name => Start(name, parsed.GetValue(fresh))));
        return command;
    }

    /// <summary>Builds <c>stop</c>.</summary>
    public static Command CreateStop()
    {
        Argument<string[]> names = OrAll();
        Option<bool> all = new("--all") { Description = "All machines that run" };
        (Option<bool> force, Option<TimeSpan?> timeout) = StopOptions();
        Command command = new("stop", "Turn machines off: the guest is asked and waited for, 90 seconds at most") { names, all, force, timeout };
        command.SetAction(parsed => MachineCommands.Each(
            Choose(parsed.GetValue(names)!, parsed.GetValue(all), "--all", report => report.Process is not null),
            name => Stop(name, parsed.GetValue(force), parsed.GetValue(timeout))));
        return command;
    }

    /// <summary>Builds <c>restart</c>.</summary>
    public static Command CreateRestart()
    {
        Argument<string[]> names = MachineCommands.Names();
        (Option<bool> force, Option<TimeSpan?> timeout) = StopOptions();
        Command command = new("restart", "Turn machines off as 'stop' does, and start them again, with what was edited meanwhile") { names, force, timeout };
        command.SetAction(parsed => MachineCommands.Each(parsed.GetValue(names)!, name =>
        {
            if (MachineStore.ForUser().Get(name).IsRunning())
            {
                Stop(name, parsed.GetValue(force), parsed.GetValue(timeout));
            }
            Start(name);
        }));
        return command;
    }

    /// <summary>Builds <c>pause</c>.</summary>
    public static Command CreatePause() => Simple("pause", "Hold machines: time stands still in them", "/v1/pause");

    /// <summary>Builds <c>resume</c>.</summary>
    public static Command CreateResume() => Simple("resume", "Let held machines go on", "/v1/resume");

    /// <summary>Builds <c>reset</c>.</summary>
    public static Command CreateReset() => Simple("reset", "Press the reset button of machines", "/v1/reset");

    /// <summary>Starts a machine and returns when its guest runs.</summary>
    /// <exception cref="ManagementException">It runs already or cannot be started.</exception>
    public static void Start(string name, bool fresh = false)
    {
        MachineStore.ForUser().Changing(name, machine =>
        {
            if (fresh && !machine.IsRunning())
            {
                SavedGuest.Forget(machine);
            }
            Launch(machine, [], line => HostFile.Error($"lodge: {name}: {line}"));
            return true;
        });
    }

    /// <summary>Starts a machine's process in its control group and its sandbox.</summary>
    /// <exception cref="ManagementException">It runs already or cannot be started.</exception>
    public static void Launch(MachineFolder machine, IReadOnlyList<string> arguments, Action<string> tell)
    {
        if (machine.IsRunning())
        {
            throw new ManagementException($"machine '{machine.Name}' runs already");
        }
        try
        {
            new SnapshotStore(machine).RequireWhole();
            MachineDefinition definition = DefinitionDevices.Settle(machine);
            RunOptions options = DefinitionOptions.Read(definition, machine);
            MachineSandbox sandbox = MachineSandbox.Plan(machine, definition, options);
            ControlGroups groups = ControlGroups.OfHost();
            MachineGroup.RemoveEnded(groups);
            using MachineGroup? group = MachineGroup.Create(groups, definition.Id, options.Limits);
            List<(string Argument, HostCard Card)> cards = [];
            try
            {
                // Putting a card on a network of the host starts programs and changes firewall rules: the command does that, so that the process needs no rights for it.
                foreach (NetworkOption card in options.Networks is null ? [] : RunNetworks.Choose(options.Networks, options.Publish, options.Capture, options.NetworkRules))
                {
                    if (card.Kind is not (NetworkKind.User or NetworkKind.None))
                    {
                        HostCard open = HostCard.Open(card with { Mac = RunNetworks.AddressOf(card, machine.Work) }, machine.Name, process: null);
                        cards.Add((HandedCard.Argument(card.Device!, open.Tap), open));
                    }
                }
                MachineLauncher.Start(machine, [.. sandbox.Arguments, .. arguments], sandbox.Confinement, group, [.. cards.Select(one => (one.Argument, one.Card.Handles))], tell);
                cards.ForEach(one => one.Card.Taken(machine.ReadStatus()?.Process));
            }
            catch (NetworkException e)
            {
                throw new ManagementException($"machine '{machine.Name}' cannot be started: a network cannot be used: {e.Message}", e);
            }
            finally
            {
                cards.ForEach(one => one.Card.Dispose());
            }
        }
        catch (LodgeException e)
        {
            throw new ManagementException($"machine '{machine.Name}' cannot be started: {e.Message}", e);
        }
    }

    /// <summary>Turns a machine off and returns when its process has ended.</summary>
    /// <exception cref="ManagementException">It does not run, or does not end.</exception>
    public static void Stop(string name, bool force, TimeSpan? patience)
    {
        MachineFolder machine = MachineStore.ForUser().Get(name);
        TimeSpan time = patience ?? DefaultPatience;
        DateTimeOffset end = DateTimeOffset.Now + time;
        if (!machine.IsRunning())
        {
            throw new ManagementException($"machine '{name}' does not run");
        }
        try
        {
            using ControlClient client = ConnectOrKill(machine, force, out bool gone);
            if (gone)
            {
                return;
            }
            if (force)
            {
                PullPlug(client, machine, time < PlugTime ? time : PlugTime);
            }
            else
            {
                AskToEnd(client, machine, end);
            }
        }
        catch (ManagementException) when (EndsNow(machine))
        {
            // It ended while it was asked.
        }
        if (!HasEnded(machine, end))
        {
            throw new ManagementException(force
                ? $"machine '{name}' was killed and its process has not ended: it waits in the host's kernel for a disk or a shared folder, and ends when that answers"
                : $"machine '{name}' still runs after {time.TotalSeconds:0} s; wait longer (--timeout), or pull the plug: lodge stop --force {name}");
        }
        MachineGroup.RemoveEnded(ControlGroups.OfHost());
    }

    /// <summary>Tells the process to end at once; one that does not is killed.</summary>
    private static void PullPlug(ControlClient client, MachineFolder machine, TimeSpan patience)
    {
        DateTimeOffset end = DateTimeOffset.Now + patience;
        using CancellationTokenSource patient = new(patience);
        try
        {
            client.DoAsync("POST", "/v1/stop", patient.Token).GetAwaiter().GetResult();
        }
        catch (OperationCanceledException)
        {
            // Nobody answers.
        }
        if (!HasEnded(machine, end))
        {
            MachineLauncher.Kill(machine);
        }
    }

    private static bool HasEnded(MachineFolder machine, DateTimeOffset end)
    {
        while (machine.Exists && machine.IsRunning())
        {
            if (DateTimeOffset.Now >= end)
            {
                return false;
            }
            Thread.Sleep(Between);
        }
        return true;
    }

    /// <summary>Asks until the guest listens: one that boots does not yet.</summary>
    private static void AskToEnd(ControlClient client, MachineFolder machine, DateTimeOffset end)
    {
        using CancellationTokenSource patient = new(end - DateTimeOffset.Now);
        while (!Asked(client, patient.Token) && machine.IsRunning())
        {
            if (DateTimeOffset.Now >= end || machine.ReadStatus() is { Since: var since } && DateTimeOffset.Now - since > BootTime)
            {
                throw new ManagementException($"nothing in the guest of machine '{machine.Name}' listens to its power button; pull the plug: lodge stop --force {machine.Name}");
            }
            Thread.Sleep(AskAgain);
        }
    }

    /// <summary>Whether a machine that ran and did not answer is one that just ends.</summary>
    private static bool EndsNow(MachineFolder machine)
    {
        for (int i = 0; i < 100 && machine.IsRunning() && machine.ReadStatus()?.State is MachineStates.Stopping or MachineStates.Stopped; i++)
        {
            Thread.Sleep(Between);
        }
        return !machine.IsRunning();
    }

    private static bool Asked(ControlClient client, CancellationToken cancellation)
    {
        try
        {
            return client.AskAsync("POST", "/v1/shutdown", new ControlShutdown(false), ControlJson.Default.ControlShutdown, ControlJson.Default.ControlShutdown, cancellation).GetAwaiter().GetResult().Asked;
        }
        catch (OperationCanceledException)
        {
            return false;
        }
    }

    /// <summary>Connects; with force a process that does not answer is killed.</summary>
    private static ControlClient ConnectOrKill(MachineFolder machine, bool force, out bool gone)
    {
        gone = false;
        for (int tries = 0; ; tries++)
        {
            try
            {
                return ControlClient.Connect(machine);
            }
            catch (ManagementException) when (machine.IsRunning() && tries < 100 && (machine.ReadStatus()?.State is MachineStates.Starting or MachineStates.Stopping || tries < 5))
            {
                Thread.Sleep(100);
            }
            catch (ManagementException) when (force && machine.IsRunning())
            {
                MachineLauncher.Kill(machine);
                gone = true;
                return null!;
            }
        }
    }

    private static Command Simple(string verb, string about, string path)
    {
        Argument<string[]> names = MachineCommands.Names();
        Command command = new(verb, about) { names };
        command.SetAction(parsed => MachineCommands.Each(parsed.GetValue(names)!, name => MachineCommands.Do(name, path)));
        return command;
    }

    private static Argument<string[]> OrAll() => new("NAME") { Description = "Machine as 'lodge list' shows it", Arity = ArgumentArity.ZeroOrMore };

    private static IEnumerable<string> Choose(string[] names, bool all, string option, Func<MachineReport, bool> chosen) => (names.Length, all) switch
    {
        (0, false) => throw new LodgeException($"name a machine, or give {option}", ExitStatus.Usage),
        (0, true) => MachineStore.ForUser().List().Where(chosen).Select(report => report.Name),
        (_, false) => names,
        _ => throw new LodgeException($"give names or {option}, not both", ExitStatus.Usage),
    };

    private static (Option<bool> Force, Option<TimeSpan?> Timeout) StopOptions() =>
    (
        new("--force") { Description = "Pull the plug at once" },
        MachineCommands.Time("--timeout", "How long to wait for the guest, for example 30s or 5m"));
}
