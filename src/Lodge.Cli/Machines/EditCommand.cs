using System.CommandLine;
using System.CommandLine.Parsing;
using System.Diagnostics;
using System.Text.Json;
using Lodge.Cli.Console;
using Lodge.Cli.Image;
using Lodge.Cli.Run;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Limits;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>edit</c>.</summary>
internal static class EditCommand
{
    private const string Manual = """

        Options replace those that the machine has; --unset takes one away. Without options the definition opens in $VISUAL or $EDITOR. A machine that runs has its limits (--cpu-shares, --cpu-quota, --cpu-set, --memory-limit,
        --io-weight, --pids-limit) changed at once, and the rest after the next 'lodge restart'.

        Examples:
          lodge edit web --memory 4G --cpus 4
          lodge edit web --unset publish --autostart on
          lodge edit web --cpu-quota 50%
          EDITOR=nano lodge edit web

        """;

    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        RunArguments arguments = new();
        Argument<string> name = MachineCommands.Name();
        Option<string[]> unset = new("--unset") { Description = "Take an option away; repeatable", HelpName = "OPTION" };
        Option<string?> autostart = new("--autostart") { Description = "Whether it starts with the host", HelpName = "on|off" };
        autostart.Validators.Add(result =>
        {
            if (result.Tokens is [{ Value: not ("on" or "off") } word])
            {
                result.AddError($"--autostart '{word.Value}' is not understood; give on or off");
            }
        });
        Command command = new("edit", "Change what a machine is made from") { name, unset, autostart };
        foreach (Option option in arguments.All.Where(option => option.Name is not "--name" and not "--keep"))
        {
            command.Add(option);
        }
        command.SetAction(parsed =>
        {
            MachineStore store = MachineStore.ForUser();
            string machine = parsed.GetValue(name)!;
            Dictionary<string, IReadOnlyList<string>> options = DefinitionOptions.Take(arguments, parsed);
            string[] gone = [.. (parsed.GetValue(unset) ?? []).Select(option => option.TrimStart('-'))];
            bool? starts = parsed.GetValue(autostart) is { } word ? word == "on" : null;
            if (options.Count == 0 && gone.Length == 0 && starts is null)
            {
                InEditor(store, machine);
            }
            else
            {
                store.Changing(machine, DefinitionDevices.Settle);
                store.Edit(machine, old => Change(old, options, gone, starts, store.Get(machine)));
            }
            if (!store.Get(machine).IsRunning())
            {
                return 0;
            }
            string[] changed = [.. options.Keys, .. gone];
            if (changed.Length == 0 || changed.Any(MachineLimits.Options.Contains))
            {
                ApplyLimits(store, machine);
            }
            changed = [.. changed.Where(option => !ApplyNow(store, machine, option))];
            if (changed.Any(option => !MachineLimits.Options.Contains(option)) || (options.Count == 0 && gone.Length == 0 && starts is null))
            {
                HostFile.Error($"lodge: machine '{machine}' runs; it has the change after: lodge restart {machine}");
            }
            return 0;
        });
        ImageManual.AddTo(command, Manual);
        return command;
    }

    /// <summary>Changes what can be changed while the machine runs: processors by hot-plug, memory by the balloon.</summary>
    /// <returns>Whether it is done; what is not comes with the next start.</returns>
    private static bool ApplyNow(MachineStore store, string name, string option)
    {
        (MachineFolder folder, MachineDefinition definition) = store.Read(name);
        RunOptions wanted = DefinitionOptions.Read(definition, folder);
        try
        {
            using ControlClient client = ControlClient.Connect(folder);
            switch (option)
            {
                case "cpus":
                    client.SendAsync("PUT", "/v1/processors", new ControlProcessors(wanted.Processors), ControlJson.Default.ControlProcessors).GetAwaiter().GetResult();
                    return true;
                case "memory":
                    client.SendAsync("PUT", "/v1/memory", new ControlMemory(wanted.Memory), ControlJson.Default.ControlMemory).GetAwaiter().GetResult();
                    return true;
                default:
                    return false;
            }
        }
        catch (ManagementException e)
        {
            HostFile.Error($"lodge: {e.Message}");
            return false;
        }
    }

    /// <summary>Sets the limits of a machine that runs, by this process: the machine's own may not.</summary>
    private static void ApplyLimits(MachineStore store, string name)
    {
        (MachineFolder folder, MachineDefinition definition) = store.Read(name);
        try
        {
            MachineGroup.Change(ControlGroups.OfHost(), definition.Id, DefinitionOptions.Read(definition, folder).Limits);
        }
        catch (ManagementException e)
        {
            throw new ManagementException($"machine '{name}' has its new limits from its next start: {e.Message}", e);
        }
    }

    private static MachineDefinition Change(MachineDefinition old, Dictionary<string, IReadOnlyList<string>> options, string[] gone, bool? autostart, MachineFolder folder)
    {
        Dictionary<string, IReadOnlyList<string>> changed = new(old.Options, StringComparer.Ordinal);
        foreach (string option in gone)
        {
            if (!changed.Remove(option))
            {
                throw new ManagementException($"machine '{folder.Name}' has no option '{option}'; see 'lodge show {folder.Name}'");
            }
        }
        foreach ((string option, IReadOnlyList<string> values) in options)
        {
            changed[option] = values;
        }
        return Checked(old with { Options = changed, Autostart = autostart ?? old.Autostart }, folder);
    }

    /// <summary>Refuses what a start would refuse.</summary>
    private static MachineDefinition Checked(MachineDefinition definition, MachineFolder folder)
    {
        HostResources.Check(DefinitionOptions.Read(definition, folder));
        return definition;
    }

    private static void InEditor(MachineStore store, string name)
    {
        string editor = new[] { "VISUAL", "EDITOR" }.Select(Environment.GetEnvironmentVariable).FirstOrDefault(value => !string.IsNullOrEmpty(value))
            ?? throw new ManagementException("there is nothing to change: give options, or set EDITOR to edit the definition");
        (MachineFolder folder, MachineDefinition old) = store.Read(name);
        string file = Path.Combine(Path.GetTempPath(), $"lodge-{name}-{Guid.NewGuid():n}.json");
        try
        {
            File.WriteAllText(file, JsonSerializer.Serialize(old, MachineJson.Default.MachineDefinition) + "\n");
            using Process process = Process.Start(new ProcessStartInfo("/bin/sh", ["-c", $"exec {editor} \"$1\"", "sh", file]) { UseShellExecute = false })!;
            process.WaitForExit();
            if (process.ExitCode != 0)
            {
                throw new ManagementException($"the editor '{editor}' ended with status {process.ExitCode}; machine '{name}' is unchanged");
            }
            MachineDefinition changed = JsonSerializer.Deserialize(File.ReadAllText(file), MachineJson.Default.MachineDefinition) ?? throw new JsonException("it is empty");
            if (changed.Id != old.Id || changed.Version != old.Version)
            {
                throw new ManagementException($"the id and version of machine '{name}' cannot be changed; it is unchanged");
            }
            store.Edit(name, _ => Checked(changed, folder));
        }
        catch (Exception e) when (e is JsonException or IOException or System.ComponentModel.Win32Exception)
        {
            throw new ManagementException($"machine '{name}' is unchanged: {e.Message}", e);
        }
        finally
        {
            File.Delete(file);
        }
    }
}
