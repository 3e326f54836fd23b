using System.CommandLine;
using System.Text;
using System.Text.Json;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Machines;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>show</c>.</summary>
internal static class ShowCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> name = MachineCommands.Name();
        Option<bool> json = new("--json") { Description = "Print JSON" };
        Command command = new("show", "Show one machine") { name, json };
        command.Aliases.Add("inspect");
        command.SetAction(parsed =>
        {
            MachineFolder folder = MachineStore.ForUser().Get(parsed.GetValue(name)!);
            MachineReport report = WithDevices(folder);
            return MachineCommands.Print(parsed.GetValue(json) ? JsonSerializer.Serialize(report, MachineJson.Default.MachineReport) + "\n" : Describe(folder, report));
        });
        return command;
    }

    private static MachineReport WithDevices(MachineFolder folder)
    {
        MachineReport report = folder.Report();
        if (report.Definition is null)
        {
            return report;
        }
        try
        {
            ControlDevices? running = report.State is MachineStates.Running or MachineStates.Paused ? DefinitionDevices.Running(folder) : null;
            if (report.Definition.Unsettled is not null)
            {
                using SafeFileHandle? claim = folder.TryChange(wait: false); // else a command is just at it
                report = claim is null ? report : report with { Definition = DefinitionDevices.Settle(folder) };
            }
            return report with { Devices = DefinitionDevices.Report(report.Definition!, running) };
        }
        catch (Exception e) when (e is ManagementException or IOException or UnauthorizedAccessException)
        {
            return report with { Problem = report.Problem ?? e.Message };
        }
    }

    private static string Describe(MachineFolder folder, MachineReport report)
    {
        StringBuilder text = new();
        void Line(string name, string? value)
        {
            if (!string.IsNullOrEmpty(value))
            {
                text.Append($"{name + ":",-15}{value}\n");
            }
        }
        Line("Machine", report.Name);
        Line("State", report.Since is { } since ? $"{report.State} since {since.ToLocalTime():yyyy-MM-dd HH:mm:ss}" : report.State);
        Line("Problem", report.Problem);
        Line("Last end", report.End is { } end ? $"{end.Reason} (status {end.Status}, {end.Time.ToLocalTime():yyyy-MM-dd HH:mm:ss})" : null);
        if (report.Process is { } process)
        {
            Line("Process", $"{process}");
            Line("Sandbox", SandboxText.Of(report));
            Line("Engine", report.Engine);
        }
        if (report.Definition is { } definition)
        {
            Line("Id", definition.Id.ToString());
            Line("Created", definition.Created.ToLocalTime().ToString("yyyy-MM-dd HH:mm:ss"));
            Line("Image", definition.Image);
            Line("Directory", definition.Directory);
            Line("Autostart", definition.Autostart ? "yes" : null);
            foreach ((string option, IReadOnlyList<string> values) in definition.Options.OrderBy(one => one.Key, StringComparer.Ordinal))
            {
                foreach (string value in values)
                {
                    Line($"--{option}", value == "true" ? "yes" : value);
                }
            }
            Line("Command", definition.Command.Count == 0 ? null : string.Join(' ', definition.Command));
        }
        foreach (MachineDevice device in report.Devices ?? [])
        {
            string where = device.Slot is { } slot ? $" (PCI slot {slot})" : "";
            Line(device.Kind == "disk" ? "Disk" : "Card", $"{device.Name}: {device.What}{where}{(device.State == "attached" ? "" : $", {device.State}")}");
        }
        Line("Folder", report.Folder);
        if (report.Process is not null)
        {
            try
            {
                using ControlClient client = ControlClient.Connect(folder);
                ControlMachine running = client.GetAsync("/v1/machine", ControlJson.Default.ControlMachine).GetAwaiter().GetResult();
                Line("Addresses", string.Join(", ", running.Cards));
                Line("Published", string.Join(", ", running.Published));
            }
            catch (ManagementException e)
            {
                Line("Control", e.Message);
            }
        }
        return text.ToString();
    }
}
