using System.Globalization;
using System.Text.Json;
using Xunit;

namespace Lodge.Guests.Tests;

public sealed partial class DebianTests
{
    /// <summary>Clones at the same time by default; LODGE_CLONES=100 makes as many, one after the other.</summary>
    private static int Clones => int.TryParse(Environment.GetEnvironmentVariable("LODGE_CLONES"), NumberStyles.None, CultureInfo.InvariantCulture, out int count) ? count : 3;

    /// <summary>Runs of an image are clones of its template: each another machine, with a disk of its own on what the template's machine had written.</summary>
    [Fact]
    public void RunsOfAnImageAreClonesOfItsTemplate()
    {
        Assert.SkipWhen(image.Missing is not null, image.Missing ?? "");
        Ok("template", "prune", "--all"); // of the tests before
        // The first machine in the background has it made, and goes on with it.
        try
        {
            (int made, string printed, string told) = image.Run("run", "-d", "--rm", "debian", "--name", "first");
            Assert.True(made == 0 && printed == "first\n", $"status {made}: {printed}{told}");
            Assert.Contains("booting debian once", told, StringComparison.Ordinal);
            using JsonDocument shown = JsonDocument.Parse(Ok("show", "--json", "first"));
            Assert.True(shown.RootElement.GetProperty("definition").GetProperty("fromTemplate").GetBoolean());
        }
        finally
        {
            image.Run("remove", "--force", "first"); // it would run on in a folder that is removed
        }
        string name = Ok("template", "create", "debian").Trim();
        using (JsonDocument listed = JsonDocument.Parse(Ok("template", "list", "--json")))
        {
            Assert.Equal(1, listed.RootElement.GetArrayLength());
        }
        using (JsonDocument shown = JsonDocument.Parse(Ok("template", "show", name)))
        {
            Assert.Equal("debian:trixie", shown.RootElement.GetProperty("system").GetString());
        }
        string disk = Path.Combine(image.Cache, "lodge", "templates", name, "disk.qcow2");
        byte[] before = File.ReadAllBytes(disk);

        const string Boot = "cat /proc/sys/kernel/random/boot_id"; // of the kernel's start: clones of one template have the same
        (int status, string output, string error) = image.RunWithInput(
            "typed\n", "run", "debian", "--", "sh", "-c", $"cat; {Boot}; cat /etc/machine-id /proc/sys/kernel/random/uuid; date +%s; echo mine >/root/mine; sync; echo wrong >&2; exit 7");
        long now = DateTimeOffset.UtcNow.ToUnixTimeSeconds();
        Assert.True(status == 7, $"status {status}: {output}{error}");
        Assert.Equal("wrong\n", error);
        string[] first = output.Split('\n');
        Assert.Equal("typed", first[0]);
        Assert.InRange(long.Parse(first[4], CultureInfo.InvariantCulture), now - 60, now);

        string[] second = Ok("run", "debian", "--", "sh", "-c", $"test -e /root/mine && echo there; {Boot}; cat /etc/machine-id /proc/sys/kernel/random/uuid; ls /sys/class/net | wc -l").Split('\n');
        Assert.Equal(first[1], second[0]);
        Assert.NotEqual(first[2], second[1]);
        Assert.NotEqual(first[3], second[2]);
        Assert.Equal(before, File.ReadAllBytes(disk));

        // In the background, several at once: each has its name and answers, also when the template has gone.
        string[] machines = [.. Enumerable.Range(0, Clones).Select(i => $"clone{i}")];
        try
        {
            foreach (string machine in machines)
            {
                Ok("run", "-d", "--rm", "debian", "--name", machine);
            }
            Assert.Contains(name, Ok("template", "prune", "--all"));
            HashSet<string> identities = [];
            foreach (string machine in machines)
            {
                string[] answer = Ok("exec", "--wait", "300", machine, "--", "sh", "-c", $"hostname; {Boot}; cat /etc/machine-id; echo mine >/root/mine; sync; cat /root/mine").Split('\n');
                Assert.Equal((machine, first[1], "mine"), (answer[0], answer[1], answer[3]));
                Assert.True(identities.Add(answer[2]) && answer[2] != first[2], "a machine ID comes twice");
            }
        }
        finally
        {
            foreach (string machine in machines)
            {
                image.Run("stop", "--force", machine);
            }
        }
    }
}
