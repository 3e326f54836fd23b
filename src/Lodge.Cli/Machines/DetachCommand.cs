using System.CommandLine;
using System.Globalization;
using Lodge.Cli.Image;
using Lodge.Cli.Run;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Machines;
using Lodge.Management.Networks;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>detach</c>.</summary>
internal static class DetachCommand
{
    private const string Manual = """

        The devices' names are those that 'lodge show' and 'lodge attach' print. The guest of a machine that runs is asked to let go of each and waited for, 90 seconds or --timeout; unmount what is on a disk before. A
        device of which it does not let go stays as it was. --force pulls it out as a cable is pulled: what the guest has not written is lost, and its driver sees errors or hangs until its next start.

        Examples:
          lodge detach web disk3
          lodge detach web disk3 net1 --timeout 10s

        """;

    private static readonly TimeSpan DefaultPatience = TimeSpan.FromSeconds(90);

    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> name = MachineCommands.Name();
        Argument<string[]> devices = new("DEVICE") { Description = "Disk or network card as 'lodge show' lists it", Arity = ArgumentArity.OneOrMore };
        Option<bool> force = new("--force") { Description = "Pull it out, whatever the guest does with it" };
        Option<TimeSpan?> timeout = MachineCommands.Time("--timeout", "How long to wait for the guest, for example 30s or 5m [default: 90s]");
        Command command = new("detach", "Take disks and network cards away from a machine, at once when it runs") { name, devices, force, timeout };
        command.SetAction(parsed =>
        {
            string machine = parsed.GetValue(name)!;
            _ = MachineStore.ForUser().Get(machine);
            return MachineCommands.Each(parsed.GetValue(devices)!, device => Detach(machine, device, parsed.GetValue(force), parsed.GetValue(timeout) ?? DefaultPatience));
        });
        ImageManual.AddTo(command, Manual);
        return command;
    }

    /// <summary>Takes a device away. The definition has a note before the guest is asked: whatever is killed in between, the next command sees what is so.</summary>
    private static void Detach(string machine, string device, bool force, TimeSpan patience) => MachineStore.ForUser().Changing(machine, folder =>
    {
        MachineDefinition definition = DefinitionDevices.Settle(folder);
        ControlDevices? running = folder.IsRunning() ? DefinitionDevices.Running(folder) : null;
        bool kept = DefinitionDevices.Of(definition).Any(one => one.Name == device), there = running?.Devices.Any(one => one.Name == device) == true;
        if (!kept && !there)
        {
            throw new ManagementException($"machine '{machine}' has no disk or network card '{device}'; see: lodge show {machine}");
        }
        if (running is null && File.Exists(folder.Saved))
        {
            throw new ManagementException($"machine '{machine}' is saved and goes on with what it has; let it go on first (lodge restore {machine}), or let it boot (lodge start --fresh {machine})");
        }
        MachineDefinition changed = DefinitionDevices.Without(definition, device);
        Check(changed, folder, device);
        if (!there)
        {
            folder.WriteDefinition(changed);
            MachineStore.ForUser().Journal.Add(new MachineEvent(DateTimeOffset.Now, machine, definition.Id, "detached", device));
            return true;
        }
        folder.WriteDefinition(definition.WithUnsettled(device, MachineDefinition.Detaching));
        try
        {
            using ControlClient client = ControlClient.Connect(folder);
            client.DoAsync("DELETE", string.Create(CultureInfo.InvariantCulture, $"/v1/devices/{Uri.EscapeDataString(device)}?{(force ? "force=true" : $"wait={patience.TotalSeconds}")}")).GetAwaiter().GetResult();
        }
        catch (ControlRefusedException)
        {
            folder.WriteDefinition(definition);
            throw;
        }
        folder.WriteDefinition(changed);
        Tidy(definition, device);
        return true;
    });

    /// <summary>Takes a card's entry from its network, which its machine's process may not do.</summary>
    private static void Tidy(MachineDefinition definition, string device)
    {
        try
        {
            if (Environment.IsPrivilegedProcess && DefinitionDevices.Of(definition).FirstOrDefault(one => one is { Option: "net", Index: >= 0 } && one.Name == device) is { } card
                && NetworkOption.Parse(definition.Options["net"][card.Index]) is { Kind: Run.NetworkKind.Named } named)
            {
                NetworkStore.OfHost().Tidy(named.Name);
            }
        }
        catch (ManagementException)
        {
            // The card is off in any case; the next command on the network puts the rest right.
        }
    }

    /// <summary>Refuses what a start would refuse: ports that are published through a card that is gone, for example.</summary>
    private static void Check(MachineDefinition changed, MachineFolder folder, string device)
    {
        try
        {
            RunOptions options = DefinitionOptions.Read(changed, folder);
            _ = RunNetworks.Choose(options.Networks, options.Publish, options.Capture, options.NetworkRules);
        }
        catch (LodgeException e)
        {
            throw new ManagementException($"machine '{folder.Name}' needs {device}: {e.Message}", e);
        }
    }
}
