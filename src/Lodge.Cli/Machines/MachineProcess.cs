using System.Globalization;
using System.Runtime.InteropServices;
using Lodge.Cli.Console;
using Lodge.Cli.Engines;
using Lodge.Cli.Run;
using Lodge.Cli.Templates;
using Lodge.Engine;
using Lodge.Engine.State;
using Lodge.Machine;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.GuestAgent;
using Lodge.Management.Host;
using Lodge.Management.Machines;
using Lodge.Management.Templates;
using Lodge.Network;
using Lodge.Storage.Disks;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Cli.Machines;

/// <summary>
/// The process of a machine that is kept, from its start to its end: what <c>lodge start</c> leaves behind. It holds the machine's lock, keeps its status file true, and serves its control socket.
/// </summary>
internal sealed class MachineProcess
{
    // How long the guest has to turn its power off when the process is asked to end (SIGTERM, as the host's shutdown sends it).
    private static readonly TimeSpan TerminationTime = TimeSpan.FromSeconds(60);

    // How long the guest of a clone may take to become another one before its start counts as done all the same.
    private static readonly TimeSpan IdentityTime = TimeSpan.FromSeconds(30);

    // How long after a status that could not be written it is tried again.
    private static readonly TimeSpan StatusTime = TimeSpan.FromSeconds(1);

    private readonly MachineFolder _folder;
    private readonly MachineDefinition _definition;
    private readonly MachineJournal _journal;
    private readonly RunEnd _end = new();
    private readonly DateTimeOffset _started = DateTimeOffset.Now;
    private readonly Lock _statusGate = new();
    private string _state = MachineStates.Starting;
    private MachineStatus? _status; // the last that was to be written
    private string? _engine;
    private bool _terminating;
    private int? _commandStatus;

    private readonly MachineSeal? _seal;
    private readonly SandboxProbe? _probe;

    private readonly IReadOnlyList<string> _arguments;

    private MachineProcess(MachineFolder folder, MachineDefinition definition, IReadOnlyList<string> arguments, MachineSeal? seal, SandboxProbe? probe, SafeFileHandle? journal)
    {
        (_folder, _definition, _arguments, _seal, _probe) = (folder, definition, arguments, seal, probe);
        _journal = new MachineJournal(Path.GetDirectoryName(folder.Path)!, journal);
    }

    /// <summary>Runs the machine of a folder to its end.</summary>
    /// <param name="path">The folder.</param>
    /// <param name="arguments">What <see cref="MachineLauncher"/> and <see cref="MachineSandbox"/> tell it.</param>
    /// <returns>Exit status of the process.</returns>
    public static int Run(string path, IReadOnlyList<string> arguments)
    {
        using StartReport report = StartReport.Open();
        try
        {
            using SafeFileHandle? gate = Handed(arguments, MachineLauncher.GateArgument), journal = Handed(arguments, MachineLauncher.JournalArgument);
            using FileStream? start = gate is null ? null : new FileStream(gate, FileAccess.Read, 1);
            if (start?.ReadByte() < 0)
            {
                return ExitStatus.CannotStart; // the command that started it has died before it had put it into its control group
            }
            // Held open: the user that it becomes need not have a way to it.
            using SafeFileHandle work = HostOwner.OpenFolder(new MachineFolder(path).Work);
            MachineFolder folder = new(path) { Work = $"/proc/self/fd/{work.DangerousGetHandle()}" };
            MachineSeal? seal = MachineSeal.Read(arguments);
            MachineDefinition definition = folder.ReadDefinition(out string? problem) ?? throw new ManagementException($"machine '{folder.Name}' cannot be used: {problem}");
            int status;
            using (SafeFileHandle only = folder.TryRun() ?? throw new ManagementException($"machine '{folder.Name}' runs already"))
            {
                status = new MachineProcess(folder, definition, arguments, seal, SandboxProbe.Read(arguments, folder), journal).Run(report);
            }
            if (definition.Temporary && seal is null) // else the next command that lists machines does it
            {
                Directory.SetCurrentDirectory("/");
                new MachineStore(Path.GetDirectoryName(path)!).Remove(folder.Name);
            }
            return status;
        }
        catch (Exception e) when (e is LodgeException or ManagementException or DiskException or NetworkException or IOException or UnauthorizedAccessException)
        {
            report.Fail(e.Message);
            return ExitStatus.CannotStart;
        }
        catch (Exception e)
        {
            report.Fail($"internal error, please report it: {e.GetType().Name}: {e.Message}");
            HostFile.Error(e.ToString());
            return ExitStatus.CannotStart;
        }
    }

    private int Run(StartReport report)
    {
        Tell(MachineStates.Starting);
        RunOutcome? outcome = null;
        try
        {
            outcome = RunGuest(report);
            return outcome.Status;
        }
        catch (Exception e)
        {
            outcome = new RunOutcome(ExitStatus.CannotStart, e.Message);
            throw;
        }
        finally
        {
            string reason = outcome?.Line ?? "";
            Tell(MachineStates.Stopped, new MachineEnd(outcome?.Status ?? ExitStatus.CannotStart, reason, DateTimeOffset.Now));
            Record("stopped", reason);
        }
    }

    private RunOutcome RunGuest(StartReport report)
    {
        Directory.SetCurrentDirectory(Directory.Exists(_definition.Directory) ? _definition.Directory : "/");
        RunOptions options = DefinitionOptions.Read(_definition, _folder);
        HostResources.Check(options);
        IEngine engine = EngineChoice.Choose(options.Engine, line => HostFile.Error($"lodge: {line}"));
        _engine = engine is Engine.Translation.TranslationEngine ? "translate" : "kvm";
        IReadOnlyDictionary<string, HandedCard> handed = HandedCard.Read(_arguments);
        IReadOnlyList<NetworkOption> cards = RunNetworks.WithAddresses(
            RunNetworks.WithHanded(RunNetworks.Choose(options.Networks, options.Publish, options.Capture, options.NetworkRules), handed, _folder.Work), options.Name, named: true, _folder.Work);
        options = options with { Networks = cards, CardAddresses = [.. cards.Where(c => !c.IsPlace).Select(c => c.Mac.ToString()!)] };
        using SavedGuest? saved = SavedGuest.Open(_folder, _arguments);
        using SavedTemplate? template = saved is null ? OpenTemplate() : null;
        RunPlan plan = RunPlan.Create(options, template is null ? TemplateUse.None : TemplateUse.Clone);
        HostResources.Tell(options);
        using ConsoleLog log = new(_folder.ConsoleLog);
        using MachineConsoles consoles = new(plan, log, CommandEnded);
        using RunDisks disks = RunDisks.Open(plan.SystemDisk, options.Disks, plan.Seed);
        using RunShares shares = RunShares.Open(options.Shares, options.Memory);
        using RunNetworks networks = RunNetworks.Open(cards, options.Name, handed: handed);
        using RunVsock sockets = RunVsock.Open(options.Vsock, notifies: plan.SystemDisk is not null);
        options = options with { Memory = saved is not null && saved.MemorySize > options.Memory ? saved.MemorySize : options.Memory };
        RunOptions machineOptions = template is null ? options : options with { Backing = options.Backing with { CopyOf = $"/proc/self/fd/{template.Memory.DangerousGetHandle()}" } };
        using VirtualMachine machine = RunMachine.Create(engine, machineOptions, plan, consoles.Guest, disks, networks, shares, sockets, restored: saved is not null);
        saved?.RestoreInto(machine);
        Restore(template, machine);
        machine.Completion.ContinueWith(_ => _end.Finish(_commandStatus ?? ExitStatus.PowerOff, null), TaskScheduler.Default);
        using PosixSignalRegistration termination = PosixSignalRegistration.Create(PosixSignal.SIGTERM, context => Terminate(context, machine));
        MachineDevices devices = new(this, machine, disks, networks, options) { Gate = new Lock(), Internet = _seal is null or { Internet: true } };
        GuestClock? clock = consoles.Agent is { } agent ? new GuestClock(agent) : null;
        MachineControl control = new(this, machine, consoles, disks, networks, options, devices, clock);
        using ControlServer server = new(_folder.ControlSocket, control.Routes);
        _seal?.Apply(_folder.Work);
        if (_probe is not null)
        {
            _probe.Run();
            report.Started();
            return new RunOutcome(ExitStatus.PowerOff, "probed");
        }
        RemoveUnfinished(disks, machine);
        saved?.Forget();
        if (template is not null)
        {
            _folder.ForgetTemplate(); // from now on the disk is no longer the one that its memory knows
        }
        machine.Start();
        if (saved is not null || template is not null)
        {
            networks.Announce();
        }
        consoles.GiveCommand();
        _ = Task.Run(WholeProgram.Load);
        Tell(MachineStates.Running);
        Record(saved is null ? "started" : "restored", template is null ? null : "as a clone of a template");
        if (template is not null)
        {
            // Nobody is to meet the guest of the template in it by the agent.
            Task.WaitAny([consoles.IsItself, machine.Completion], IdentityTime);
        }
        report.Started();
        if (saved is not null)
        {
            clock?.SetSoon();
        }
        using FreshIdentity? identity = FreshIdentity.Begin(_folder, _definition.Id, consoles.Agent, () => State == MachineStates.Running, Record);
        RunOutcome outcome = _end.Wait(null);
        Tell(MachineStates.Stopping);
        machine.Stop(); // has no effect on a machine that has ended by itself
        MachineOutcome ended = machine.Completion.Result;
        return outcome.Line is null && ended.Kind != MachineOutcomeKind.Stopped && !(_commandStatus is not null && ended.Kind == MachineOutcomeKind.PowerOff)
            ? RunSession.Explain(ended, consoles.PanicWatch.Reason, consoles.AwaitsCommand) is var told ? told with { Line = told.Line ?? "the guest turned its power off" } : outcome
            : outcome with { Line = outcome.Line ?? (_commandStatus is { } status ? $"its command ended with status {status}" : "stopped") };
    }

    /// <summary>The template that the first start goes on with; null for none, or one that is not to be believed any more.</summary>
    private SavedTemplate? OpenTemplate()
    {
        SavedTemplate? template = SavedTemplate.OpenGiven(_folder.Template);
        if (template is null)
        {
            _folder.ForgetTemplate();
        }
        return template;
    }

    private void Restore(SavedTemplate? template, VirtualMachine machine)
    {
        if (template is null)
        {
            return;
        }
        try
        {
            machine.RestoreState(template.State);
            RunTemplate.UseCode(template, machine);
            machine.NewGeneration(Guid.NewGuid());
            template.Dispose(); // whoever takes this process over has no file of other machines' template in it
        }
        catch (SavedStateException e)
        {
            throw new LodgeException($"machine '{_folder.Name}' cannot go on where its template stands: {e.Message}; to let it boot instead: lodge start --fresh {_folder.Name}");
        }
    }

    /// <summary>The machine.</summary>
    public MachineFolder Folder => _folder;

    /// <summary>What it is made from.</summary>
    public MachineDefinition Definition => _definition;

    /// <summary>What executes its guest.</summary>
    public string EngineName => _engine ?? "";

    /// <summary>How it stands.</summary>
    public string State
    {
        get
        {
            lock (_statusGate)
            {
                return _state;
            }
        }
    }

    /// <summary>When its process began.</summary>
    public DateTimeOffset StartTime => _started;

    /// <summary>Ends the machine as if the plug were pulled.</summary>
    public void Finish(string reason) => _end.Finish(ExitStatus.PowerOff, reason);

    /// <summary>Keeps and tells how the machine stands. Where that cannot be written now (a full disk) it is as soon as it can.</summary>
    public void Tell(string state, MachineEnd? end = null)
    {
        lock (_statusGate)
        {
            _state = state;
            MachineStatus status = _status = new MachineStatus
            {
                State = state,
                Since = DateTimeOffset.Now,
                Started = _started,
                Process = end is null ? Environment.ProcessId : null,
                Engine = _engine,
                End = end,
            };
            if (Write(status) is { } problem)
            {
                HostFile.Error($"lodge: the machine's status cannot be written: {problem}");
                _ = WriteLaterAsync(status);
            }
        }
    }

    private async Task WriteLaterAsync(MachineStatus status)
    {
        while (true)
        {
            await Task.Delay(StatusTime).ConfigureAwait(false);
            lock (_statusGate)
            {
                if (!ReferenceEquals(_status, status) || Write(status) is null)
                {
                    return;
                }
            }
        }
    }

    /// <returns>Why it cannot be written; null: it is.</returns>
    private string? Write(MachineStatus status)
    {
        try
        {
            _folder.WriteStatus(status);
            return null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return e.Message;
        }
    }

    /// <summary>Adds to the journal.</summary>
    public void Record(string happened, string? detail) => _journal.Add(new MachineEvent(DateTimeOffset.Now, _folder.Name, _definition.Id, happened, string.IsNullOrEmpty(detail) ? null : detail));

    /// <summary>A descriptor that the process was given.</summary>
    private static SafeFileHandle? Handed(IReadOnlyList<string> arguments, string name) =>
        arguments.FirstOrDefault(word => word.StartsWith(name, StringComparison.Ordinal)) is { } word
            && nint.TryParse(word.AsSpan(name.Length), NumberStyles.None, CultureInfo.InvariantCulture, out nint descriptor)
            ? new SafeFileHandle(descriptor, ownsHandle: true)
            : null;

    /// <summary>What a snapshot has left that was interrupted is in nobody's way: where it cannot be removed the machine starts nevertheless.</summary>
    private void RemoveUnfinished(RunDisks disks, VirtualMachine machine)
    {
        try
        {
            new SnapshotMaker(_folder, disks, machine).RemoveUnfinished();
        }
        catch (Exception e) when (e is DiskException or DeviceBusyException or IOException or UnauthorizedAccessException)
        {
            HostFile.Error($"lodge: what is left of a snapshot that was interrupted cannot be removed: {e.Message}");
        }
    }

    private void CommandEnded(int status)
    {
        _commandStatus = status;
        if (_definition.Image is null)
        {
            _end.Finish(status, null);
        }
    }

    /// <summary>The host wants the process to end: the guest may do so properly first; asked a second time, or after a while, the plug is pulled.</summary>
    private void Terminate(PosixSignalContext context, VirtualMachine machine)
    {
        context.Cancel = true;
        if (_terminating || machine.State != MachineRunState.Running || !machine.PressPowerButton())
        {
            Finish("ended by SIGTERM");
            return;
        }
        _terminating = true;
        _ = Task.Delay(TerminationTime).ContinueWith(_ => Finish("ended by SIGTERM"), TaskScheduler.Default);
    }
}
