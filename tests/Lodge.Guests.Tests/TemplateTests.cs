using System.Globalization;
using System.Text.Json;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary><c>lodge run</c> of the default system as a clone of a template.</summary>
[Collection("guests")]
public class TemplateTests
{
    private const string Placement = "grep -m 1 ' _stext$' /proc/kallsyms"; // the kernel is at another address after each boot, but not in clones

    private static string Store
    {
        get
        {
            string? root = Environment.GetEnvironmentVariable("XDG_CACHE_HOME");
            return Path.Combine(string.IsNullOrEmpty(root) ? Path.Combine(Environment.GetEnvironmentVariable("HOME")!, ".cache") : root, "lodge", "templates");
        }
    }

    [Fact]
    public void Thirty_clones_in_a_row_have_their_own_input_output_and_status()
    {
        Ready();
        string? place = null;
        for (int i = 0; i < 30; i++)
        {
            (int status, string output, string error) = LodgeProcess.Run(["run", "--", "sh", "-c", $"cat; echo problem {i} >/dev/stderr; {Placement}; exit {i}"], $"line {i}\n");
            Assert.Equal($"problem {i}\n", error);
            Assert.Equal(i, status);
            Assert.StartsWith($"line {i}\n", output, StringComparison.Ordinal);
            Assert.Equal(place ??= output.Split('\n')[1], output.Split('\n')[1]);
        }
        Assert.Contains("_stext", place, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Clones_at_the_same_time_are_apart()
    {
        Ready();
        string[] inputs = [.. Enumerable.Range(0, 3).Select(i => string.Concat(Enumerable.Range(0, 20_000).Select(n => $"{i} {n}\n")))];
        (int Status, string Output, string Error)[] ended = await Task.WhenAll(inputs.Select((input, i) => Task.Run(
            () => LodgeProcess.Run(["run", "--", "sh", "-c", $"echo {i} >/tmp/mine; cat; cat /tmp/mine; exit {i}"], input), TestContext.Current.CancellationToken)));
        for (int i = 0; i < inputs.Length; i++)
        {
            Assert.Equal((i, ""), (ended[i].Status, ended[i].Error));
            Assert.Equal($"{inputs[i]}{i}\n", ended[i].Output);
        }
    }

    [Fact]
    public void What_a_clone_writes_stays_in_it()
    {
        string memory = Path.Combine(Store, Ready(), "memory");
        byte[] before = File.ReadAllBytes(memory);
        (int status, string output, _) = LodgeProcess.Run(["run", "--", "sh", "-c", "dd if=/dev/urandom of=/tmp/f bs=1M count=150 2>/dev/null; echo changed >/etc/profile; wc -c </tmp/f"]);
        Assert.Equal((0, "157286400\n"), (status, output));
        Assert.True(before.AsSpan().SequenceEqual(File.ReadAllBytes(memory)));
        Assert.Contains("PS1", LodgeProcess.Run(["run", "--", "cat", "/etc/profile"]).Output, StringComparison.Ordinal);
    }

    [Fact]
    public void Random_numbers_differ_between_clones_and_the_clock_is_right()
    {
        Ready();
        HashSet<string> numbers = [];
        for (int i = 0; i < 5; i++)
        {
            long before = DateTimeOffset.UtcNow.ToUnixTimeSeconds();
            (int status, string output, _) = LodgeProcess.Run(["run", "--", "sh", "-c", "date +%s; head -c 16 /dev/urandom | hexdump -e '16/1 \"%02x\" \"\\n\"'; cat /proc/sys/kernel/random/uuid"]);
            long after = DateTimeOffset.UtcNow.ToUnixTimeSeconds();
            string[] lines = output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
            Assert.Equal((0, 3), (status, lines.Length));
            Assert.InRange(long.Parse(lines[0], CultureInfo.InvariantCulture), before, after);
            Assert.True(numbers.Add(lines[1]) && numbers.Add(lines[2]), $"{output} again");
        }
    }

    [Fact]
    public void Memory_that_a_clone_gives_back_and_takes_again_is_sound()
    {
        Ready();
        // The kernel reports free memory to the host some seconds after it was freed; the page cache of the template's boot is dropped too.
        (int status, string output, _) = LodgeProcess.Run([
            "run", "--", "sh", "-c",
            "echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/urandom of=/tmp/a bs=1M count=100 2>/dev/null; md5sum </tmp/a >/tmp/sum; cp /tmp/a /tmp/b; rm /tmp/a; sleep 5; "
            + "dd if=/dev/zero of=/tmp/zero bs=1M count=100 2>/dev/null; md5sum </tmp/b | cmp - /tmp/sum && md5sum </tmp/zero; ls /bin | wc -l >/dev/null && uname",
        ]);
        Assert.Equal((0, "2f282b84e7e608d5852449ed940bfc51  -\nLinux\n"), (status, output)); // the sum of 100 MiB of zeros
    }

    [Fact]
    public void Other_machines_have_other_templates()
    {
        Assert.Equal("2\n", LodgeProcess.Run(["run", "--cpus", "2", "--", "nproc"]).Output);
        (int status, string output, _) = LodgeProcess.Run(["run", "--cpus", "2", "--", "sh", "-c", "nproc; (echo a & echo b & wait) | sort"]);
        Assert.Equal((0, "2\na\nb\n"), (status, output));
        int memory = int.Parse(LodgeProcess.Run(["run", "--memory", "300M", "--", "sh", "-c", "grep MemTotal /proc/meminfo | tr -dc 0-9"]).Output, CultureInfo.InvariantCulture);
        Assert.InRange(memory, 200_000, 300 << 10);
    }

    [Fact]
    public void Without_a_template_each_machine_boots()
    {
        Ready();
        string clone = LodgeProcess.Run(["run", "--", "sh", "-c", Placement]).Output;
        string[] places = [.. Enumerable.Range(0, 2).Select(_ => LodgeProcess.Run(["run", "--no-template", "--", "sh", "-c", Placement]).Output)];
        Assert.All(places, place => Assert.Contains("_stext", place, StringComparison.Ordinal));
        Assert.False(places[0] == clone && places[1] == clone);
    }

    [Fact]
    public void A_damaged_template_is_thrown_away()
    {
        string name = Ready();
        string state = Path.Combine(Store, name, "state");
        byte[] contents = File.ReadAllBytes(state);
        contents[contents.Length / 2] ^= 0x10;
        File.WriteAllBytes(state, contents);
        (int status, string output, _) = LodgeProcess.Run(["run", "--", "echo", "fine"]);
        Assert.Equal((0, "fine\n"), (status, output));
        Assert.Equal(name, Ready());
        Assert.NotEqual(contents, File.ReadAllBytes(state));
    }

    [Fact]
    public void A_clone_has_the_network()
    {
        Ready();
        (int status, string output, _) = LodgeProcess.Run(["run", "--", "sh", "-c", "ping -c 1 -q 10.0.2.2 | grep -c ' 0% packet loss'"]);
        Assert.SkipWhen(output.Contains("unreachable", StringComparison.Ordinal), "no libslirp0");
        Assert.Equal((0, "1\n"), (status, output));
    }

    /// <summary>Makes the template of the plain machine when it is not there, and names it.</summary>
    private static string Ready()
    {
        (int status, string output, string error) = LodgeProcess.Run(["template", "create"]);
        Assert.True(status == 0, error);
        string name = output.Trim();
        using JsonDocument list = JsonDocument.Parse(LodgeProcess.Run(["template", "list", "--json"]).Output);
        Assert.Contains(list.RootElement.EnumerateArray(), t => t.GetProperty("key").GetString() == name && t.GetProperty("processors").GetInt32() == 1);
        return name;
    }
}
