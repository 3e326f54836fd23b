using Lodge.Cli.Host;
using Lodge.Management.Host.Inventory;
using Xunit;

namespace Lodge.Cli.Tests;

public class HostTextTests
{
    private static readonly HostInventory s_host = new()
    {
        HostName = "server",
        Kernel = "6.12",
        Engines =
        [
            new("translate", true, null, null, []),
            new("kvm", false, "it fails at int3", "do something", [new("ring 0", true, "x"), new("int3", false, "no emulation"), new("movbe", null, "not offered to guests")]) { Checked = DateTimeOffset.UnixEpoch, CheckMilliseconds = 12.3 },
        ],
        Cpu = new CpuInventory { Model = "CPU", Levels = [new("x86-64-v1", true, []), new("x86-64-v2", false, ["popcnt"])] },
        Memory = new MemoryInventory { Total = 8L << 30, Available = 4L << 30, HugePages = [new(2 << 20, 10, 7, 2)], Merging = new(true, 1, 3, 100, 20) },
        Virtualization = new VirtualizationInventory(),
        Cgroups = new CgroupInventory { Kind = "v2", Controllers = ["cpu"] },
        Network = new NetworkInventory { UserMode = false, UserModeProblem = "no library", Taps = true, Privileged = true, MissingPrograms = ["nft"] },
        Packages = [new("libslirp0", "a network", false), new("apt", "the default system", true)],
    };

    [Fact]
    public void Says_what_is_there_and_what_is_missing()
    {
        string text = HostText.Write(s_host);
        Assert.Contains("translate (software): usable; --engine auto takes it\n", text, StringComparison.Ordinal);
        Assert.Contains("kvm (hardware): not usable: it fails at int3\n", text, StringComparison.Ordinal);
        Assert.Contains("  int3    fails: no emulation\n", text, StringComparison.Ordinal);
        Assert.Contains("  movbe   not offered to guests\n", text, StringComparison.Ordinal);
        Assert.Contains("in 12 ms; again with --probe\n", text, StringComparison.Ordinal);
        Assert.Contains("x86-64-v1; x86-64-v2 lacks popcnt\n", text, StringComparison.Ordinal);
        Assert.Contains("2 MiB: 10, 5 free\n", text, StringComparison.Ordinal);
        Assert.Contains("on: 1 pages stand for 4, 12 KiB saved", text, StringComparison.Ordinal);
        Assert.Contains("--net user: not usable: no library\n", text, StringComparison.Ordinal);
        Assert.Contains("not usable: nft missing, see below", text, StringComparison.Ordinal);
        Assert.Contains("apt-get install libslirp0\n", text, StringComparison.Ordinal);
    }

    [Fact]
    public void Lines_are_not_longer_than_a_terminal()
    {
        HostInventory host = s_host with { Engines = [new("kvm", false, string.Join(' ', Enumerable.Repeat("word", 100)), null, [])] };
        Assert.All(HostText.Write(host).Split('\n'), line => Assert.True(line.Length <= 120, line));
    }
}
