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
        using (ControlClient client = ControlClient.Connect(machine))
        {
            client.DoAsync("POST", "/v1/save").GetAwaiter().GetResult();
        }
        while (machine.Exists && machine.IsRunning())
        {
            Thread.Sleep(Between);
        }
    }
}
