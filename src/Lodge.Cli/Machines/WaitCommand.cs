using System.CommandLine;
using Lodge.Cli.Console;
using Lodge.Cli.Run;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>wait</c>.</summary>
internal static class WaitCommand
{
    private static readonly TimeSpan Between = TimeSpan.FromMilliseconds(50);

    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> name = MachineCommands.Name();
        Option<string> condition = new("--for") { Description = "What to wait for: stopped (its process has ended), running, or agent (its guest agent answers) [default: stopped]", HelpName = "STATE", DefaultValueFactory = _ => "stopped" };
        condition.Validators.Add(result =>
        {
            if (result.Tokens is [{ Value: not ("stopped" or "running" or "agent") } word])
            {
                result.AddError($"state '{word.Value}' is not known; give stopped, running or agent");
            }
        });
        Option<TimeSpan?> timeout = MachineCommands.Time("--timeout", "Give up after this time, with status 124");
        Command command = new("wait", "Wait until a machine has ended; its exit status, that of its command if it has one, becomes this command's") { name, condition, timeout };
        command.SetAction(parsed => Run(parsed.GetValue(name)!, parsed.GetValue(condition)!, parsed.GetValue(timeout)));
        return command;
    }

    private static int Run(string name, string condition, TimeSpan? timeout)
    {
        MachineFolder machine = MachineStore.ForUser().Get(name);
        DateTimeOffset? end = DateTimeOffset.Now + timeout;
        while (!machine.Exists || !Holds(machine, condition, out int status))
        {
            if (!machine.Exists)
            {
                return 0; // it has ended so thoroughly that nothing is left of it
            }
            if (DateTimeOffset.Now >= end)
            {
                HostFile.Error($"lodge: machine '{name}' is {machine.Report().State} after {timeout!.Value.TotalSeconds:0.###} s");
                return ExitStatus.Timeout;
            }
            Thread.Sleep(Between);
            continue;
        }
        return machine.Exists && condition == "stopped" ? machine.Report().End?.Status ?? 0 : 0;
    }

    private static bool Holds(MachineFolder machine, string condition, out int status)
    {
        status = 0;
        if (condition == "stopped")
        {
            return !machine.IsRunning();
        }
        MachineReport report = machine.Report();
        if (report.State is MachineStates.Stopped or MachineStates.Saved)
        {
            throw new ManagementException($"machine '{machine.Name}' does not run; start it: lodge start {machine.Name}");
        }
        if (report.State != MachineStates.Running || condition == "running")
        {
            return report.State == MachineStates.Running;
        }
        try
        {
            using ControlClient client = ControlClient.Connect(machine);
            client.GetAsync("/v1/agent?wait=5", ControlJson.Default.ControlAgent).GetAwaiter().GetResult();
            return true;
        }
        catch (ManagementException e) when (!e.Message.Contains("has no guest agent", StringComparison.Ordinal))
        {
            return false; // it boots
        }
    }
}
