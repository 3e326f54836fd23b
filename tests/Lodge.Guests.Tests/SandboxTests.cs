using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>A machine's process that was taken over: what it can reach from within its sandbox. The list of attempts is the product's own (<c>SandboxProbe</c>), made in the process where its guest would run.</summary>
[Collection("guests")]
public sealed class SandboxTests : IDisposable
{
    // $1: a folder; $2: options of the machine that is taken over; $3: whether as an ordinary user where the tests run as root.
    private const string Probe = """
        set -e
        export LODGE_SANDBOX_PROBE=1 XDG_DATA_HOME="$1/data"
        as=
        if [ "$3" = user ] && [ $(id -u) = 0 ]; then
            as='setpriv --reuid=65534 --regid=65534 --clear-groups env HOME='"$1"' XDG_CACHE_HOME='"$1/cache"
            mkdir -p "$1/cache"; cp -r "${XDG_CACHE_HOME:-$HOME/.cache}/lodge" "$1/cache"
            chown -R 65534:65534 "$1"
        fi
        $as "$0" create --name victim --net none >&2
        $as "$0" create --name taken --net none $2 >&2
        $as "$0" start victim
        trap '$as "$0" stop --force victim' EXIT
        $as "$0" sandbox-probe taken victim
        $as "$0" show victim | grep '^Sandbox:'
        """;

    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-sandbox.").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("own")]
    [InlineData("user")]
    public void A_process_that_was_taken_over_reaches_nothing(string who)
    {
        string[] lines = Run("", who);
        string[] reached = [.. lines.Where(line => line.StartsWith("reached ", StringComparison.Ordinal))];
        Assert.True(reached.Length == 0, string.Join('\n', reached));
        Assert.InRange(lines.Count(line => line.StartsWith("refused ", StringComparison.Ordinal)), 50, 1000);
        Assert.Contains(lines, line => line.StartsWith("Sandbox:", StringComparison.Ordinal) && line.EndsWith("system calls (seccomp)", StringComparison.Ordinal));
    }

    /// <summary>The list is one that succeeds where nothing is in its way: otherwise the test above would say nothing.</summary>
    [Fact]
    public void Without_the_sandbox_it_reaches_much()
    {
        string[] lines = Run("--no-sandbox", "user");
        foreach (string attempt in new[]
        {
            "read another machine's definition", "write another machine's status", "write its own definition", "list the home folder", "ask whether another process is there by a signal",
            "trace another process", "open /proc/PID/environ", "connect to another machine's control socket", "open a TCP socket", "start a program",
        })
        {
            Assert.Contains(lines, line => line.StartsWith($"reached {attempt}", StringComparison.Ordinal));
        }
    }

    private string[] Run(string options, string who)
    {
        if (who == "user" && LodgeProcess.Script("[ $(id -u) != 0 ] || exec setpriv --reuid=65534 --regid=65534 --clear-groups test -x \"$0\"").Status != 0)
        {
            Assert.Skip($"'{LodgeProcess.Program}' lies where an ordinary user cannot execute it");
        }
        File.SetUnixFileMode(_folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute | UnixFileMode.OtherExecute | UnixFileMode.OtherRead);
        Assert.Equal(0, LodgeProcess.Run(["run", "--", "true"]).Status); // the cache is there now
        (int status, string output, string error) = LodgeProcess.Script(Probe, _folder, options, who);
        Assert.True(status == 0, error);
        if (output.Contains("no Landlock", StringComparison.Ordinal))
        {
            Assert.Skip("this host's kernel has no Landlock");
        }
        return output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
    }
}
