using System.Globalization;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>What of the host a machine gets: merged pages, huge pages, CPUs; and the choice of engine.</summary>
public class HostResourcesTests
{
    private const string Merging = "/sys/kernel/mm/ksm", Pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";

    [Fact]
    public void Two_machines_share_pages()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess && Directory.Exists(Merging) && File.Exists("/proc/self/ksm_stat"), "needs root and a kernel with KSM");
        const string script = """
            set -e
            cd "$(mktemp -d)"
            mkfifo a b
            : >one; : >two
            for name in run pages_to_scan sleep_millisecs; do cat /sys/kernel/mm/ksm/$name >$name; done
            restore() { for name in run pages_to_scan sleep_millisecs; do cat $name >/sys/kernel/mm/ksm/$name; done; rm -rf "$PWD"; }
            trap restore EXIT
            echo 50000 >/sys/kernel/mm/ksm/pages_to_scan; echo 1 >/sys/kernel/mm/ksm/sleep_millisecs; echo 1 >/sys/kernel/mm/ksm/run
            machine() { exec "$0" run --engine translate --mergeable --memory 256M --net none -- sh -c 'echo up; read word; echo "$word"'; }
            machine <a >one & first=$!
            machine <b >two & second=$!
            exec 3>a 4>b
            until grep -q up one && grep -q up two; do kill -0 $first $second; sleep 0.1; done
            merged=0
            for i in $(seq 2400); do # ksmd has what tests beside leave of the processor
                merged=$(sed -n 's/^ksm_merging_pages //p' /proc/$first/ksm_stat)
                [ "$merged" -lt 2000 ] || break
                sleep 0.1
            done
            echo one >&3; echo two >&4
            wait $first $second
            cat one two
            echo "merged $merged"
            """;
        (int status, string output, string error) = LodgeProcess.Script(script);
        Assert.Equal((0, ""), (status, error));
        Assert.StartsWith("up\none\nup\ntwo\nmerged ", output, StringComparison.Ordinal);
        int merged = int.Parse(output.AsSpan(output.LastIndexOf(' ') + 1).Trim(), CultureInfo.InvariantCulture);
        Assert.True(merged >= 2000, $"{merged} pages were merged");
    }

    [Fact]
    public void A_machine_on_huge_pages_of_the_pool()
    {
        Assert.SkipUnless(Environment.IsPrivilegedProcess && File.Exists($"{Pool}/nr_hugepages"), "needs root to fill the pool");
        const int pages = 64;
        string before = File.ReadAllText($"{Pool}/nr_hugepages");
        try
        {
            File.WriteAllText($"{Pool}/nr_hugepages", $"{int.Parse(before, CultureInfo.InvariantCulture) + pages}");
            Assert.SkipUnless(int.Parse(File.ReadAllText($"{Pool}/free_hugepages"), CultureInfo.InvariantCulture) >= pages, "the host has no huge pages left");
            (int status, string output, _) = LodgeProcess.Run(["run", "--hugepages", "--memory", "128M", "--net", "none", "--", "sh", "-c", "dd if=/dev/zero of=/tmp/x bs=1M count=16 2>/dev/null; echo up"]);
            Assert.Equal((0, "up\n"), (status, output));
        }
        finally
        {
            File.WriteAllText($"{Pool}/nr_hugepages", before);
        }
    }

    [Fact]
    public void Huge_pages_that_are_not_there_are_one_line()
    {
        (int status, _, string error) = LodgeProcess.Run(["run", "--hugepages", "--memory", "1T", "--net", "none", "--", "true"]);
        Assert.Equal(1, status);
        Assert.Contains("524288 huge pages of 2 MiB are needed", Assert.Single(error.TrimEnd().Split('\n')), StringComparison.Ordinal);
    }

    [Fact]
    public void Locked_transparent_and_bound()
    {
        (int status, string output, string error) = LodgeProcess.Run(["run", "--pin", "0", "--cpus", "2", "--hugepages=transparent", "--memory", "128M", "--net", "none", "--", "nproc"]);
        Assert.SkipWhen(error.Contains("turned off on this host", StringComparison.Ordinal), error);
        Assert.Equal((0, "2\n", ""), (status, output, error));
        (status, output, error) = LodgeProcess.Run(["run", "--memory-lock", "--memory", "128M", "--net", "none", "--", "nproc"]);
        Assert.SkipWhen(error.Contains("RLIMIT_MEMLOCK", StringComparison.Ordinal), error);
        Assert.Equal((0, "1\n", ""), (status, output, error));
    }

    [Fact]
    public void The_host_is_shown_and_the_engine_follows_from_it()
    {
        (int status, string output, _) = LodgeProcess.Run(["host", "--json"]);
        Assert.Equal(0, status);
        using var host = System.Text.Json.JsonDocument.Parse(output);
        System.Text.Json.JsonElement first = host.RootElement.GetProperty("engines")[0], second = host.RootElement.GetProperty("engines")[1];
        Assert.True(first.GetProperty("usable").GetBoolean());
        if (first.GetProperty("name").GetString() == "kvm")
        {
            return;
        }
        (status, _, string error) = LodgeProcess.Run(["run", "--engine", "kvm", "--", "true"]);
        Assert.Equal(1, status);
        Assert.Contains(second.GetProperty("problem").GetString()!, Assert.Single(error.TrimEnd().Split('\n')), StringComparison.Ordinal);
    }
}
