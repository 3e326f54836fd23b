using System.Diagnostics;
using Lodge.Management.Limits;
using Xunit;

namespace Lodge.Management.Tests.Limits;

/// <summary>Control groups in trees of plain files, as hosts with version 1, version 2 and both have them.</summary>
public sealed class ControlGroupsTests : IDisposable
{
    private static readonly Guid _id = new("0badcafe-0000-4000-8000-000000000001");
    private readonly string _root = Directory.CreateTempSubdirectory("lodge-groups").FullName;

    public void Dispose() => Directory.Delete(_root, recursive: true);

    [Fact]
    public void VersionOneForRoot()
    {
        ControlGroups groups = One(privileged: true);
        MachineGroup group = MachineGroup.Create(groups, _id, new MachineLimits { CpuQuota = 150, CpuShares = 512, CpuSet = [1], Memory = 1 << 30, Pids = 500, IoWeight = 20 })!;
        Assert.Equal("150000", Read("sys/fs/cgroup/cpu/lodge", "cpu.cfs_quota_us"));
        Assert.Equal("512", Read("sys/fs/cgroup/cpu/lodge", "cpu.shares"));
        Assert.Equal("1", Read("sys/fs/cgroup/cpuset/lodge", "cpuset.cpus"));
        Assert.Equal("0", Read("sys/fs/cgroup/cpuset/lodge", "cpuset.mems"));
        Assert.Equal("1073741824", Read("sys/fs/cgroup/memory/lodge", "memory.limit_in_bytes"));
        Assert.Equal("500", Read("sys/fs/cgroup/pids/lodge", "pids.max"));
        Assert.Equal("20", Read("sys/fs/cgroup/blkio/lodge", "blkio.bfq.weight"));
        group.Add(99);
        Assert.Equal("99", Read("sys/fs/cgroup/memory/lodge", "cgroup.procs"));
        Assert.Equal("99", Read("sys/fs/cgroup/pids/lodge", "cgroup.procs"));

        // Changed while it runs: what is not limited any more has the values of a fresh group.
        MachineGroup.Change(groups, _id, new MachineLimits { CpuQuota = 50 });
        Assert.Equal("50000", Read("sys/fs/cgroup/cpu/lodge", "cpu.cfs_quota_us"));
        Assert.Equal("1024", Read("sys/fs/cgroup/cpu/lodge", "cpu.shares"));
        Assert.Equal("0-3", Read("sys/fs/cgroup/cpuset/lodge", "cpuset.cpus"));
        Assert.Equal("-1", Read("sys/fs/cgroup/memory/lodge", "memory.limit_in_bytes"));
        Assert.Equal("max", Read("sys/fs/cgroup/pids/lodge", "pids.max"));
    }

    [Fact]
    public void AGroupThatHasNoProcessYetIsNotTakenForOneOfAnEndedMachine()
    {
        ControlGroups groups = Real("cpu");
        Guid id = Guid.NewGuid();
        using MachineGroup group = MachineGroup.Create(groups, id, MachineLimits.None)!;
        MachineGroup.RemoveEnded(groups);
        Assert.True(Directory.Exists(group.Folder("cpu")));
        group.Dispose();
        // Unless something is being started on this host right now, it goes.
        for (int i = 0; i < 1000 && Directory.Exists(group.Folder("cpu")); i++)
        {
            MachineGroup.RemoveEnded(groups);
            Thread.Sleep(10);
        }
        Assert.False(Directory.Exists(group.Folder("cpu")));
    }

    [Fact]
    public void VersionOneForAUserIsRefusedWithWhatToDo()
    {
        ControlGroups groups = One(privileged: false);
        Assert.Null(MachineGroup.Create(groups, _id, MachineLimits.None));
        string message = Assert.Throws<ManagementException>(() => MachineGroup.Create(groups, _id, new MachineLimits { Memory = 1 << 30 })).Message;
        Assert.StartsWith("--memory-limit: ", message, StringComparison.Ordinal);
        Assert.Contains("as root", message, StringComparison.Ordinal);
    }

    [Fact]
    public void VersionTwoForRoot()
    {
        ControlGroups groups = Two(privileged: true, own: "/user.slice/session-1.scope");
        Assert.NotNull(MachineGroup.Create(groups, _id, new MachineLimits { CpuQuota = 150, CpuShares = 2048, CpuSet = [0, 2], Memory = 1 << 30, Pids = 500, IoWeight = 20 }));
        Assert.Equal("150000 100000", Read("sys/fs/cgroup/lodge", "cpu.max"));
        Assert.Equal("200", Read("sys/fs/cgroup/lodge", "cpu.weight"));
        Assert.Equal("0,2", Read("sys/fs/cgroup/lodge", "cpuset.cpus"));
        Assert.Equal("1073741824", Read("sys/fs/cgroup/lodge", "memory.max"));
        Assert.Equal("500", Read("sys/fs/cgroup/lodge", "pids.max"));
        Assert.Equal("default 20", Read("sys/fs/cgroup/lodge", "io.weight"));
    }

    [Fact]
    public void VersionTwoForAUserIsBeneathWhatIsDelegated()
    {
        string user = "user.slice/user-1000.slice/user@1000.service", scope = user + "/app.slice/run-7.scope";
        ControlGroups groups = Two(privileged: false, own: "/" + scope, writable: user);
        Assert.NotNull(MachineGroup.Create(groups, _id, new MachineLimits { CpuQuota = 50 }));
        Assert.Equal("50000 100000", Read($"sys/fs/cgroup/{user}/lodge", "cpu.max"));
        Assert.Contains("io", Assert.Throws<ManagementException>(() => MachineGroup.Create(Two(false, "/" + scope, user, "cpu memory"), _id, new MachineLimits { IoWeight = 5 })).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void ASessionThatIsNotDelegatedIsToldHow()
    {
        ControlGroups groups = Two(privileged: false, own: "/user.slice/user-1000.slice/session-1.scope");
        Assert.Null(MachineGroup.Create(groups, _id, MachineLimits.None));
        Assert.Contains("systemd-run --user --scope", Assert.Throws<ManagementException>(() => MachineGroup.Create(groups, _id, new MachineLimits { Memory = 1 << 30 })).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void InAHybridEachControllerIsWhereItIs()
    {
        File.Create(Folder("proc/self") + "/x").Dispose();
        Write("proc/self/cgroup", "2:memory:/\n1:name=systemd:/\n0::/\n");
        Write("proc/self/mountinfo", "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
        Fill(Folder("sys/fs/cgroup/unified"), "cpu pids");
        Fill(Folder("sys/fs/cgroup/memory"), "");
        Folder("sys/fs/cgroup/systemd");
        ControlGroups groups = ControlGroups.Read(_root, true, _ => true);
        groups.FolderMade = folder => Fill(folder, folder.Contains("unified", StringComparison.Ordinal) ? "cpu pids" : "");
        Assert.NotNull(MachineGroup.Create(groups, _id, new MachineLimits { CpuQuota = 50, Memory = 1 << 30 }));
        Assert.Equal("50000 100000", Read("sys/fs/cgroup/unified/lodge", "cpu.max"));
        Assert.Equal("1073741824", Read("sys/fs/cgroup/memory/lodge", "memory.limit_in_bytes"));
        Assert.Contains("no control group controller 'cpuset'", Assert.Throws<ManagementException>(() => MachineGroup.Create(groups, _id, new MachineLimits { CpuSet = [0] })).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void MountsOfAPartOfTheTreeAreUnderstood()
    {
        // A container that sees its own group as the tree's top, with a space in the path.
        Write("proc/self/cgroup", "3:memory:/docker/a b/inner\n");
        Write("proc/self/mountinfo", "35 31 0:32 /docker/a\\040b /my\\040groups rw shared:1 - cgroup cgroup rw,memory\n");
        Fill(Folder("my groups"), "");
        Fill(Folder("my groups/inner"), "");
        ControlGroupHierarchy tree = Assert.Single(ControlGroupHierarchy.Read(_root));
        Assert.Equal(Path.Combine(_root, "my groups/inner"), tree.Own);
        Assert.Equal(["memory"], tree.Controllers);
    }

    [Fact]
    public async Task QuotaHoldsABusyProcess()
    {
        ControlGroups groups = Real("cpu", "cpuacct");
        Guid id = Guid.NewGuid();
        MachineGroup group = MachineGroup.Create(groups, id, new MachineLimits { CpuQuota = 50 })!;
        using Process busy = Process.Start(new ProcessStartInfo("/bin/sh", ["-c", "read go; while :; do :; done"]) { RedirectStandardInput = true })!;
        try
        {
            group.Add(busy.Id);
            busy.StandardInput.WriteLine();
            // CPU time over wall time of the same interval; on a host that has less for it the share can only be smaller, so that several intervals are looked at and the best counts.
            double best = 0;
            for (int i = 0; i < 6 && best < 0.45; i++)
            {
                (TimeSpan used, Stopwatch time) = (Used(busy), Stopwatch.StartNew());
                await Task.Delay(2000, TestContext.Current.CancellationToken);
                double share = (Used(busy) - used) / time.Elapsed;
                Assert.True(share <= 0.6, $"it had {share:p0} of a CPU");
                best = Math.Max(best, share);
            }
            if (best < 0.4)
            {
                Assert.Skip($"this host had no half CPU to give: {best:p0}");
            }
            // Changed while it runs.
            MachineGroup.Change(groups, id, new MachineLimits { CpuQuota = 20 });
            (TimeSpan before, Stopwatch second) = (Used(busy), Stopwatch.StartNew());
            await Task.Delay(2000, TestContext.Current.CancellationToken);
            Assert.InRange((Used(busy) - before) / second.Elapsed, 0, 0.3);
        }
        finally
        {
            busy.Kill();
            busy.WaitForExit();
            Remove(groups, group, id);
        }
    }

    [Fact]
    public void MemoryLimitEndsAProcessThatTakesMore()
    {
        ControlGroups groups = Real("memory");
        Guid id = Guid.NewGuid();
        MachineGroup group = MachineGroup.Create(groups, id, new MachineLimits { Memory = 64 << 20 })!;
        // tail keeps what has no line end: 40 MiB is possible, 200 is not.
        using Process small = Take("40M"), large = Take("200M");
        try
        {
            foreach (Process one in new[] { small, large })
            {
                group.Add(one.Id);
                one.StandardInput.WriteLine();
                one.WaitForExit();
            }
            Assert.Equal(0, small.ExitCode);
            Assert.NotEqual(0, large.ExitCode);
        }
        finally
        {
            Remove(groups, group, id);
        }

        static Process Take(string size) => Process.Start(new ProcessStartInfo("/bin/sh", ["-c", $"read go; head -c {size} /dev/zero | tail | wc -c | grep -qv '^0$'"]) { RedirectStandardInput = true })!;
    }

    private static TimeSpan Used(Process process)
    {
        process.Refresh();
        return process.TotalProcessorTime;
    }

    private static ControlGroups Real(params string[] controllers)
    {
        if (!Environment.IsPrivilegedProcess)
        {
            Assert.Skip("needs root");
        }
        ControlGroups groups = ControlGroups.OfHost();
        if (!groups.Places().ContainsKey(controllers[0]))
        {
            Assert.Skip($"this host has no controller {controllers[0]} that can be used here");
        }
        return groups;
    }

    private static void Remove(ControlGroups groups, MachineGroup group, Guid id)
    {
        // A process that was killed leaves its group a moment later.
        for (int i = 0; i < 200 && group.Processes().Count != 0; i++)
        {
            Thread.Sleep(10);
        }
        MachineGroup.Remove(groups, id);
        Assert.All(groups.Places().Keys, controller => Assert.False(Directory.Exists(group.Folder(controller))));
    }

    private ControlGroups One(bool privileged)
    {
        string[] controllers = ["cpu", "cpuset", "memory", "pids", "blkio"];
        Write("proc/self/cgroup", string.Concat(controllers.Select((name, i) => $"{i + 1}:{name}:/\n")) + "0::/\n");
        Write("proc/self/mountinfo", string.Concat(controllers.Select((name, i) => $"{30 + i} 23 0:{30 + i} / /sys/fs/cgroup/{name} rw,relatime - cgroup cgroup rw,{name}\n")));
        foreach (string name in controllers)
        {
            Fill(Folder($"sys/fs/cgroup/{name}"), "");
            File.WriteAllText(Path.Combine(_root, $"sys/fs/cgroup/{name}/cpuset.cpus"), "0-3\n");
            File.WriteAllText(Path.Combine(_root, $"sys/fs/cgroup/{name}/cpuset.mems"), "0\n");
        }
        ControlGroups groups = ControlGroups.Read(_root, privileged, _ => privileged);
        groups.FolderMade = folder => Fill(folder, "");
        return groups;
    }

    private ControlGroups Two(bool privileged, string own, string? writable = null, string controllers = "cpuset cpu io memory pids")
    {
        Write("proc/self/cgroup", $"0::{own}\n");
        Write("proc/self/mountinfo", "30 23 0:30 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n");
        string folder = Path.Combine(_root, "sys/fs/cgroup");
        Fill(Folder("sys/fs/cgroup"), controllers);
        foreach (string part in own.Split('/', StringSplitOptions.RemoveEmptyEntries))
        {
            folder = Path.Combine(folder, part);
            Directory.CreateDirectory(folder);
            Fill(folder, controllers);
        }
        string? top = writable is null ? null : Path.Combine(_root, "sys/fs/cgroup", writable);
        ControlGroups groups = ControlGroups.Read(_root, privileged, path => privileged || (top is not null && (path + "/").StartsWith(top + "/", StringComparison.Ordinal)));
        groups.FolderMade = made => Fill(made, controllers);
        return groups;
    }

    private static void Fill(string folder, string controllers)
    {
        foreach (string name in new[]
        {
            "cgroup.procs", "cgroup.subtree_control", "cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.weight", "cpu.max", "cpuset.cpus", "cpuset.mems", "memory.limit_in_bytes", "memory.max", "pids.max",
            folder.Contains("blkio", StringComparison.Ordinal) ? "blkio.bfq.weight" : "io.weight",
        })
        {
            File.WriteAllText(Path.Combine(folder, name), "");
        }
        File.WriteAllText(Path.Combine(folder, "cgroup.controllers"), controllers + "\n");
    }

    private string Folder(string path) => Directory.CreateDirectory(Path.Combine(_root, path)).FullName;

    private void Write(string path, string text)
    {
        Folder(Path.GetDirectoryName(path)!);
        File.WriteAllText(Path.Combine(_root, path), text);
    }

    private string Read(string folder, string file) => File.ReadAllText(Path.Combine(_root, folder, _id.ToString(), file)).Trim();
}
