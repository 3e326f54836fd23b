using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Lodge.Cli.Console;
using Lodge.Cli.Engines;
using Lodge.Cli.Templates;
using Lodge.Engine;
using Lodge.Engine.State;
using Lodge.Machine;
using Lodge.Machine.Debugging;
using Lodge.Management.Templates;
using Lodge.Network.Packets;

namespace Lodge.Cli.Run;

/// <summary>One machine in the foreground.</summary>
internal static class RunSession
{
    // How long a system of an image that waits for its command may take until it has come to rest: when that was asked for, and at least when it becomes a template on the run's own account; then at most as long as
    // it took until now.
    private static readonly TimeSpan AskedSettling = TimeSpan.FromMinutes(10), LeastSettling = TimeSpan.FromSeconds(30);

    /// <summary>Runs it to its end.</summary>
    /// <returns>Exit status of the process.</returns>
    public static int Run(RunOptions options)
    {
        RunTimes.Mark("command line");
        if (!options.Limits.IsNone)
        {
            throw new LodgeException("limits of CPU, memory and I/O are for machines in the background; add --detach, or make one with 'lodge create'", ExitStatus.Usage);
        }
        options = options.WithImageMemory();
        HostResources.Check(options);
        IEngine engine = EngineChoice.Choose(options.Engine, line => HostFile.Error($"lodge: {line}"));
        RunTimes.Mark("engine");
        // Beside what follows, up to where the process gives up rights.
        Thread preparation = new(engine.Prepare) { IsBackground = true, Name = "preparation" };
        preparation.Start();
        IReadOnlyList<NetworkOption> Cards(bool guess) => RunNetworks.Choose(options.Networks, options.Publish, options.Capture, options.NetworkRules, guess);
        IReadOnlyList<NetworkOption> cards = Cards(guess: options.Template);
        HostResources.Tell(options);
        RunTimes.Mark("network library");
        using RunTemplate? template = RunTemplate.Of(options, engine, cards);
        if (options.OnlyTemplate && (template is null || template.IsClone))
        {
            return template is null
                ? throw new LodgeException("there can be no template of such a machine: it is for the software engine, and the default system or an image that waits for a command")
                : TemplateCommand.Print($"{template.Name}\n"); // it is there already
        }
        RunTimes.Mark("template");
        if (template is not { IsClone: true })
        {
            return Run(options, engine, options.Template ? Cards(guess: false) : cards, template, preparation);
        }
        try
        {
            return Run(options, engine, cards, template, preparation);
        }
        catch (SavedStateException)
        {
            // Of a machine that this one is not, whatever its key says: it boots instead.
            template.Discard();
            return Run(options with { Template = false }, engine, Cards(guess: false), null, preparation);
        }
    }

    private static int Run(RunOptions options, IEngine engine, IReadOnlyList<NetworkOption> cards, RunTemplate? template, Thread preparation)
    {
        cards = template is { IsClone: true }
            ? [.. cards.Zip(template.CardAddresses, (card, address) => card with { Mac = MacAddress.TryParse(address, out MacAddress mac) ? mac : throw new SavedStateException("template has no address for a card") })]
            : RunNetworks.WithAddresses(cards, options.Name, options.Named);
        options = options with { Networks = cards, CardAddresses = [.. cards.Where(c => !c.IsPlace).Select(c => c.Mac.ToString()!)] };
        bool isClone = template is { IsClone: true };
        RunPlan plan = RunPlan.Create(options, template?.Use ?? TemplateUse.None, template?.OpenDisk);
        RunTimes.Mark("plan");
        RunEnd end = new();
        RunConsole console = new(plan, options.Verbose, end);
        RunTimes.Mark("console");
        RunOutcome outcome;
        MachineOutcome? machineOutcome;
        IReadOnlyList<string> trace;
        using (console)
        {
            using RunDisks disks = RunDisks.Open(plan.SystemDisk, options.Disks, plan.Seed);
            using RunShares shares = RunShares.Open(options.Shares, options.Memory);
            RunTimes.Mark("disks");
            using RunNetworks networks = RunNetworks.Open(cards, options.Name, late: isClone);
            using RunVsock sockets = RunVsock.Open(options.Vsock, notifies: plan.SystemDisk is not null);
            if (options.Verbose)
            {
                sockets.SystemUp += time => HostFile.Error(string.Create(CultureInfo.InvariantCulture, $"lodge: the guest's system is up after {time.TotalSeconds:f1} s"));
            }
            RunTimes.Mark("networks");
            RunOptions machineOptions = template is null ? options : options with { Backing = template.Backing(options.Backing) };
            using VirtualMachine machine = RunMachine.Create(engine, machineOptions, plan, console.Guest, disks, networks, shares, sockets);
            RunTimes.Mark("machine");
            template?.Restore(machine);
            if (template is not null && !isClone)
            {
                machine.Partition.TranslatedCode?.Record();
            }
            if (isClone && plan.SystemDisk is not null)
            {
                machine.NewGeneration(Guid.NewGuid()); // a kernel that knows it has other random numbers then before it goes on
            }
            RunTimes.Mark("restore");
            machine.Completion.ContinueWith(_ => end.Finish(console.CommandStatus ?? ExitStatus.PowerOff, null), TaskScheduler.Default);
            using GdbServer? debugger = options.Gdb is { } address ? Listen(machine, address) : null;
            preparation.Join();
            if (options.Sandbox)
            {
                RunSandbox.Shut(options);
            }
            RunTimes.Mark("sandbox");
            if (debugger is null)
            {
                machine.Start();
            }
            long started = Stopwatch.GetTimestamp();
            RunTimes.Mark("start");
            console.Start(holds: plan.GuestWaits && !isClone);
            if (isClone)
            {
                console.GiveCommand();
            }
            else if (plan.GuestWaits)
            {
                console.GuestWaits.ContinueWith(
                    async _ =>
                    {
                        TimeSpan boot = Stopwatch.GetElapsedTime(started);
                        (TemplateDescription? made, string? problem) = await console.SettleAsync(options.OnlyTemplate ? AskedSettling : boot > LeastSettling ? boot : LeastSettling).ConfigureAwait(false)
                            ? template!.Make(machine, cards, disks, options.OnlyTemplate)
                            : (null, "its guest's system did not come to rest, or it has no guest agent that answers");
                        if (!options.OnlyTemplate)
                        {
                            console.GiveCommand();
                            return;
                        }
                        if (made is not null)
                        {
                            TemplateCommand.Print($"{made.Key}\n");
                        }
                        end.Finish(made is null ? ExitStatus.CannotStart : 0, problem is null ? null : $"the template cannot be made: {problem}");
                    },
                    TaskScheduler.Default);
            }
            RunTimes.Mark("command given");
            outcome = end.Wait(options.Timeout);
            RunTimes.Mark("end");
            machine.Stop(); // has no effect on a machine that has ended by itself
            MachineOutcome ended = machine.Completion.Result;
            machineOutcome = ended.Kind == MachineOutcomeKind.Stopped ? null : ended;
            trace = options.Trace ? Counters(machine) : [];
        }
        RunTimes.Mark("disposed");
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
