using Lodge.Cli.Console;
using Lodge.Cli.DefaultSystem;
using Lodge.Cli.Run;
using Lodge.Machine;
using Lodge.Management.GuestAgent;

namespace Lodge.Cli.Machines;

/// <summary>
/// The consoles of a machine in the background. The serial port's output is logged, and that of a command; people look at the virtio console, or at the serial port when the kernel is the user's own.
/// </summary>
internal sealed class MachineConsoles : IDisposable
{
    private readonly List<IDisposable> _outputs = [];
    private readonly ChannelPort? _agentPort;
    private readonly TextPort? _command;
    private readonly TaskCompletionSource _isItself = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>Makes the backends.</summary>
    /// <param name="plan">What is booted.</param>
    /// <param name="log">Where output is kept.</param>
    /// <param name="commandEnded">Told the status of the machine's command when its output is logged. Any thread.</param>
    public MachineConsoles(RunPlan plan, ConsoleLog log, Action<int> commandEnded)
    {
        AwaitsCommand = plan.Mode is CommandMode.Pipe;
        Serial = new ConsoleHub(data =>
        {
            PanicWatch.Observe(data);
            return AwaitsCommand || log.Add(data);
        });
        _outputs.Add(Serial);
        List<(string, ICharacterBackend)> ports = [];
        if (plan.Mode is not null)
        {
            // The default system's shell is on the virtio console only.
            Virtio = new ConsoleHub(plan.SystemDisk is null && !AwaitsCommand ? log.Add : null);
            _outputs.Add(Virtio);
            OutputPort output = Output(log, plan), errors = Output(log, plan);
            OutputPort input = new(_ => true);
            _outputs.Add(input);
            // An image's command service that has no command to run, for its guest has booted anew, tells that it ran none.
            ControlPort control = new(status =>
            {
                if (AwaitsCommand || plan.SystemDisk is null)
                {
                    Ended(status, AwaitsCommand ? [output.Ended, errors.Ended] : [], commandEnded);
                }
            }, () => _isItself.TrySetResult());
            DefaultSystem = plan.SystemDisk is null ? control : null;
            ports.AddRange(
            [
                (RunConsole.ControlName, control),
                (RunConsole.InputName, AwaitsCommand ? new TextPort(() => [], atOnce: true) : input),
                (RunConsole.OutputName, output),
                (RunConsole.ErrorName, errors),
            ]);
        }
        if (plan.Command is { } text)
        {
            _command = new TextPort(text, atOnce: !plan.GuestWaits);
            ports.Add((RunConsole.CommandName, _command));
        }
        if (plan.SystemDisk is not null)
        {
            _agentPort = new ChannelPort();
            Agent = new GuestAgentClient(_agentPort);
            ports.Add((GuestAgentClient.PortName, _agentPort));
        }
        Guest = new GuestConsoles(Serial, Virtio, ports);
    }

    /// <summary>What the machine is connected to.</summary>
    public GuestConsoles Guest { get; }

    /// <summary>The first serial port.</summary>
    public ConsoleHub Serial { get; }

    /// <summary>The virtio console; null when the kernel is the user's own.</summary>
    public ConsoleHub? Virtio { get; }

    /// <summary>The guest's agent; null where there can be none.</summary>
    public GuestAgentClient? Agent { get; }

    /// <summary>Where the default system listens; null for another.</summary>
    public ControlPort? DefaultSystem { get; }

    /// <summary>Whether the machine runs a command, whose end is its end.</summary>
    public bool AwaitsCommand { get; }

    /// <summary>What looks through the serial port's output.</summary>
    public PanicWatch PanicWatch { get; } = new();

    /// <summary>Completes when the guest of a clone of a template has told that it is another one now: it has its own name, random numbers and time.</summary>
    public Task IsItself => _isItself.Task;

    /// <summary>Tells a guest that waits for it what it is to run.</summary>
    public void GiveCommand() => _command?.Give();

    /// <summary>Writes out what is buffered.</summary>
    public void Dispose()
    {
        foreach (IDisposable output in _outputs)
        {
            output.Dispose();
        }
        Agent?.Dispose();
    }

    private OutputPort Output(ConsoleLog log, RunPlan plan)
    {
        OutputPort port = new(log.Add, AwaitsCommand ? plan.EndMark : null);
        _outputs.Add(port);
        return port;
    }

    private static void Ended(int status, WaitHandle[] streams, Action<int> commandEnded) => new Thread(() =>
    {
        foreach (WaitHandle stream in streams)
        {
            stream.WaitOne();
        }
        commandEnded(status);
    })
    { IsBackground = true, Name = "command end" }.Start();
}
