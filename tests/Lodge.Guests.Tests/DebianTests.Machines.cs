using System.Text.Json;
using Xunit;

namespace Lodge.Guests.Tests;

public sealed partial class DebianTests
{
    /// <summary>A Debian in the background as a new user would try it: commands and files by its agent, its console for two, properly turned off, its disk kept.</summary>
    [Fact]
    public void AMachineInTheBackgroundIsReachedByItsAgent()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        try
        {
            Assert.Equal("web\n", Ok("create", "debian", "--name", "web", "--memory", "768M", "--max-cpus", "2", "--net", "none"));
            Ok("start", "web");
            Ok("wait", "web", "--for", "agent", "--timeout", "9m");
            Assert.Equal("Linux web\n", Ok("exec", "web", "uname", "-sn"));
            Assert.Equal((3, "", "wrong\n"), image.Run("exec", "web", "sh", "-c", "echo wrong >&2; exit 3"));
            Assert.Equal((0, "typed b\n", ""), image.RunWithInput("typed", "exec", "-i", "-e", "A=b", "web", "--", "sh", "-c", "echo $(cat) $A"));

            byte[] data = new byte[5_000_001];
            new Random(7).NextBytes(data);
            string file = Path.Combine(image.Folder, "copied"), back = Path.Combine(image.Folder, "copied-back");
            File.WriteAllBytes(file, data);
            Ok("copy", file, "web:/root/");
            Assert.Equal("5000001\n", Ok("exec", "web", "stat", "-c", "%s", "/root/copied"));
            Ok("copy", "web:/root/copied", back);
            Assert.Equal(data, File.ReadAllBytes(back));
            (int status, _, string error) = image.Run("copy", "web:/nix", back);
            Assert.Equal(1, status);
            Assert.Contains("No such file", error);
            Assert.Equal(data, File.ReadAllBytes(back)); // a failure leaves the target alone
            (status, _, error) = image.Run("copy", "web:/root", back);
            Assert.Equal(1, status);
            Assert.Contains("guest-file-read", error); // a folder

            Assert.Equal("1\n", Ok("exec", "web", "nproc"));
            Ok("edit", "web", "--cpus", "2");
            Assert.Equal("2\n", Ok("exec", "web", "sh", "-c", "for i in $(seq 300); do [ $(nproc) = 2 ] && break; sleep 0.1; echo 1 >/sys/devices/system/cpu/cpu1/online; done 2>/dev/null; nproc"));
            Assert.Contains("--max-cpus 2 is less than the 3 CPUs", image.Run("edit", "web", "--cpus", "3").Error);
            const string Available = "$(awk '/MemAvailable/ {print $2}' /proc/meminfo)";
            int before = int.Parse(Ok("exec", "web", "sh", "-c", $"echo {Available}"), System.Globalization.CultureInfo.InvariantCulture);
            Ok("edit", "web", "--memory", "512M");
            Assert.Equal("less\n", Ok("exec", "web", "sh", "-c", $"for i in $(seq 600); do [ {Available} -lt {before - 200_000} ] && break; sleep 0.1; done; [ {Available} -lt {before - 200_000} ] && echo less"));

            Ok("pause", "web");
            Assert.Contains("its guest agent cannot answer", image.Run("exec", "web", "true").Error);
            Ok("resume", "web");
            Ok("exec", "web", "sh", "-c", "echo kept >/root/file; sync");

            Assert.Contains("--freeze is for --no-memory", image.Run("snapshot", "create", "web", "--freeze").Error);
            Ok("snapshot", "create", "web", "frozen", "--no-memory", "--freeze");
            Ok("exec", "web", "sh", "-c", "echo thawed >/root/thawed; sync"); // writes go on
            // It goes on where it was, with the clock that its agent sets.
            Ok("exec", "web", "sh", "-c", "echo here >/run/here; date -s '2001-01-01'");
            Ok("save", "web");
            Ok("restore", "web");
            Assert.Equal("here\n", Ok("exec", "web", "cat", "/run/here"));
            Assert.Equal("now\n", Ok("exec", "web", "sh", "-c", "for i in $(seq 600); do [ $(date +%Y) -gt 2001 ] && echo now && break; sleep 0.1; done"));
            Ok("stop", "web", "--timeout", "9m");
            using (JsonDocument shown = JsonDocument.Parse(Ok("show", "web", "--json")))
            {
                Assert.Equal("the guest turned its power off", shown.RootElement.GetProperty("end").GetProperty("reason").GetString());
            }
            Assert.Contains("debian", Ok("logs", "web"), StringComparison.OrdinalIgnoreCase);

            // What a snapshot left that was killed is not in the way of a linked clone.
            string folder = Path.Combine(image.Folder, "lodge", "machines", "web"), left = Path.Combine(folder, "work", "snapshots", "0badc0de");
            Ok("snapshot", "remove", "web", "frozen");
            Directory.CreateDirectory(left);
            Ok("image", "snapshot", "-c", "lodge-0badc0de", Path.Combine(folder, "disk.qcow2"));
            Ok("clone", "--linked", "web", "other");
            Assert.False(Directory.Exists(left));
            Ok("remove", "other");
            Ok("start", "web");
            Ok("wait", "web", "--for", "agent", "--timeout", "9m");
            Assert.Equal("kept\n", Ok("exec", "web", "cat", "/root/file"));
        }
        finally
        {
            image.Run("remove", "--force", "web");
        }
    }

    private string Ok(params string[] arguments)
    {
        (int status, string output, string error) = image.Run(arguments);
        Assert.True(status == 0, $"lodge {string.Join(' ', arguments)} ended with {status}: {output}{error}");
        return output;
    }
}
