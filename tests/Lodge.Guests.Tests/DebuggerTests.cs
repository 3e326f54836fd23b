using System.Diagnostics;
using System.Text.RegularExpressions;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary><c>lodge run --gdb</c> with the real gdb on the other side.</summary>
[Collection("guests")]
public sealed class DebuggerTests : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("lodge-gdb-").FullName;
    private readonly DebuggerGuest _guest = new();

    [Fact]
    public void Gdb_breaks_steps_and_changes_registers_and_memory()
    {
        (int status, string output) = Debug(
            $"hbreak *{Hex(_guest.Start)}",
            "continue",
            "printf \"start=%#lx cr0=%#lx efer=%#lx cs=%#x\\n\", $rip, (long)$cr0, (long)$efer, $cs",
            "stepi",
            "printf \"rbx=%#lx\\n\", $rbx",
            "set $rcx = 41",
            "stepi",
            "printf \"rcx=%d\\n\", $rcx",
            "set $xmm3.v2_int64[1] = 0x1234",
            "printf \"xmm=%#lx\\n\", $xmm3.v2_int64[1]",
            $"set {{long}}{Hex(DebuggerGuest.Counter)} = 1000",
            $"break *{Hex(_guest.Function)}",
            "delete 1",
            "continue",
            "printf \"in f at %#lx, counter=%d rax=%d\\n\", $rip, *(long*)" + Hex(DebuggerGuest.Counter) + ", $rax",
            "continue",
            "printf \"again counter=%d\\n\", *(long*)" + Hex(DebuggerGuest.Counter),
            $"set {{char}}{Hex(DebuggerGuest.Flag)} = 1",
            "delete",
            "continue");
        Assert.Matches($"start={Hex(_guest.Start)} cr0=0x8.*11 efer=0x500 cs=0x8", output);
        Assert.Contains("rbx=0x1122334455667788\n", output, StringComparison.Ordinal);
        Assert.Contains("rcx=42\n", output, StringComparison.Ordinal);
        Assert.Contains("xmm=0x1234\n", output, StringComparison.Ordinal);
        Assert.Contains($"in f at {Hex(_guest.Function)}, counter=1001 rax=1001\n", output, StringComparison.Ordinal);
        Assert.Contains("again counter=1002\n", output, StringComparison.Ordinal);
        Assert.Contains("exited normally", output, StringComparison.Ordinal);
        Assert.Equal(43, status); // debug exit: (21 << 1) | 1
    }

    [Fact]
    public void Gdb_watches_loads_and_stores()
    {
        (_, string output) = Debug(
            $"hbreak *{Hex(_guest.Start)}",
            "continue",
            "delete",
            $"watch *(long*){Hex(DebuggerGuest.Data)}",
            "continue",
            "continue",
            "printf \"stored %d\\n\", *(long*)" + Hex(DebuggerGuest.Data),
            "delete",
            $"rwatch *(char*){Hex(DebuggerGuest.Flag)}",
            "continue",
            "delete",
            $"awatch *(long*){Hex(DebuggerGuest.Counter)}",
            "continue",
            "kill");
        Assert.Equal(3, Regex.Count(output, "Hardware watchpoint 2: ")); // set, and hit twice
        Assert.Matches("Old value = 1\nNew value = 2\n", output);
        Assert.Contains("stored 2\n", output, StringComparison.Ordinal);
        Assert.Contains("Hardware read watchpoint 3: ", output, StringComparison.Ordinal);
        Assert.Contains("Hardware access (read/write) watchpoint 4: ", output, StringComparison.Ordinal);
    }

    [Fact]
    public void Processors_are_threads()
    {
        (_, string output) = Debug(
            "info threads",
            $"break *{Hex(_guest.Function)}",
            "continue",
            "continue 20",
            "printf \"first=%d\\n\", $_thread",
            "thread 2",
            "printf \"second=%d pc=%#lx cs=%#x cr0=%d\\n\", $_thread, $rip, $cs, (long)$cr0 & 1",
            "set scheduler-locking on",
            "stepi",
            "stepi",
            "printf \"stepped=%d pc=%#lx\\n\", $_thread, $rip",
            $"set {{short}}{Hex(DebuggerGuest.RealModeCounter)} = -100",
            "delete",
            $"watch *(short*){Hex(DebuggerGuest.RealModeCounter)}",
            "continue",
            "thread 1",
            "printf \"first pc=%#lx\\n\", $rip",
            "monitor info registers",
            "detach");
        Assert.Matches("Thread 1 .*\n.*Thread 2 .*waiting for start-up", output);
        Assert.Contains("first=1\n", output, StringComparison.Ordinal);
        Assert.Matches("second=2 pc=0x[0-9a-f]+ cs=0x800 cr0=0\n", output);
        Assert.Matches("stepped=2 pc=0x[0-9a-f]+\n", output);
        Assert.Matches("Old value = -100\nNew value = -99\n", output);
        Assert.Contains($"first pc={Hex(_guest.Function)}\n", output, StringComparison.Ordinal); // it stood still
        Assert.Matches("CPU 0, 64-bit, active\nRAX ", output);
    }

    public void Dispose() => Directory.Delete(_directory, true);

    private static string Hex(ulong value) => $"0x{value:x}";

    private (int Status, string Output) Debug(params string[] commands)
    {
        Assert.SkipUnless(File.Exists("/usr/bin/gdb"), "gdb is not installed (Debian package gdb)");
        string kernel = Path.Combine(_directory, "guest"), socket = Path.Combine(_directory, "gdb");
        File.WriteAllBytes(kernel, _guest.Image);
        ProcessStartInfo start = new(Path.Combine(AppContext.BaseDirectory, "lodge"))
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        foreach (string argument in (string[])["run", "--engine", "translate", "--kernel", kernel, "--cpus", "2", "--memory", "64M", "--debug-exit", "--timeout", "120", "--gdb", socket])
        {
            start.ArgumentList.Add(argument);
        }
        using Process lodge = Process.Start(start)!;
        string? line = lodge.StandardError.ReadLine();
        Assert.Equal($"lodge: waiting for gdb; connect with: target remote {socket}", line);

        ProcessStartInfo client = new("/usr/bin/gdb") { RedirectStandardOutput = true, RedirectStandardError = true };
        foreach (string argument in (string[])["-nx", "-batch", "-ex", "set confirm off", "-ex", "set remotetimeout 60", "-ex", $"target remote {socket}"])
        {
            client.ArgumentList.Add(argument);
        }
        foreach (string command in commands)
        {
            client.ArgumentList.Add("-ex");
            client.ArgumentList.Add(command);
        }
        using Process gdb = Process.Start(client)!;
        Task<string> error = gdb.StandardError.ReadToEndAsync();
        string output = gdb.StandardOutput.ReadToEnd();
        gdb.WaitForExit();
        if (!lodge.WaitForExit(TimeSpan.FromSeconds(2)))
        {
            lodge.Kill(); // detached: it would run on
        }
        lodge.WaitForExit();
        return (lodge.ExitCode, output + error.Result);
    }
}
