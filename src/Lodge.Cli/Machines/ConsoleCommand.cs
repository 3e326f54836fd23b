using System.CommandLine;
using System.Runtime.InteropServices;
using Lodge.Cli.Console;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>console</c>: this terminal becomes one of a machine's.</summary>
internal static class ConsoleCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> name = MachineCommands.Name();
        Option<bool> serial = new("--serial") { Description = "The first serial port (kernel messages) in place of the virtio console" };
        Command command = new("console", "Look at a machine's console and type there; Ctrl-] leaves it. Several may look at once") { name, serial };
        command.SetAction(parsed => Run(parsed.GetValue(name)!, parsed.GetValue(serial) ? "?device=serial" : ""));
        return command;
    }

    private static int Run(string name, string query)
    {
        MachineFolder machine = MachineStore.ForUser().Get(name);
        using ControlClient client = ControlClient.Connect(machine);
        using Stream stream = client.StreamAsync("/v1/console" + query).GetAwaiter().GetResult();
        bool interactive = Terminal.IsTerminal(HostFile.StandardInput) && Terminal.IsTerminal(HostFile.StandardOutput);
        List<PosixSignalRegistration> signals = [];
        if (interactive)
        {
            HostFile.Error($"lodge: on the console of '{name}'; Ctrl-] leaves it, Enter shows its prompt");
            signals.Add(PosixSignalRegistration.Create(PosixSignal.SIGWINCH, _ => PassSize(machine, query)));
            PassSize(machine, query);
            Terminal.EnterRaw();
        }
        using ManualResetEventSlim ended = new();
        bool left = false;
        Start("console input", () =>
        {
            left = Type(stream, interactive);
            ended.Set();
        });
        Start("console output", () =>
        {
            Show(stream);
            ended.Set();
        });
        ended.Wait();
        Terminal.Leave();
        signals.ForEach(signal => signal.Dispose());
        if (interactive)
        {
            HostFile.Error(left || machine.IsRunning() ? $"\nlodge: left the console; '{name}' goes on" : $"\nlodge: '{name}' has ended");
        }
        return 0;
    }

    private static void Start(string name, Action action) => new Thread(() => action()) { IsBackground = true, Name = name }.Start();

    private static void Show(Stream stream)
    {
        byte[] buffer = new byte[1 << 16];
        try
        {
            for (int count; (count = stream.Read(buffer)) != 0 && HostFile.Write(HostFile.StandardOutput, buffer.AsSpan(0, count));)
            {
            }
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException)
        {
            // The machine has ended.
        }
    }

    /// <returns>Whether the user left by Ctrl-]; the end of the input ends the view too.</returns>
    private static bool Type(Stream stream, bool interactive)
    {
        byte[] buffer = new byte[4096];
        try
        {
            for (int count; (count = HostFile.Read(HostFile.StandardInput, buffer)) != 0;)
            {
                int escape = interactive ? buffer.AsSpan(0, count).IndexOf(InputPort.EscapeCharacter) : -1;
                stream.Write(buffer.AsSpan(0, escape < 0 ? count : escape));
                if (escape >= 0)
                {
                    return true;
                }
            }
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException)
        {
            // The machine has ended.
        }
        return false;
    }

    private static void PassSize(MachineFolder machine, string query)
    {
        if (Terminal.Size() is not { } size)
        {
            return;
        }
        try
        {
            using ControlClient client = ControlClient.Connect(machine);
            client.SendAsync("PUT", "/v1/console/size" + query, new ControlSize(size.Columns, size.Rows), ControlJson.Default.ControlSize).GetAwaiter().GetResult();
        }
        catch (ManagementException)
        {
            // It has ended; the console tells.
        }
    }
}
