using System.Text;
using Lodge.Engine.Processor;
using Lodge.Engine.Translation;
using Lodge.Machine;
using Lodge.Machine.Boot;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>The files of the default system, which <c>lodge run</c> makes in its cache.</summary>
internal static class DefaultSystem
{
    private static readonly Lazy<string> s_folder = new(static () =>
    {
        (int status, _, string error) = LodgeProcess.Run(["run", "--", "true"]);
        Assert.True(status == 0, error);
        string cache = Environment.GetEnvironmentVariable("XDG_CACHE_HOME") is { Length: > 0 } given ? given : Path.Combine(Environment.GetEnvironmentVariable("HOME")!, ".cache");
        return Path.Combine(cache, "lodge", File.ReadAllText(Path.Combine(cache, "lodge", "default")).Trim());
    });

    public static string Kernel => Path.Combine(s_folder.Value, "vmlinuz");

    public static string Initramfs => Path.Combine(s_folder.Value, "initramfs.cpio");
}

/// <summary>
/// A Linux in this process on the software engine, with the busybox of the default system as its shell on the serial port: for tests that change the machine
/// while the guest runs.
/// </summary>
internal sealed class SerialGuest : ICharacterBackend, IDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromMinutes(3); // far beyond any success; a hang must end
    private readonly object _gate = new();
    private readonly StringBuilder _output = new();
    private readonly SemaphoreSlim _ready = new(0);
    private ICharacterReceiver _receiver = null!;
    private int _commands;

    /// <summary>Makes and, unless told otherwise, starts the machine.</summary>
    /// <param name="change">Changes the configuration.</param>
    /// <param name="kernel">Another kernel than the default system's.</param>
    /// <param name="start">Whether to start it and to wait for its shell.</param>
    public SerialGuest(Func<MachineConfiguration, MachineConfiguration>? change = null, string? kernel = null, bool start = true)
    {
        Assert.SkipWhen(TranslationEngine.Unusable() is not null, TranslationEngine.Unusable() ?? "");
        BootSource image = BootSource.FromFile(kernel ?? DefaultSystem.Kernel);
        BootModule[] modules = [new(BootSource.FromFile(DefaultSystem.Initramfs), "")];
        var configuration = new MachineConfiguration
        {
            MemorySize = 256UL << 20,
            Model = CpuModel.Create(CpuModelName.V3, 1),
            Boot = (memory, state) =>
                KernelLoader.Load(memory, new BootOptions(image, modules, "console=ttyS0 quiet loglevel=1 panic=-1 rdinit=/bin/sh", MemoryMap.RootPointer)).Apply(state),
            SerialPorts = [this],
        };
        Machine = new VirtualMachine(change?.Invoke(configuration) ?? configuration, new TranslationEngine());
        if (start)
        {
            Machine.Start();
            Boot();
        }
    }

    public VirtualMachine Machine { get; }

    /// <summary>Waits for the shell of a guest that was started.</summary>
    /// <param name="from">How much of the output is older.</param>
    public void Boot(int from = 0)
    {
        Until("# ", from);
        Run("stty -echo; mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev");
    }

    /// <summary>Resets the machine and waits for the new shell.</summary>
    public void Reset()
    {
        Machine.Reset();
        int from;
        lock (_gate)
        {
            from = _output.Length; // after the reset: the prompt of the shell before it may have come late
        }
        Boot(from);
    }

    /// <summary>Runs a shell command; its output, which must be of success.</summary>
    public string Run(string command)
    {
        (int status, string output) = Try(command);
        Assert.True(status == 0, $"status {status} of '{command}': {output}");
        return output;
    }

    /// <summary>Runs a shell command.</summary>
    public (int Status, string Output) Try(string command)
    {
        int from;
        string mark = $"<{++_commands}:";
        lock (_gate)
        {
            from = _output.Length;
        }
        // The mark is written so that an echo of the line has not got it.
        Type($"echo '<'; {{ {command}\n}} 2>&1; echo '<''{_commands}:'$?'>'\n");
        string text = Until(mark, from);
        text = Until(">", from + text.IndexOf(mark, StringComparison.Ordinal) + mark.Length);
        int status = int.Parse(text[..text.IndexOf('>', StringComparison.Ordinal)], System.Globalization.CultureInfo.InvariantCulture);
        lock (_gate)
        {
            text = _output.ToString(from, _output.Length - from);
        }
        int start = text.IndexOf("<\r\n", StringComparison.Ordinal) + 3;
        return (status, text[start..text.IndexOf(mark, StringComparison.Ordinal)].Replace("\r", "", StringComparison.Ordinal));
    }

    /// <summary>Runs a shell command until it succeeds: for what the guest does in its own time.</summary>
    public string Wait(string command)
    {
        (int status, string output) = Try($"i=0; until {{ {command}; }} >/tmp/wait 2>&1 || [ $i = 600 ]; do i=$((i + 1)); usleep 50000; done; cat /tmp/wait; [ $i != 600 ]");
        Assert.True(status == 0, $"'{command}' did not come true: {output}\n{Try("dmesg | tail -n 20").Output}");
        return output;
    }

    public void Dispose()
    {
        Machine.Dispose();
        _ready.Dispose();
    }

    void ICharacterBackend.Connect(ICharacterReceiver receiver) => _receiver = receiver;

    int ICharacterBackend.Write(ReadOnlySpan<byte> data)
    {
        lock (_gate)
        {
            _output.Append(Encoding.Latin1.GetString(data));
            Monitor.PulseAll(_gate);
        }
        return data.Length;
    }

    void ICharacterBackend.InputReady() => _ready.Release();

    private void Type(string text)
    {
        byte[] bytes = Encoding.Latin1.GetBytes(text);
        for (int at = 0; at < bytes.Length;)
        {
            int taken = _receiver.Receive(bytes.AsSpan(at));
            at += taken;
            if (taken == 0)
            {
                Assert.True(_ready.Wait(s_patience), "the guest takes no input");
            }
        }
    }

    private string Until(string mark, int from)
    {
        long end = Environment.TickCount64 + (long)s_patience.TotalMilliseconds;
        lock (_gate)
        {
            while (true)
            {
                string text = _output.ToString(from, _output.Length - from);
                if (text.Contains(mark, StringComparison.Ordinal))
                {
                    return text;
                }
                int left = (int)(end - Environment.TickCount64);
                Assert.True(left > 0 && !Machine.Completion.IsCompleted, $"no '{mark}' came, the machine is {Machine.State}: {text}");
                Monitor.Wait(_gate, Math.Min(left, 1000));
            }
        }
    }
}
