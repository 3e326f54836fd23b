using System.CommandLine;
using System.Text.Json;
using Lodge.Cli.Console;
using Lodge.Cli.Network;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>stats</c>.</summary>
internal static class StatsCommand
{
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(1);

    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string[]> names = new("NAME") { Description = "Machines; all that run when none is named", Arity = ArgumentArity.ZeroOrMore };
        Option<bool> json = new("--json") { Description = "Print JSON: counters since each machine's start" };
        Option<bool> follow = new("--follow", "-f") { Description = "Each second again, until Ctrl-C" };
        Command command = new("stats", "Show what running machines use: CPU over one second, memory, network") { names, json, follow };
        command.Aliases.Add("top");
        command.SetAction(parsed => Run(parsed.GetValue(names)!, parsed.GetValue(json), parsed.GetValue(follow)));
        return command;
    }

    private static int Run(string[] names, bool json, bool follow)
    {
        do
        {
            IReadOnlyList<string> machines = names.Length != 0 ? names : [.. MachineStore.ForUser().List().Where(machine => machine.Process is not null).Select(machine => machine.Name)];
            Dictionary<string, ControlStats> first = Measure(machines, names.Length != 0);
            if (json)
            {
                Print(MachineCommands.Print(JsonSerializer.Serialize(first, ControlJson.Default.DictionaryStringControlStats) + "\n"));
                if (follow)
                {
                    Thread.Sleep(Interval);
                }
                continue;
            }
            Thread.Sleep(Interval);
            Dictionary<string, ControlStats> second = Measure(machines, mustAnswer: false);
            Print(MachineCommands.Print(NetworkCommand.Table(
            [
                ["MACHINE", "CPU", "MEMORY", "OF", "NET IN", "NET OUT", "UP"],
                .. second.Where(one => first.ContainsKey(one.Key)).Select(one => Row(one.Key, first[one.Key], one.Value)),
            ])));
        }
        while (follow);
        return 0;
    }

    private static void Print(int status)
    {
        if (status != 0)
        {
            throw new LodgeException("nobody reads the output", status);
        }
    }

    private static string[] Row(string name, ControlStats before, ControlStats after) =>
    [
        name,
        $"{100.0 * (after.ProcessorTime - before.ProcessorTime) / Math.Max(1, after.Time - before.Time):0.0}%",
        MachineCommands.Size(after.ResidentMemory),
        MachineCommands.Size(after.Memory),
        MachineCommands.Size(after.NetworkReceived),
        MachineCommands.Size(after.NetworkSent),
        MachineCommands.Ago(DateTimeOffset.Now - TimeSpan.FromMicroseconds(after.Time / 1000.0)),
    ];

    private static Dictionary<string, ControlStats> Measure(IEnumerable<string> names, bool mustAnswer)
    {
        Dictionary<string, ControlStats> all = [];
        foreach (string name in names)
        {
            try
            {
                all[name] = MachineCommands.Ask(name, client => client.GetAsync("/v1/stats", ControlJson.Default.ControlStats));
            }
            catch (ManagementException e) when (!mustAnswer)
            {
                HostFile.Error($"lodge: {e.Message}");
            }
        }
        return all;
    }
}
