using Xunit;

namespace Lodge.Guests.Tests;

/// <summary><c>lodge run -- CMD</c> in the default system.</summary>
[Collection("guests")]
public class CommandTests
{

    [Fact]
    public void Output_is_the_commands_and_nothing_else()
    {
        (int status, string output, string error) = LodgeProcess.Run(["run", "--", "uname", "-a"]);
        Assert.Equal("", WithoutFetching(error));
        Assert.Matches("^Linux lodge [0-9].* x86_64 GNU/Linux\n$", output);
        Assert.Equal(0, status);
    }

    [Fact]
    public void Every_processor_is_there()
    {
        (int status, string output, _) = LodgeProcess.Run(["run", "--cpus", "4", "--", "nproc"]);
        Assert.Equal("4\n", output);
        Assert.Equal(0, status);
    }

    [Fact]
    public void Standard_streams_are_apart_and_the_status_is_the_commands()
    {
        (int status, string output, string error) = LodgeProcess.Run(["run", "--name", "box", "--", "sh", "-c", "hostname; echo problem >/dev/stderr; cat; exit 7"], "line 1\nline 2");
        Assert.Equal("box\nline 1\nline 2", output);
        Assert.Equal("problem\n", WithoutFetching(error));
        Assert.Equal(7, status);
    }

    [Fact]
    public void A_command_that_is_killed_or_missing_gives_the_shells_status()
    {
        Assert.Equal(137, LodgeProcess.Run(["run", "--", "sh", "-c", "kill -9 $$"]).Status);
        Assert.Equal(127, LodgeProcess.Run(["run", "--", "no-such-program"]).Status);
    }

    [Fact]
    public void The_kernel_runs_no_mitigation_loops()
    {
        (int status, string output, _) = LodgeProcess.Run(["run", "--", "sh", "-c", "cat /sys/devices/system/cpu/vulnerabilities/*"]);
        Assert.Equal(0, status);
        Assert.Contains("Not affected", output, StringComparison.Ordinal);
        Assert.DoesNotContain("SW loop", output, StringComparison.Ordinal);
        Assert.DoesNotContain("Retpolines", output, StringComparison.Ordinal);
        Assert.DoesNotContain("PTI", output, StringComparison.Ordinal);
    }

    [Fact]
    public void Large_output_and_input_pass_whole()
    {
        string input = string.Concat(Enumerable.Range(0, 1 << 17).Select(i => $"{i:x7}\n"));
        (int status, string output, _) = LodgeProcess.Run(["run", "--", "cat"], input);
        Assert.Equal(input.Length, output.Length);
        Assert.Equal(input, output);
        Assert.Equal(0, status);
    }

    [Fact]
    public void The_machines_ends_are_told_apart()
    {
        (int status, string output, string error) = LodgeProcess.Run(["run", "--", "poweroff", "-f"]);
        Assert.Equal((205, ""), (status, output));
        Assert.Contains("power", error, StringComparison.Ordinal);
        (status, _, error) = LodgeProcess.Run(["run", "--", "reboot", "-f"]);
        Assert.Equal(200, status);
        Assert.Contains("reset", error, StringComparison.Ordinal);
        (status, _, error) = LodgeProcess.Run(["run", "--", "sh", "-c", "echo c >/proc/sysrq-trigger; sleep 10"]);
        Assert.Equal(202, status);
        Assert.Contains("sysrq triggered crash", error, StringComparison.Ordinal);
        (status, _, error) = LodgeProcess.Run(["run", "--timeout", "4", "--", "sleep", "1000"]);
        Assert.Equal(124, status);
        Assert.Contains("4 s", error, StringComparison.Ordinal);
    }

    /// <summary>Standard error without what is said once, when the default system is made.</summary>
    private static string WithoutFetching(string error) => string.Concat(error.Split('\n')
        .Where(line => line.Length != 0 && !line.StartsWith("lodge: Fetching", StringComparison.Ordinal) && !line.StartsWith("lodge: making", StringComparison.OrdinalIgnoreCase))
        .Select(line => line + "\n"));
}
