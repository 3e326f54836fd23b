using System.CommandLine;
using System.Text;
using System.Text.Json;
using Lodge.Management.Networks;

namespace Lodge.Cli.Network;

/// <summary>The verb <c>network show</c>.</summary>
internal static class ShowCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> name = new("NAME") { Description = "Network as 'lodge network list' shows it" };
        Option<bool> json = new("--json") { Description = "Print JSON" };
        Command command = new("show", "Show one network and the machines on it") { name, json };
        command.SetAction(parsed =>
        {
            NetworkReport report = NetworkStore.OfHost().Show(parsed.GetValue(name)!);
            return NetworkCommand.Print(parsed.GetValue(json) ? JsonSerializer.Serialize(report, NetworkJson.Default.NetworkReport) + "\n" : Describe(report));
        });
        return command;
    }

    private static string Describe(NetworkReport report)
    {
        NetworkDefinition network = report.Network;
        StringBuilder text = new();
        void Line(string name, string? value)
        {
            if (!string.IsNullOrEmpty(value))
            {
                text.Append($"{name + ":",-19}{value}\n");
            }
        }
        Line("Network", network.Name);
        Line("Kind", ListCommand.KindText(network));
        Line("State", report.Problem is null ? report.State : $"{report.State}: {report.Problem}");
        Line("Bridge", network.Bridge);
        Line("IPv4", network.Subnet is { } v4 ? $"{v4}, the host is {v4.Gateway}" : null);
        Line("IPv6", network.Subnet6 is { } v6 ? $"{v6}, the host is {v6.Gateway}" : null);
        Line("Domain", network.Dhcp ? network.Domain : null);
        Line("MTU", network.Mtu == 0 ? null : $"{network.Mtu}");
        Line("Machines isolated", network.IsolateMachines ? "yes" : "no");
        Line("Created", network.Created.ToLocalTime().ToString("yyyy-MM-dd HH:mm"));
        foreach (StaticLease lease in network.Leases)
        {
            Line("Lease", string.Join(", ", new[] { lease.Mac.ToString(), lease.Address?.ToString(), lease.Address6?.ToString(), lease.Name }.OfType<string>()));
        }
        foreach (AttachedMachine machine in report.Machines)
        {
            Line("Machine", string.Join(", ", new[] { machine.Machine, $"{machine.Mac}", machine.Address?.ToString(), machine.Address6?.ToString(), machine.Tap, $"process {machine.Process}" }.OfType<string>()));
        }
        return text.ToString();
    }
}
