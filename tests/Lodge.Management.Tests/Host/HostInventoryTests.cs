using System.Text.Json;
using Lodge.Management.Host.Inventory;
using Xunit;

namespace Lodge.Management.Tests.Host;

public sealed class HostInventoryTests
{
    private static HostInventory Read(HostTree tree) => HostInventory.Read(tree, program => program != "dnsmasq");

    [Fact]
    public void A_server()
    {
        using RecordedTree tree = RecordedTree.Server();
        HostInventory host = Read(tree.Tree);
        Assert.Equal(("6.12.41-amd64", "Debian GNU/Linux 13 (trixie)"), (host.Kernel, host.System));
        Assert.Equal(("AuthenticAMD", "AMD EPYC 7543 32-Core Processor", 25L, "0xa0011d5"), (host.Cpu.Vendor, host.Cpu.Model, host.Cpu.Family, host.Cpu.Microcode));
        Assert.Equal((64, 2, "x86-64-v3"), (host.Cpu.Count, host.Cpu.ThreadsPerCore, host.Cpu.Level));
        Assert.Equal(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"], host.Cpu.Levels[3].Missing);
        Assert.DoesNotContain("none", host.Cpu.Features); // of the second processor
    }

    [Fact]
    public void Its_memory()
    {
        using RecordedTree tree = RecordedTree.Server();
        MemoryInventory memory = Read(tree.Tree).Memory;
        Assert.Equal((263856128L << 10, 200000000L << 10, 8388604L << 10, 8388608L), (memory.Total, memory.Available, memory.SwapTotal, memory.LockLimit));
        Assert.Equal([new HugePagePool(2 << 20, 1024, 512, 100), new HugePagePool(1 << 30, 4, 4, 0)], memory.HugePages);
        Assert.Equal(("madvise", "never"), (memory.TransparentHugePages, memory.TransparentHugePagesShared));
        Assert.Equal(new PageMerging(true, 10, 990, 100, 20), memory.Merging);
        Assert.Equal(["0-15,32-47", "16-31,48-63"], memory.Nodes.Select(node => node.Cpus));
        Assert.Equal((131000000L << 10, 50000000L << 10, 1), (memory.Nodes[0].Total, memory.Nodes[0].Free, memory.Nodes[0].HugePages.Count));
        Assert.Equal(0, memory.Nodes[1].Total);
    }

    [Fact]
    public void Its_virtualization()
    {
        using RecordedTree tree = RecordedTree.Server();
        VirtualizationInventory host = Read(tree.Tree).Virtualization;
        Assert.Equal(("AMD-V", true, false, true, true), (host.Extension, host.NestedPaging, host.Virtual, host.Device, host.Nested));
        Assert.Equal(["kvm", "kvm_amd"], host.Modules);
        Assert.Equal((2, true), (host.IommuGroups, host.Vfio));
        Assert.Equal(["ivhd0"], host.Iommus);
        Assert.Equal(["0000:41:00.0"], host.VfioDevices);
    }

    [Fact]
    public void Its_networks()
    {
        using RecordedTree tree = RecordedTree.Server();
        NetworkInventory network = Read(tree.Tree).Network;
        Assert.Equal((true, true, false), (network.Taps, network.Forwarding4, network.Forwarding6));
        Assert.Equal(["br0"], network.Bridges);
        Assert.Equal(["dnsmasq"], network.MissingPrograms);
    }

    [Theory]
    [InlineData("30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "v2", "")]
    [InlineData("1 2 0:3 / /c/memory rw - cgroup cgroup rw,memory\n1 2 0:3 / /c/cpu rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n", "v1", "cpu,cpuacct,memory")]
    [InlineData("1 2 0:3 / /c/memory rw - cgroup cgroup rw,memory\n9 2 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n5 2 0:4 / /c/s rw - cgroup cgroup rw,xattr,name=systemd\n", "hybrid", "memory")]
    [InlineData("1 2 0:3 / /proc rw - proc proc rw\n", "none", "")]
    [InlineData("- - -\n- cgroup2\nx - cgroup\n", "none", "")]
    public void Control_groups(string mounts, string kind, string legacy)
    {
        using var tree = new RecordedTree { ["proc/self/mountinfo"] = mounts, ["sys/fs/cgroup/cgroup.controllers"] = "cpu io memory\n" };
        CgroupInventory groups = CgroupInventory.Read(tree.Tree);
        Assert.Equal((kind, legacy), (groups.Kind, string.Join(',', groups.LegacyControllers)));
        Assert.Equal(kind is "v2" or "hybrid" ? ["cpu", "io", "memory"] : [], groups.Controllers);
    }

    [Fact]
    public void A_host_without_proc_and_sys_is_described_as_empty()
    {
        using var tree = new RecordedTree();
        HostInventory host = Read(tree.Tree);
        Assert.Null(host.Kernel);
        Assert.Null(host.Cpu.Level);
        Assert.Null(host.Memory.Merging);
        Assert.Equal(("none", 0, false), (host.Cgroups.Kind, host.Cpu.Count, host.Virtualization.Device));
        Assert.NotEmpty(JsonSerializer.Serialize(host, HostJson.Default.HostInventory));
    }

    [Fact]
    public void Odd_files_are_no_errors()
    {
        string[] odd = ["", "\0\0\0", "-5", "99999999999999999999999", "4294967295-4294967296", "0-99999999999", ":::", "[", "]x[", "0-", "-", new string('9', 70_000), new string('\n', 9000), "MemTotal: -1 kB\nMemTotal"];
        string[] files;
        using (RecordedTree server = RecordedTree.Server())
        {
            files = ["proc/cpuinfo", "proc/meminfo", "proc/self/limits", "proc/self/mountinfo", "proc/self/cgroup", "proc/version", "etc/os-release", "sys/devices/system/cpu/online",
                "sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "sys/kernel/mm/transparent_hugepage/enabled", "sys/kernel/mm/ksm/run", "sys/devices/system/node/online",
                "sys/devices/system/node/node0/meminfo", "sys/module/kvm_amd/parameters/nested", "proc/sys/net/ipv4/ip_forward"];
            foreach (string text in odd)
            {
                foreach (string file in files)
                {
                    server[file] = text;
                }
                HostInventory host = Read(server.Tree);
                Assert.InRange(host.Cpu.Count, 0, HostTree.MaximumEntries);
                Assert.InRange(host.Memory.Nodes.Count, 0, HostTree.MaximumEntries);
                Assert.True(host.Memory.Total >= 0);
                Assert.NotEmpty(KvmIdentity.Read(server.Tree, "1"));
            }
        }
        using var folders = new RecordedTree();
        foreach (string file in files)
        {
            folders[file + "/"] = "";
        }
        folders["sys/kernel/mm/hugepages/hugepages-xkB/"] = "";
        folders["sys/kernel/mm/hugepages/hugepages--5kB/"] = "";
        folders["sys/kernel/mm/hugepages/other/"] = "";
        folders.Link("sys/module/kvm_loop", "kvm_loop");
        Assert.Null(Read(folders.Tree).Kernel);
        Assert.DoesNotContain(Read(folders.Tree).Memory.HugePages, pool => pool.Size != 2 << 20);
    }

    [Fact]
    public void A_long_file_is_read_in_part()
    {
        using var tree = new RecordedTree { ["proc/cpuinfo"] = "model name\t: X\nflags\t: sse\n" + new string('x', 3 << 20) };
        Assert.InRange(tree.Tree.Text("proc/cpuinfo")!.Length, 1, 4 * HostTree.MaximumFile);
        Assert.Equal("X", CpuInventory.Read(tree.Tree).Model);
    }

    [Fact]
    public void A_verdict_on_KVM_depends_on_kernel_microcode_module_and_version()
    {
        using RecordedTree tree = RecordedTree.Server();
        string before = KvmIdentity.Read(tree.Tree, "1");
        Assert.Equal(before, KvmIdentity.Read(tree.Tree, "1"));
        Assert.NotEqual(before, KvmIdentity.Read(tree.Tree, "2"));
        tree["sys/module/kvm/parameters/halt_poll_ns"] = "0\n"; // no change of what works
        Assert.Equal(before, KvmIdentity.Read(tree.Tree, "1"));
        foreach ((string path, string text) in ((string, string)[])[("sys/module/kvm_amd/parameters/npt", "N"), ("proc/version", "Linux 7"), ("sys/module/kvm_amd/srcversion", "0"), ("sys/module/kvm_intel/srcversion", "1")])
        {
            tree[path] = text;
            string after = KvmIdentity.Read(tree.Tree, "1");
            Assert.NotEqual(before, after);
            before = after;
        }
    }

    [Theory]
    [InlineData("0-3,8", new[] { 0, 1, 2, 3, 8 })]
    [InlineData(" 5 ", new[] { 5 })]
    [InlineData("3,1,1", new[] { 1, 3 })]
    [InlineData("2-1,x,-,7", new[] { 7 })]
    [InlineData("", new int[0])]
    [InlineData(null, new int[0])]
    public void Lists_of_numbers(string? text, int[] numbers) => Assert.Equal(numbers, HostTree.List(text));

    [Fact]
    public void Packages_are_found_by_any_of_their_files()
    {
        IReadOnlyList<HostPackage> packages = PackageInventory.Read(program => program == "genisoimage", library => library == "libslirp.so.0");
        Assert.Equal(["libslirp0", "xorriso"], packages.Where(package => package.Installed).Select(package => package.Name));
        Assert.Contains(packages, package => package is { Name: "dnsmasq-base", Installed: false });
    }

    [Fact]
    public void This_host_has_a_processor_and_memory()
    {
        HostInventory host = HostInventory.OfHost([], "none here");
        Assert.NotNull(host.Cpu.Level);
        Assert.True(host.Memory.Total > 0 && host.Memory.Available > 0 && host.Cpu.Count > 0);
        Assert.Equal((false, "none here"), (host.Network.UserMode, host.Network.UserModeProblem));
    }
}
