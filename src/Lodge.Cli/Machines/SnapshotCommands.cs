using System.CommandLine;
using System.Globalization;
using System.Text;
using System.Text.Json;
using Lodge.Cli.Console;
using Lodge.Cli.Network;
using Lodge.Cli.Run;
using Lodge.Machine;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Machines;
using Lodge.Storage.Disks;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Cli.Machines;

/// <summary>The verbs <c>snapshot ...</c> of machines.</summary>
internal static class SnapshotCommands
{
    /// <summary>Argument of a machine's process: the snapshot that it goes on with.</summary>
    public const string FromArgument = "--from-snapshot=";

    /// <summary>Builds them.</summary>
    public static Command Create() => new("snapshot", "Snapshots of machines: disks, and of running ones memory") { CreateCreate(), CreateList(), CreateTree(), CreateShow(), CreateRevert(), CreateRemove() };

    private static Command CreateCreate()
    {
        Argument<string> machine = MachineCommands.Name();
        Argument<string?> name = new("SNAPSHOT") { Description = "Its name [default: one is made up]", Arity = ArgumentArity.ZeroOrOne };
        Option<string?> description = new("--description") { Description = "What to remember of it", HelpName = "TEXT" };
        Option<bool> noMemory = new("--no-memory") { Description = "Of a running machine only the disks, as if its plug had been pulled" };
        Option<bool> freeze = new("--freeze") { Description = "With --no-memory: the guest's agent writes everything out and holds the file systems meanwhile" };
        Command command = new("create", "Keep a machine as it is now; one that runs goes on at once") { machine, name, description, noMemory, freeze };
        command.SetAction(parsed =>
        {
            SnapshotRequest wanted = new(parsed.GetValue(name), parsed.GetValue(description), !parsed.GetValue(noMemory), parsed.GetValue(freeze));
            if (wanted is { Freeze: true, Memory: true })
            {
                throw new LodgeException("--freeze is for --no-memory: a snapshot with memory needs no help to be consistent, and would go on with its file systems held", ExitStatus.Usage);
            }
            SnapshotRecord made = With(
                parsed.GetValue(machine)!,
                client => client.AskAsync("POST", "/v1/snapshots", wanted, SnapshotJson.Default.SnapshotRequest, SnapshotJson.Default.SnapshotRecord).GetAwaiter().GetResult(),
                maker => maker.Create(wanted));
            return MachineCommands.Print(made.Name + "\n");
        });
        return command;
    }

    private static Command CreateList()
    {
        Argument<string> machine = MachineCommands.Name();
        Option<bool> json = new("--json") { Description = "Print JSON" };
        Command command = new("list", "List a machine's snapshots") { machine, json };
        command.Aliases.Add("ls");
        command.SetAction(parsed =>
        {
            SnapshotStore store = new(MachineStore.ForUser().Get(parsed.GetValue(machine)!));
            IReadOnlyList<SnapshotRecord> all = store.List();
            return MachineCommands.Print(parsed.GetValue(json) ? JsonSerializer.Serialize([.. all], SnapshotJson.Default.ListSnapshotRecord) + "\n" : NetworkCommand.Table(
            [
                ["SNAPSHOT", "ID", "TAKEN", "MEMORY", "PARENT", "DESCRIPTION"],
                .. all.Select(s => (string[])
                [
                    s.Id == store.Current ? s.Name + " *" : s.Name, s.Id, Time(s), s.Memory ? MachineCommands.Size(s.MemoryBytes) : "-", all.FirstOrDefault(p => p.Id == s.Parent)?.Name ?? "-", s.Description ?? "-",
                ]),
            ]));
        });
        return command;
    }

    private static Command CreateTree()
    {
        Argument<string> machine = MachineCommands.Name();
        Command command = new("tree", "Show which snapshot came of which; a star is at the one from which the machine has gone on") { machine };
        command.SetAction(parsed =>
        {
            SnapshotStore store = new(MachineStore.ForUser().Get(parsed.GetValue(machine)!));
            IReadOnlyList<SnapshotRecord> all = store.List();
            StringBuilder text = new();
            HashSet<string> seen = [];
            void Branch(string? parent, int depth)
            {
                foreach (SnapshotRecord s in all.Where(s => parent is null ? s.Parent is null || all.All(p => p.Id != s.Parent) : s.Parent == parent))
                {
                    if (seen.Add(s.Id))
                    {
                        text.Append(CultureInfo.InvariantCulture, $"{new string(' ', depth * 2)}{s.Name}{(s.Id == store.Current ? " *" : "")}\n");
                        Branch(s.Id, depth + 1);
                    }
                }
            }
            Branch(null, 0);
            return MachineCommands.Print(text.ToString());
        });
        return command;
    }

    private static Command CreateShow()
    {
        Argument<string> machine = MachineCommands.Name(), snapshot = Snapshot();
        Command command = new("show", "Show one snapshot as JSON") { machine, snapshot };
        command.SetAction(parsed => MachineCommands.Print(
            JsonSerializer.Serialize(new SnapshotStore(MachineStore.ForUser().Get(parsed.GetValue(machine)!)).Find(parsed.GetValue(snapshot)!), SnapshotJson.Default.SnapshotRecord) + "\n"));
        return command;
    }

    private static Command CreateRevert()
    {
        Argument<string> machine = MachineCommands.Name(), snapshot = Snapshot();
        Command command = new("revert", "Bring a machine back to a snapshot; what came later and is in no other snapshot is lost. With memory it goes on at once") { machine, snapshot };
        command.SetAction(parsed =>
        {
            string name = parsed.GetValue(machine)!;
            return MachineStore.ForUser().Changing(name, folder =>
            {
                SnapshotStore store = new(folder);
                SnapshotRecord chosen = store.Find(parsed.GetValue(snapshot)!);
                RequireDevices(folder, chosen);
                bool ran = folder.IsRunning();
                if (ran)
                {
                    LifeCommands.Stop(name, force: true, patience: null);
                }
                Stopped(folder, (_, disks) =>
                {
                    store.BeginRevert(chosen.Id);
                    SavedGuest.Forget(folder);
                    disks.ApplySnapshot(SnapshotStore.Tag(chosen.Id));
                    store.EndRevert(chosen);
                    return true;
                });
                if (chosen.Memory || ran)
                {
                    LifeCommands.Launch(folder, chosen.Memory ? [FromArgument + chosen.Id] : [], line => HostFile.Error($"lodge: {name}: {line}"));
                }
                return 0;
            });
        });
        return command;
    }

    private static Command CreateRemove()
    {
        Argument<string> machine = MachineCommands.Name();
        Argument<string[]> snapshots = new("SNAPSHOT") { Description = "Snapshot as 'lodge snapshot list' shows it", Arity = ArgumentArity.OneOrMore };
        Command command = new("remove", "Remove snapshots; the machine stays as it is, and those that came of them too") { machine, snapshots };
        command.Aliases.Add("rm");
        command.SetAction(parsed => MachineCommands.Each(parsed.GetValue(snapshots)!, snapshot => With(
            parsed.GetValue(machine)!,
            client =>
            {
                SnapshotRecord chosen = new SnapshotStore(MachineStore.ForUser().Get(parsed.GetValue(machine)!)).Find(snapshot);
                client.DoAsync("DELETE", $"/v1/snapshots/{chosen.Id}").GetAwaiter().GetResult();
                return true;
            },
            maker =>
            {
                maker.Remove(snapshot);
                return true;
            })));
        return command;
    }

    /// <summary>Refuses to go back to memory whose guest knows other devices than the machine would have.</summary>
    private static void RequireDevices(MachineFolder folder, SnapshotRecord snapshot)
    {
        if (snapshot is not { Memory: true, Devices: { } then })
        {
            return;
        }
        string[] now = [.. DefinitionDevices.Of(DefinitionDevices.Settle(folder)).Select(device => device.Name)];
        string[] lacking = [.. then.Where(name => !now.Contains(name) && name.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_'))], added = [.. now.Except(then)];
        if (lacking.Length + added.Length != 0)
        {
            string[] what = [.. lacking.Length == 0 ? Array.Empty<string>() : [$"it had {string.Join(", ", lacking)} then, to be attached before (with name= and slot=)"],
                .. added.Length == 0 ? Array.Empty<string>() : [$"it has {string.Join(", ", added)} since, to be detached before (lodge detach {folder.Name} {string.Join(' ', added)})"]];
            throw new ManagementException($"machine '{folder.Name}' cannot go back to snapshot '{snapshot.Name}' with its memory: {string.Join("; ", what)}");
        }
    }

    private static Argument<string> Snapshot() => new("SNAPSHOT") { Description = "Snapshot as 'lodge snapshot list' shows it" };

    private static string Time(SnapshotRecord snapshot) => snapshot.Time.ToLocalTime().ToString("yyyy-MM-dd HH:mm:ss", CultureInfo.InvariantCulture);

    /// <summary>Asks the process of a machine that runs; else does it here.</summary>
    private static T With<T>(string name, Func<ControlClient, T> running, Func<SnapshotMaker, T> stopped) => MachineStore.ForUser().Changing(name, folder =>
    {
        if (folder.IsRunning())
        {
            using ControlClient client = ControlClient.Connect(folder);
            return running(client);
        }
        return Stopped(folder, (maker, _) => stopped(maker));
    });

    /// <summary>Removes what is left of snapshots of a machine that were not finished; it does not run, and its locks are held.</summary>
    /// <exception cref="ManagementException">A disk refuses.</exception>
    public static void RemoveUnfinished(MachineFolder folder)
    {
        if (new SnapshotStore(folder).Unfinished().Count != 0)
        {
            WithDisks(folder, static (maker, _) =>
            {
                maker.RemoveUnfinished();
                return true;
            });
        }
    }

    /// <summary>Opens the disks of a machine that does not run, so that it cannot be started meanwhile.</summary>
    private static T Stopped<T>(MachineFolder folder, Func<SnapshotMaker, RunDisks, T> action)
    {
        using SafeFileHandle still = folder.TryRun() ?? throw new ManagementException($"machine '{folder.Name}' has just been started");
        return WithDisks(folder, action);
    }

    private static T WithDisks<T>(MachineFolder folder, Func<SnapshotMaker, RunDisks, T> action)
    {
        MachineDefinition definition = folder.ReadDefinition(out string? problem) ?? throw new ManagementException($"machine '{folder.Name}' cannot be used: {problem}");
        string here = Directory.GetCurrentDirectory();
        try
        {
            RunOptions options = DefinitionOptions.Read(definition, folder);
            Directory.SetCurrentDirectory(Directory.Exists(definition.Directory) ? definition.Directory : "/");
            RunPlan plan = RunPlan.Create(options);
            using RunDisks disks = RunDisks.Open(plan.SystemDisk, options.Disks);
            return action(new SnapshotMaker(folder, disks, null), disks);
        }
        catch (Exception e) when (e is LodgeException or DiskException or DeviceBusyException)
        {
            throw new ManagementException($"the snapshot of machine '{folder.Name}': {e.Message}", e);
        }
        finally
        {
            Directory.SetCurrentDirectory(here);
        }
    }
}
