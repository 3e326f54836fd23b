using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using Lodge.Cli.Console;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>
/// What a machine's process that was taken over would try, tried in its very place: after its sandbox is shut and instead of its guest. For tests: only with the hidden verb and
/// <see cref="Variable"/> in the environment.
/// </summary>
/// <param name="own">The machine.</param>
/// <param name="other">Another machine that runs.</param>
/// <param name="process">Number of the other's process.</param>
internal sealed unsafe partial class SandboxProbe(MachineFolder own, MachineFolder other, int process)
{
    /// <summary>The hidden verb: <c>lodge sandbox-probe NAME OTHER</c>.</summary>
    public const string Verb = "sandbox-probe";

    /// <summary>Environment variable without which there is no such verb.</summary>
    public const string Variable = "LODGE_SANDBOX_PROBE";

    private const string Argument = "--probe=";
    private const int NotPermitted = 1, NoAccess = 13, OtherDevice = 18, NoSystemCall = 38;

    /// <summary>Whether the verb is there.</summary>
    public static bool Enabled => Environment.GetEnvironmentVariable(Variable) == "1";

    /// <summary>Starts a machine's process so that it tries all, and prints what came of each: <c>reached NAME</c> or <c>refused NAME</c>.</summary>
    public static int Start(string name, string another)
    {
        MachineStore store = MachineStore.ForUser();
        MachineFolder target = store.Get(another);
        string argument = string.Create(CultureInfo.InvariantCulture, $"{Argument}{target.ReadStatus()?.Process}:{target.Path}");
        store.Changing(name, machine =>
        {
            LifeCommands.Launch(machine, [argument], line => MachineCommands.Print(line + "\n"));
            return true;
        });
        return 0;
    }

    /// <summary>The probe that arguments of a machine's process ask for, or null.</summary>
    public static SandboxProbe? Read(IReadOnlyList<string> arguments, MachineFolder own)
    {
        if (!Enabled || arguments.FirstOrDefault(word => word.StartsWith(Argument, StringComparison.Ordinal)) is not { } word)
        {
            return null;
        }
        string[] parts = word[Argument.Length..].Split(':', 2);
        return new SandboxProbe(own, new MachineFolder(parts[1]), int.Parse(parts[0], CultureInfo.InvariantCulture));
    }

    /// <summary>Tries all.</summary>
    public void Run()
    {
        foreach ((string name, Func<long> attempt) in Attempts())
        {
            long result = attempt();
            int error = result < 0 ? Marshal.GetLastPInvokeError() : 0;
            bool refused = result < 0 && error is NotPermitted or NoAccess or OtherDevice or NoSystemCall;
            HostFile.Error($"lodge: {(refused ? "refused" : "reached")} {name}{(result < 0 && !refused ? $" ({Marshal.GetPInvokeErrorMessage(error)})" : "")}");
        }
    }

    private IEnumerable<(string Name, Func<long> Attempt)> Attempts()
    {
        const int read = 0, write = 1, readWrite = 2, create = 0x40, folder = 0x10000;
        string ownFolder = own.Path, work = own.Work, otherFolder = other.Path;
        string home = Environment.GetEnvironmentVariable("HOME") is { Length: > 0 } set ? set : "/root";

        yield return ("read another machine's definition", () => Open($"{otherFolder}/machine.json", read));
        yield return ("list another machine's folder", () => Open(otherFolder, read | folder));
        yield return ("write another machine's status", () => Open($"{otherFolder}/work/status.json", readWrite));
        yield return ("read another machine's log", () => Open($"{otherFolder}/lodge.log", read));
        yield return ("list all machines", () => Open(Path.GetDirectoryName(otherFolder)!, read | folder));
        yield return ("write its own definition", () => Open($"{ownFolder}/machine.json", write));
        yield return ("replace its own definition", () =>
        {
            File.WriteAllText($"{work}/probe", "{}");
            return Two(82, $"{work}/probe", $"{ownFolder}/machine.json.probe");
        }
        );
        yield return ("make a file beside its definition", () => Open($"{ownFolder}/probe", write | create));
        yield return ("make a symbolic link", () => Two(88, "/etc/passwd", $"{work}/probe-link"));
        yield return ("make a named pipe", () => One(133, $"{work}/probe-pipe", 0x1000 | 0x180, 0));
        yield return ("read /etc/shadow", () => Open("/etc/shadow", read));
        yield return ("list the home folder", () => Open(home, read | folder));
        yield return ("make a file in the home folder", () => Open($"{home}/.lodge-sandbox-probe", write | create));
        yield return ("make a file in /tmp", () => Open($"/tmp/.lodge-sandbox-probe-{Environment.ProcessId}", write | create));
        yield return ("write a setting of the kernel", () => Open("/proc/sys/kernel/core_pattern", write));
        yield return ("move to another control group", () => Open(FirstControlGroup(), write));
        yield return ("ask whether another process is there by a signal", () => Call(62, process, 0));
        yield return ("signal another process' thread", () => Call(234, process, process, 0));
        yield return ("signal init", () => Call(62, 1, 0));
        yield return ("open another process by pidfd", () => Closed(Call(434, process, 0)));
        yield return ("trace another process", () => Call(101, 0x4206, process, 0, 0));
        yield return ("read another process' memory", ReadMemory);
        yield return ("open /proc/PID/mem", () => Open($"/proc/{process}/mem", readWrite));
        yield return ("open /proc/PID/environ", () => Open($"/proc/{process}/environ", read));
        yield return ("follow /proc/PID/fd", () => ReadLink($"/proc/{process}/fd/1"));
        yield return ("set another process' limits", () => SetLimit(process));
        yield return ("connect to another machine's control socket", () => Connect($"{otherFolder}/work/control.sock", stream: true));
        yield return ("send to a socket of datagrams", () => Connect("/dev/log", stream: false));
        yield return ("open a TCP socket", () => Closed(Call(41, 2, 1, 0)));
        yield return ("open a raw socket", () => Closed(Call(41, 2, 3, 1)));
        yield return ("open a packet socket", () => Closed(Call(41, 17, 3, 0)));
        yield return ("open a netlink socket", () => Closed(Call(41, 16, 3, 0)));
        yield return ("open a vsock socket", () => Closed(Call(41, 40, 1, 0)));
        yield return ("open a socket of the kernel's ciphers", () => Closed(Call(41, 38, 5, 0)));
        yield return ("mount", () => Mount());
        yield return ("unmount", () => One(166, "/nonexistent", 0, 0));
        yield return ("change the root", () => One(161, "/nonexistent", 0, 0));
        yield return ("start a program", () => One(59, "/nonexistent", 0, 0));
        yield return ("make a user namespace", () => Call(272, 0x1000_0000));
        yield return ("make a mount namespace", () => Call(272, 0x0002_0000));
        yield return ("enter a namespace", () => Call(308, -1, 0));
        yield return ("become root", () => Call(105, 0) == 0 && Call(102) != 0 ? 0 : Call(105, 0));
        yield return ("use io_uring", () => IoUring());
        yield return ("use bpf", () => Call(321, 0, 0, 0));
        yield return ("use the kernel's keys", () => Call(250, 0, -3, 0));
        yield return ("use userfaultfd", () => Closed(Call(323, 1)));
        yield return ("watch performance events", () => Call(298, 0, 0, -1, -1, 0));
        yield return ("load a kernel module", () => Call(313, -1, 0, 0));
        yield return ("load another kernel", () => Call(246, 0, 17, 0, 0));
        yield return ("open by handle", () => Call(304, -1, 0, 0));
        yield return ("type into a terminal", () => Call(16, 0, 0x5412, 0));
        yield return ("make System V shared memory", () => Call(29, 0, -1, 0));
        yield return ("take off the address space's randomness", () => Call(135, 0x0040000) is var old and >= 0 ? Call(135, (nint)old) : -1);
    }

    private static string FirstControlGroup() =>
        new[] { "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/cgroup.procs", "/sys/fs/cgroup/cpu/cgroup.procs" }.FirstOrDefault(File.Exists) ?? "/sys/fs/cgroup/cgroup.procs";

    private static long Open(string path, int flags) => Closed(One(2, path, flags, 0x180));

    private static long Closed(long descriptor)
    {
        if (descriptor >= 0)
        {
            _ = close((int)descriptor);
        }
        return descriptor;
    }

    private static long One(nint number, string path, nint second, nint third)
    {
        fixed (byte* text = Encoding.UTF8.GetBytes(path + '\0'))
        {
            return Call(number, (nint)text, second, third);
        }
    }

    private static long Two(nint number, string first, string second)
    {
        fixed (byte* one = Encoding.UTF8.GetBytes(first + '\0'), two = Encoding.UTF8.GetBytes(second + '\0'))
        {
            return Call(number, (nint)one, (nint)two);
        }
    }

    private static long ReadLink(string path)
    {
        byte* buffer = stackalloc byte[256];
        return One(89, path, (nint)buffer, 256);
    }

    private static long Mount()
    {
        fixed (byte* source = "none\0"u8, target = "/nonexistent\0"u8, type = "tmpfs\0"u8)
        {
            return Call(165, (nint)source, (nint)target, (nint)type, 0, 0);
        }
    }

    private long ReadMemory()
    {
        byte* here = stackalloc byte[8];
        nint* local = stackalloc nint[] { (nint)here, 8 };
        nint* remote = stackalloc nint[] { 0x1000, 8 };
        return Call(310, process, (nint)local, 1, (nint)remote, 1, 0);
    }

    private static long SetLimit(int process)
    {
        ulong* limit = stackalloc ulong[2];
        return Call(302, process, 4, 0, (nint)limit);
    }

    private static long IoUring()
    {
        byte* parameters = stackalloc byte[120];
        new Span<byte>(parameters, 120).Clear();
        return Closed(Call(425, 1, (nint)parameters));
    }

    private static long Connect(string path, bool stream)
    {
        byte[] text = Encoding.UTF8.GetBytes(path);
        byte* address = stackalloc byte[110];
        new Span<byte>(address, 110).Clear();
        address[0] = 1; // AF_UNIX
        text.AsSpan(0, Math.Min(text.Length, 107)).CopyTo(new Span<byte>(address + 2, 108));
        int* pair = stackalloc int[2];
        long socket = stream ? Call(41, 1, 1, 0) : Call(53, 1, 2, 0, (nint)pair) < 0 ? -1 : pair[0];
        return socket < 0 ? -1 : Call(42, (nint)socket, (nint)address, 110);
    }

    private static long Call(nint number, nint first = 0, nint second = 0, nint third = 0, nint fourth = 0, nint fifth = 0, nint sixth = 0) => syscall(number, first, second, third, fourth, fifth, sixth);

    [LibraryImport("libc", SetLastError = true)]
    private static partial long syscall(nint number, nint first, nint second, nint third, nint fourth, nint fifth, nint sixth);

    [LibraryImport("libc")]
    private static partial int close(int descriptor);
}
