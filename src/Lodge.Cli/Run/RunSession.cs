using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Lodge.Cli.Console;
using Lodge.Cli.Engines;
using Lodge.Engine;
using Lodge.Machine;
using Lodge.Machine.Debugging;

namespace Lodge.Cli.Run;

/// <summary>One machine in the foreground.</summary>
internal static class RunSession
{
    /// <summary>Runs it to its end.</summary>
    /// <returns>Exit status of the process.</returns>
    public static int Run(RunOptions options)
    {
        if (options.Image is not null && !options.MemoryGiven)
        {
            options = options with { Memory = ImagePlan.DefaultMemory };
        }
        HostResources.Check(options);
        IEngine engine = EngineChoice.Choose(options.Engine, line => HostFile.Error($"lodge: {line}"));
        IReadOnlyList<NetworkOption> cards = RunNetworks.WithAddresses(
            RunNetworks.Choose(options.Networks, options.Publish, options.Capture, options.NetworkRules), options.Name, options.Named);
        options = options with { Networks = cards, CardAddresses = [.. cards.Select(c => c.Mac.ToString()!)] };
        RunPlan plan = RunPlan.Create(options);
        HostResources.Tell(options);
        RunEnd end = new();
        RunConsole console = new(plan, options.Verbose, end);
        RunOutcome outcome;
        MachineOutcome? machineOutcome;
        IReadOnlyList<string> trace;
        using (console)
        {
            using RunDisks disks = RunDisks.Open(plan.SystemDisk, options.Disks, plan.Seed);
            using RunShares shares = RunShares.Open(options.Shares, options.Memory);
            using RunNetworks networks = RunNetworks.Open(cards, options.Name);
            using RunVsock sockets = RunVsock.Open(options.Vsock, notifies: plan.SystemDisk is not null);
            if (options.Verbose)
            {
                sockets.SystemUp += time => HostFile.Error(string.Create(CultureInfo.InvariantCulture, $"lodge: the guest's system is up after {time.TotalSeconds:f1} s"));
            }
            using VirtualMachine machine = RunMachine.Create(engine, options, plan, console.Guest, disks, networks, shares, sockets);
            machine.Completion.ContinueWith(_ => end.Finish(console.CommandStatus ?? ExitStatus.PowerOff, null), TaskScheduler.Default);
            using GdbServer? debugger = options.Gdb is { } address ? Listen(machine, address) : null;
            if (debugger is null)
            {
                machine.Start();
            }
            console.Start();
            outcome = end.Wait(options.Timeout);
            machine.Stop(); // has no effect on a machine that has ended by itself
            MachineOutcome ended = machine.Completion.Result;
            machineOutcome = ended.Kind == MachineOutcomeKind.Stopped ? null : ended;
            trace = options.Trace ? Counters(machine) : [];
        }
        // The console is written out and the terminal restored: now the lines of our own.
        foreach (string line in trace)
        {
            HostFile.Error(line);
        }
        if (machineOutcome is not null && outcome is { Status: ExitStatus.PowerOff, Line: null } && !console.CommandEnded)
        {
            outcome = Explain(machineOutcome, console.PanicReason, console.AwaitsCommand);
        }
        if (outcome.Line is { } text)
        {
            if (plan.Interactive)
            {
                HostFile.Write(HostFile.StandardError, "\n"u8); // the guest's last line may be unfinished
            }
            HostFile.Error($"lodge: {text}");
        }
        return outcome.Status;
    }

    /// <summary>Waits for a debugger, which lets the machine start.</summary>
    private static GdbServer Listen(VirtualMachine machine, EndPoint address)
    {
        try
        {
            GdbServer server = new(machine, address);
            HostFile.Error($"lodge: waiting for gdb; connect with: {server.Command}");
            return server;
        }
        catch (Exception e) when (e is SocketException or IOException or UnauthorizedAccessException)
        {
            throw new LodgeException($"cannot wait for gdb at {address}: {e.Message}; give --gdb another address");
        }
    }

    /// <summary>Exit status and line for a machine that ended by itself.</summary>
    /// <param name="outcome">How it ended.</param>
    /// <param name="reason">Why the guest's kernel says that it panicked. A default system whose panic driver was not loaded yet resets itself: its console tells.</param>
    /// <param name="awaitsCommand">Whether a command was to end first.</param>
    internal static RunOutcome Explain(MachineOutcome outcome, string? reason, bool awaitsCommand)
    {
        return outcome.Kind switch
        {
            MachineOutcomeKind.Panic => new(ExitStatus.Panic, reason is null ? "the guest's kernel panicked" : $"the guest's kernel panicked: {reason}"),
            MachineOutcomeKind.Reset when reason is not null => new(ExitStatus.Panic, $"the guest's kernel panicked: {reason}"),
            MachineOutcomeKind.Reset => new(ExitStatus.Reset, "the guest reset the machine"),
            MachineOutcomeKind.TripleFault => new(ExitStatus.TripleFault, $"triple fault on CPU {outcome.Code}: the guest could not handle an exception and the machine was ended"),
            MachineOutcomeKind.DebugExit => new(outcome.Code & 0xFF, null),
            MachineOutcomeKind.EngineFailure => new(ExitStatus.EngineFailure, $"the engine failed, please report it: {outcome.Text?.Split('\n')[0].TrimEnd()}"),
            _ when awaitsCommand => new(ExitStatus.Unfinished, "the guest turned its power off before the command had ended"),
            _ => new(ExitStatus.PowerOff, null),
        };
    }

    /// <summary>What the processors counted, added up, one line each.</summary>
    private static IReadOnlyList<string> Counters(VirtualMachine machine)
    {
        SortedDictionary<string, long> sums = new(StringComparer.Ordinal);
        foreach (VirtualProcessor processor in machine.Partition.Processors)
        {
            foreach ((string name, long value) in processor.Counters)
            {
                sums[name] = sums.GetValueOrDefault(name) + value;
            }
        }
        return [.. sums.Select(s => string.Create(CultureInfo.InvariantCulture, $"trace: {s.Key} {s.Value}"))];
    }
}
