using System.Globalization;
using System.Text.RegularExpressions;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>
/// A whole boot of the default system's kernel, its init, a shell, power-off, with T1 compared with T0 (LODGE_LOCKSTEP). Here every block at its first
/// execution, and a few chains; LODGE_LOCKSTEP_WHOLE names another setting, such as 61 or chains:3, for a minute. Longer ones: tests/stress/run lockstep.
/// </summary>
[Collection("guests")]
public class LockstepTests
{
    [Fact]
    public void TiersDoNotDivergeOverABoot()
    {
        string? whole = Environment.GetEnvironmentVariable("LODGE_LOCKSTEP_WHOLE");
        string setting = string.IsNullOrEmpty(whole) ? "chains:500:1" : whole;
        (int status, string output, string error) = LodgeProcess.Script("LODGE_LOCKSTEP=$1 exec \"$0\" run --no-template --engine translate --trace -- sh -c 'echo up; poweroff -f' </dev/null", setting);
        Assert.True(status == 205, $"status {status}: {error}");
        Assert.Equal("up\n", output);
        Assert.Equal(0, Counter(error, "lockstep divergences"));
        Assert.True(Counter(error, "lockstep distinct blocks compared") > 20_000, error);
        Assert.True(Counter(error, "lockstep instructions compared") > 100_000, error);
    }

    [Fact]
    public void TiersDoNotDivergeInAClonesKeptCode()
    {
        Assert.Equal(0, LodgeProcess.Run(["template", "create"]).Status);
        (int status, string output, string error) = LodgeProcess.Script("LODGE_LOCKSTEP=0:1 exec \"$0\" run --engine translate --trace -- sh -c 'echo up; ls / | wc -l' </dev/null");
        Assert.True(status == 0, $"status {status}: {error}");
        Assert.StartsWith("up\n", output, StringComparison.Ordinal);
        Assert.Equal(0, Counter(error, "lockstep divergences"));
        Assert.True(Counter(error, "kept blocks used") > 5_000, error);
        Assert.True(Counter(error, "lockstep distinct blocks compared") > 5_000, error);
    }

    private static long Counter(string trace, string name) =>
        long.Parse(Regex.Match(trace, $"^trace: {name} (\\d+)$", RegexOptions.Multiline).Groups[1].Value, CultureInfo.InvariantCulture);
}
