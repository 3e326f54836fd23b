using System.CommandLine;
using Lodge.Cli.Console;
using Lodge.Management.Limits;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>remove</c>.</summary>
internal static class RemoveCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string[]> names = MachineCommands.Names();
        Option<bool> force = new("--force") { Description = "Also when it runs: the plug is pulled" };
        Command command = new("remove", "Remove machines with their disks, snapshots and all that is kept of them; disks given by --disk stay, without its snapshots") { names, force };
        command.Aliases.Add("rm");
        command.SetAction(parsed => MachineCommands.Each(parsed.GetValue(names)!, name =>
        {
            MachineStore store = MachineStore.ForUser();
            if (parsed.GetValue(force) && store.Get(name).IsRunning())
            {
                LifeCommands.Stop(name, force: true, patience: null);
            }
            IReadOnlyList<string> left = MachineTags.Remove(store, name);
            store.Remove(name);
            foreach (string line in left)
            {
                HostFile.Error($"lodge: {line}");
            }
            MachineGroup.RemoveEnded(ControlGroups.OfHost());
        }));
        return command;
    }
}
