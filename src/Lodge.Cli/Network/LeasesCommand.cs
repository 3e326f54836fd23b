using System.CommandLine;
using System.Text.Json;
using Lodge.Management.Networks;

namespace Lodge.Cli.Network;

/// <summary>The verb <c>network leases</c>.</summary>
internal static class LeasesCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string?> name = new("NAME") { Description = "Network; without it all", Arity = ArgumentArity.ZeroOrOne };
        Option<bool> json = new("--json") { Description = "Print JSON" };
        Command command = new("leases", "List the addresses that networks gave to machines") { name, json };
        command.SetAction(parsed => Run(parsed.GetValue(name), parsed.GetValue(json)));
        return command;
    }

    private static int Run(string? name, bool json)
    {
        IReadOnlyList<NetworkLease> leases = NetworkStore.OfHost().Leases(name);
        return NetworkCommand.Print(json
            ? JsonSerializer.Serialize([.. leases], NetworkJson.Default.ListNetworkLease) + "\n"
            : NetworkCommand.Table(
            [
                ["NETWORK", "ADDRESS", "MAC", "NAME", "MACHINE", "EXPIRES"],
                .. leases.Select(lease => (string[])
                [
                    lease.Network, $"{lease.Address}", lease.Mac ?? "-", lease.Name ?? "-", lease.Machine ?? "-",
                    lease.Expires is { } end ? end.ToLocalTime().ToString("yyyy-MM-dd HH:mm:ss") : lease.Static ? "static" : "-",
                ]),
            ]));
    }
}
