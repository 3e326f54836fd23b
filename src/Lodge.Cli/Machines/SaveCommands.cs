using System.CommandLine;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verbs <c>save</c> and <c>restore</c>.</summary>
internal static class SaveCommands
{
    private static readonly TimeSpan Between = TimeSpan.FromMilliseconds(20);

    /// <summary>Builds <c>save</c>.</summary>
    public static Command CreateSave()
    {
        Argument<string[]> names = MachineCommands.Names();
        Command command = new("save", "Save machines and end their processes; 'restore' or 'start' lets them go on where they were") { names };
        command.SetAction(parsed => MachineCommands.Each(parsed.GetValue(names)!, Save));
        return command;
    }

    /// <summary>Builds <c>restore</c>.</summary>
    public static Command CreateRestore()
    {
        Argument<string[]> names = MachineCommands.Names();
        Command command = new("restore", "Let saved machines go on where they were") { names };
        command.SetAction(parsed => MachineCommands.Each(parsed.GetValue(names)!, static name =>
        {
            MachineFolder machine = MachineStore.ForUser().Get(name);
            if (!machine.IsRunning() && !File.Exists(machine.Saved))
            {
                throw new ManagementException($"machine '{name}' is not saved; to let it boot: lodge start {name}");
            }
            LifeCommands.Start(name);
        }));
        return command;
    }

    /// <summary>Saves a machine and returns when its process has ended.</summary>
    private static void Save(string name)
    {
        MachineFolder machine = MachineStore.ForUser().Get(name);
        ManagementException? refused = null;
        using (ControlClient client = ControlClient.Connect(machine))
        {
            try
            {
                client.DoAsync("POST", "/v1/save").GetAwaiter().GetResult();
            }
            catch (ManagementException e)
            {
                refused = e;
            }
        }
        // A process that has done it may end before it can answer; one that has not goes on, or was ended by something else.
        while (machine.Exists && machine.IsRunning())
        {
            if (refused is not null && machine.ReadStatus() is { State: MachineStates.Running or MachineStates.Paused })
            {
                throw refused;
            }
            Thread.Sleep(Between);
        }
        if (!File.Exists(machine.Saved))
        {
            throw refused ?? new ManagementException($"machine '{name}' ended and was not saved");
        }
    }
}
