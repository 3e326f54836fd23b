using System.Runtime.InteropServices;
using Lodge.Cli.Console;
using Lodge.Cli.DefaultSystem;
using Lodge.Machine;
using Lodge.Management.GuestAgent;

namespace Lodge.Cli.Run;

/// <summary>
/// Connects the machine's serial port and console ports with standard input, output and error as the plan has it, and brings about the end of
/// the run from their side: the command ended, the user left, the reader of standard output went away.
/// </summary>
internal sealed class RunConsole : IDisposable
{
    /// <summary>Names of the ports in the guest (<c>/sys/class/virtio-ports/*/name</c>).</summary>
    public const string ControlName = "lodge.control", InputName = "lodge.stdin", OutputName = "lodge.stdout", ErrorName = "lodge.stderr", CommandName = "lodge.command";

    // When all is started, logins on the consoles and a lease still are on their way: until the processors did nothing for two seconds, or ten have passed.
    private const string SettleScript = """
        ! command -v systemctl >/dev/null || systemctl is-system-running --wait >/dev/null 2>&1
        sync
        calm=0 all=$(nproc)
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            read begin idle </proc/uptime
            sleep 1
            read end rest </proc/uptime
            [ $((${rest%.*}${rest#*.} - ${idle%.*}${idle#*.})) -ge $(((${end%.*}${end#*.} - ${begin%.*}${begin#*.}) * all * 9 / 10)) ] && calm=$((calm + 1)) || calm=0
            [ $calm -lt 2 ] || break
        done
        sync
        """;

    private readonly RunEnd _end;
    private readonly List<OutputPort> _outputs = [];
    private readonly List<PosixSignalRegistration> _signals = [];
    private readonly InputPort? _input;
    private readonly ChannelPort? _agent;
    private readonly IReadOnlyList<string>? _agentCommand;
    private readonly TextPort? _command;
    private readonly TaskCompletionSource _guestWaits = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly CancellationTokenSource _stop = new();
    private readonly bool _interactive;
    private readonly bool _isCommand;
    private readonly bool _waitsForPowerOff;
    private GuestAgentClient? _settler;

    /// <summary>Makes the backends.</summary>
    public RunConsole(RunPlan plan, bool verbose, RunEnd end)
    {
        _end = end;
        _interactive = plan.Interactive;
        _isCommand = plan.Mode is CommandMode.Pipe or CommandMode.Terminal;
        if (plan.Mode is null)
        {
            _input = new InputPort(HostFile.StandardInput, Standard(HostFile.StandardOutput, null, PanicWatch)) { CloseAtEnd = false };
            Serial = _input;
        }
        else
        {
            Serial = Output(bytes =>
            {
                PanicWatch.Observe(bytes);
                if (verbose)
                {
                    HostFile.Write(HostFile.StandardError, bytes);
                }
                return true;
            });
            _waitsForPowerOff = plan.SystemDisk?.KeptFolder is not null;
            if (plan.AgentCommand is not null)
            {
                HostConsole = Output(_ => true);
            }
            else if (plan.Mode == CommandMode.Pipe)
            {
                OutputPort output = Standard(HostFile.StandardOutput, plan.EndMark);
                OutputPort errors = Output(bytes => HostFile.Write(HostFile.StandardError, bytes), plan.EndMark);
                _input = new InputPort(HostFile.StandardInput, null);
                Ports = [(ControlName, Control(output.Ended, errors.Ended)), (InputName, _input), (OutputName, output), (ErrorName, errors)];
                HostConsole = Output(_ => true);
            }
            else
            {
                _input = new InputPort(HostFile.StandardInput, Standard(HostFile.StandardOutput, null)) { CloseAtEnd = false };
                HostConsole = _input;
                Ports = [(ControlName, Control()), (InputName, Output(_ => true)), (OutputName, Output(_ => true)), (ErrorName, Output(_ => true))];
            }
        }
        if (plan.Command is { } text)
        {
            // The program in an image reads to the end, and says by opening the port that it waits; the default system's is told the length, and says it.
            bool ofImage = plan.SystemDisk is not null;
            _command = new TextPort(text, closes: ofImage || !plan.GuestWaits) { Opened = ofImage ? () => _guestWaits.TrySetResult() : null };
            Ports = [.. Ports, (CommandName, _command)];
        }
        if (plan.SystemDisk is not null)
        {
            _agent = new ChannelPort();
            _agentCommand = plan.AgentCommand;
            Ports = [.. Ports, (GuestAgentClient.PortName, _agent)];
        }
        if (_interactive && _input is not null)
        {
            _input.Escape = () => end.Finish(ExitStatus.Left, "left with Ctrl-]; the machine was ended");
        }
    }

    /// <summary>Backend of the first serial port.</summary>
    public ICharacterBackend Serial { get; }

    /// <summary>Backend of the first virtio console (hvc0), or null when the machine has none.</summary>
    public ICharacterBackend? HostConsole { get; }

    /// <summary>Named virtio console ports.</summary>
    public IReadOnlyList<(string Name, ICharacterBackend Backend)> Ports { get; } = [];

    /// <summary>The same for the machine.</summary>
    public GuestConsoles Guest => new(Serial, HostConsole, Ports);

    /// <summary>Why the guest's kernel says that it panicked, or null when not known.</summary>
    public string? PanicReason => PanicWatch.Reason;

    /// <summary>What looks through the first serial port's output.</summary>
    internal PanicWatch PanicWatch { get; } = new();

    /// <summary>Whether the command or shell told its status.</summary>
    public bool CommandEnded { get; private set; }

    /// <summary>The status that the command told, or null.</summary>
    public int? CommandStatus { get; private set; }

    /// <summary>Whether the run ends with a command's end (and not with power-off).</summary>
    public bool AwaitsCommand => _isCommand;

    /// <summary>Completes when the guest has told that it waits for what it is to run.</summary>
    public Task GuestWaits => _guestWaits.Task;

    /// <summary>Waits until the system of an image is up and has written out what it wrote, so that a template of it is one that has nothing to do.</summary>
    /// <param name="most">How long that may take.</param>
    /// <returns>Whether it came to that.</returns>
    public async Task<bool> SettleAsync(TimeSpan most)
    {
        if (_agent is null)
        {
            return true; // the default system waits when all is done
        }
        using CancellationTokenSource end = CancellationTokenSource.CreateLinkedTokenSource(_stop.Token);
        end.CancelAfter(most);
        try
        {
            // Not disposed before the template is made: the guest's agent would see its host go.
            _settler ??= new GuestAgentClient(_agent);
            await _settler.SynchronizeAsync(most, end.Token).ConfigureAwait(false);
            await _settler.RunAsync(new GuestCommand("/bin/sh") { Arguments = ["-c", SettleScript] }, end.Token).ConfigureAwait(false);
            return true;
        }
        catch (Exception e) when (e is GuestAgentException or OperationCanceledException)
        {
            return false;
        }
    }

    /// <summary>Tells the guest what to run, and lets the input through that was held back until then.</summary>
    public void GiveCommand()
    {
        _command?.Give();
        _input?.Release();
    }

    /// <summary>Enters raw mode when interactive, and begins to read.</summary>
    /// <param name="holds">Whether the guest is told nothing and gets no input until <see cref="GiveCommand"/>.</param>
    public void Start(bool holds = false)
    {
        if (holds)
        {
            _input?.Hold();
        }
        else
        {
            _command?.Give();
        }
        OnSignal(PosixSignal.SIGINT, 2, "SIGINT");
        OnSignal(PosixSignal.SIGTERM, 15, "SIGTERM");
        OnSignal(PosixSignal.SIGHUP, 1, "SIGHUP");
        OnSignal(PosixSignal.SIGQUIT, 3, "SIGQUIT");
        if (_interactive)
        {
            HostFile.Error("lodge: Ctrl-] leaves the machine");
            _signals.Add(PosixSignalRegistration.Create(PosixSignal.SIGWINCH, _ => PassSize()));
            Terminal.EnterRaw();
            PassSize();
        }
        _input?.Start();
        if (_agentCommand is { } words)
        {
            Task.Run(() => RunByAgentAsync(words));
        }
    }

    /// <summary>Writes what is still buffered and restores the terminal.</summary>
    public void Dispose()
    {
        _stop.Cancel();
        _settler?.Dispose();
        foreach (OutputPort output in _outputs)
        {
            output.Dispose();
        }
        Terminal.Leave();
        foreach (PosixSignalRegistration signal in _signals)
        {
            signal.Dispose();
        }
    }

    private void PassSize()
    {
        if (Terminal.Size() is { } size)
        {
            _input?.Resize(size.Columns, size.Rows);
        }
    }

    private void OnSignal(PosixSignal signal, int number, string name) => _signals.Add(PosixSignalRegistration.Create(signal, context =>
    {
        context.Cancel = true;
        _end.Finish(128 + number, $"ended by {name}");
    }));

    private OutputPort Output(OutputSink sink, byte[]? endMark = null)
    {
        OutputPort port = new(sink, endMark);
        _outputs.Add(port);
        return port;
    }

    /// <summary>Standard output: when its reader goes away the run ends, as a program ends by SIGPIPE.</summary>
    private OutputPort Standard(int fd, byte[]? endMark, PanicWatch? watch = null)
    {
        OutputPort port = Output(
            bytes =>
            {
                watch?.Observe(bytes);
                return HostFile.Write(fd, bytes);
            },
            endMark);
        port.SinkClosed = () => _end.Finish(ExitStatus.BrokenPipe, null);
        return port;
    }

    /// <summary>Runs the command by the guest's agent.</summary>
    private async Task RunByAgentAsync(IReadOnlyList<string> words)
    {
        try
        {
            using GuestAgentClient agent = new(_agent!);
            int status = await new AgentCommand(agent, words).RunAsync(
                told =>
                {
                    CommandStatus = told;
                    CommandEnded = true;
                },
                _waitsForPowerOff,
                _stop.Token).ConfigureAwait(false);
            if (!_waitsForPowerOff)
            {
                _end.Finish(status, null);
            }
        }
        catch (OperationCanceledException)
        {
            // The run has ended otherwise.
        }
        catch (Exception e) when (e is GuestAgentException or LodgeException)
        {
            _end.Finish(ExitStatus.CannotStart, e.Message);
        }
    }

    /// <summary>The control port: the command's status counts when its streams have been written out.</summary>
    private ControlPort Control(params WaitHandle[] streams) => new(status =>
    {
        CommandEnded = true;
        CommandStatus = status;
        Thread waiter = new(() =>
        {
            foreach (WaitHandle stream in streams)
            {
                stream.WaitOne();
            }
            if (!_waitsForPowerOff)
            {
                _end.Finish(status, null);
            }
        })
        { IsBackground = true, Name = "command end" };
        waiter.Start();
    }, () => _guestWaits.TrySetResult());
}
