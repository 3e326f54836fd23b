using System.CommandLine;
using System.Text.Json;
using Lodge.Cli.Network;
using Lodge.Cli.Run;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>list</c>.</summary>
internal static class ListCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Option<bool> json = new("--json") { Description = "Print JSON" };
        Option<bool> running = new("--running") { Description = "Only those whose process is there" };
        Option<bool> quiet = new("--quiet", "-q") { Description = "Names only" };
        Command command = new("list", "List the machines of this user, or of the system for root") { json, running, quiet };
        command.Aliases.Add("ls");
        command.Aliases.Add("ps");
        command.SetAction(parsed =>
        {
            IEnumerable<MachineReport> machines = MachineStore.ForUser().List();
            List<MachineReport> shown = [.. parsed.GetValue(running) ? machines.Where(machine => machine.Process is not null || machine.State == MachineStates.Starting) : machines];
            return MachineCommands.Print(
                parsed.GetValue(json) ? JsonSerializer.Serialize(shown, MachineJson.Default.ListMachineReport) + "\n"
                : parsed.GetValue(quiet) ? string.Concat(shown.Select(machine => machine.Name + "\n"))
                : Table(shown));
        });
        return command;
    }

    private static string Table(IEnumerable<MachineReport> machines) => NetworkCommand.Table(
    [
        ["MACHINE", "STATE", "SINCE", "IMAGE", "CPUS", "MEMORY", "ENGINE", "LAST END"],
        .. machines.Select(machine => (string[])
        [
            machine.Name,
            machine.State,
            MachineCommands.Ago(machine.Since),
            machine.Definition switch
            {
                null => "-",
                { Image: { } image } => image,
                var definition when definition.Option("kernel") is not null || definition.Option("initrd") is not null => "(own kernel)",
                _ => "(default system)",
            },
            machine.Definition is null ? "-" : machine.Definition.Option("cpus") ?? "1",
            machine.Definition is null ? "-" : machine.Definition.Option("memory") ?? (machine.Definition.Image is null ? $"{RunOptions.DefaultMemory >> 20}M" : $"{ImagePlan.DefaultMemory >> 20}M"),
            machine.Engine ?? "-",
            machine.Problem ?? machine.End?.Reason ?? "-",
        ]),
    ]);
}
