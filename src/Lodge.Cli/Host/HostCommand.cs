using System.CommandLine;
using System.Text;
using System.Text.Json;
using Lodge.Cli.Console;
using Lodge.Cli.Engines;
using Lodge.Cli.Image;
using Lodge.Management.Host;
using Lodge.Management.Host.Inventory;
using Lodge.Network.User;

namespace Lodge.Cli.Host;

/// <summary>The group <c>lodge host</c>: what this host offers to machines. <c>show</c> is what the bare group does.</summary>
internal static class HostCommand
{
    private const string Manual = """

        Whether the hardware engine (kvm) is usable is found out by small probing guests at first use, and kept in ~/.cache/lodge until the kernel, the
        processor or Lodge is another; --probe tries again.

        Examples:
          lodge host                                       engines, CPU, memory, networks, and what to install
          lodge host --probe                               try the hardware engine again
          lodge host --json | jq '.engines[] | {name, usable, problem}'
          lodge host --json | jq -r '.packages[] | select(.installed | not) | .name'

        """;

    private const string ServiceManual = """

        The unit is lodge-machines.service. A user's unit runs while the user is logged in, or always after: loginctl enable-linger USER.

        Examples:
          lodge host install                                       as root: for root's machines, when the host starts
          lodge host install --user                                for your own
          systemctl status lodge-machines

        """;

    /// <summary>Builds the group.</summary>
    public static Command Create()
    {
        Command group = new("host", "Show what this host offers to machines: engines, CPU, memory, networks, and what to install");
        Option<bool> json = new("--json") { Description = "Print JSON" };
        Option<bool> probe = new("--probe") { Description = "Try the hardware engine again" };
        Add(group, json, probe);
        Option<bool> showJson = new("--json") { Description = "Print JSON" };
        Option<bool> showProbe = new("--probe") { Description = "Try the hardware engine again" };
        Command show = new("show", "Show what this host offers to machines");
        Add(show, showJson, showProbe);
        group.Add(show);
        group.Add(Service("install", "Write a systemd unit that starts machines with autostart when the host starts, and stops all before it goes down", service => service.Install(DetachedProcess.Self)));
        group.Add(Service("uninstall", "Remove that unit", service => service.Uninstall()));
        return group;
    }

    private static void Add(Command command, Option<bool> json, Option<bool> probe)
    {
        command.Add(json);
        command.Add(probe);
        command.SetAction(parsed => Run(parsed.GetValue(json), parsed.GetValue(probe)));
        ImageManual.AddTo(command, Manual);
    }

    private static Command Service(string verb, string about, Func<HostService, IReadOnlyList<string>> action)
    {
        Option<bool> system = new("--system") { Description = "The host's unit, for root's machines [default for root]" };
        Option<bool> user = new("--user") { Description = "A unit of this user's systemd, for the user's machines [default for others]" };
        Command command = new(verb, about) { system, user };
        command.SetAction(parsed =>
        {
            if (parsed.GetValue(system) && parsed.GetValue(user))
            {
                throw new LodgeException("give --system or --user, not both", ExitStatus.Usage);
            }
            foreach (string line in action(new HostService(ofUser: parsed.GetValue(user) || (!parsed.GetValue(system) && !Environment.IsPrivilegedProcess))))
            {
                HostFile.Error($"lodge: {line}");
            }
            return 0;
        });
        ImageManual.AddTo(command, ServiceManual);
        return command;
    }

    private static int Run(bool json, bool probe)
    {
        HostInventory host = HostInventory.OfHost(EngineChoice.Reports(probe), UserNetwork.Problem);
        string text = json ? JsonSerializer.Serialize(host, HostJson.Default.HostInventory) + "\n" : HostText.Write(host);
        HostFile.Write(HostFile.StandardOutput, Encoding.UTF8.GetBytes(text));
        return 0;
    }
}
