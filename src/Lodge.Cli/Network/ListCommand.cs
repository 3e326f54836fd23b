using System.CommandLine;
using System.Text.Json;
using Lodge.Cli.Console;
using Lodge.Management.Networks;

namespace Lodge.Cli.Network;

/// <summary>The verb <c>network list</c>.</summary>
internal static class ListCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Option<bool> json = new("--json") { Description = "Print JSON" };
        Command command = new("list", "List the networks of this host; as root, put right what is not as it should be") { json };
        command.Aliases.Add("ls");
        command.SetAction(parsed => Run(parsed.GetValue(json)));
        return command;
    }

    private static int Run(bool json)
    {
        IReadOnlyList<NetworkReport> reports = NetworkStore.OfHost().List(out IReadOnlyList<string> damaged);
        foreach (string folder in damaged)
        {
            HostFile.Error($"lodge: {folder} holds no usable network; remove it: lodge network remove {Path.GetFileName(folder)}");
        }
        if (json)
        {
            return NetworkCommand.Print(JsonSerializer.Serialize([.. reports], NetworkJson.Default.ListNetworkReport) + "\n");
        }
        foreach (NetworkReport report in reports.Where(report => report.Problem is not null))
        {
            HostFile.Error($"lodge: network '{report.Network.Name}': {report.Problem}");
        }
        return NetworkCommand.Print(NetworkCommand.Table(
        [
            ["NETWORK", "KIND", "STATE", "BRIDGE", "SUBNET", "SUBNET6", "MACHINES"],
            .. reports.Select(report => (string[])
            [
                report.Network.Name, KindText(report.Network), report.State, report.Network.Bridge, $"{report.Network.Subnet?.ToString() ?? "-"}", $"{report.Network.Subnet6?.ToString() ?? "-"}",
                $"{report.Machines.Count}",
            ]),
        ]));
    }

    /// <summary>A kind as the command line writes it, with the VLAN where there is one.</summary>
    public static string KindText(NetworkDefinition network) => network.Kind.ToString().ToLowerInvariant() + (network.Vlan == 0 ? "" : $" (VLAN {network.Vlan})");
}
