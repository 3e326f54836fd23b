using Lodge.Management.Host.Inventory;

namespace Lodge.Management.Tests.Host;

/// <summary>A tree of files as a host would show it.</summary>
internal sealed class RecordedTree : IDisposable
{
    private readonly string _root = Directory.CreateTempSubdirectory("lodge-tree-").FullName;

    public HostTree Tree => new(_root);

    /// <summary>Writes a file; a path that ends in a slash is a folder.</summary>
    public string this[string path]
    {
        set
        {
            string place = Path.Combine(_root, path);
            Directory.CreateDirectory(path.EndsWith('/') ? place : Path.GetDirectoryName(place)!);
            if (!path.EndsWith('/'))
            {
                File.WriteAllText(place, value);
            }
        }
    }

    /// <summary>Makes a symbolic link.</summary>
    public void Link(string path, string target)
    {
        Directory.CreateDirectory(Path.GetDirectoryName(Path.Combine(_root, path))!);
        File.CreateSymbolicLink(Path.Combine(_root, path), target);
    }

    public void Dispose() => Directory.Delete(_root, recursive: true);

    /// <summary>A server with two nodes, AMD processors, cgroup v2, an IOMMU and a device for passthrough (shortened).</summary>
    public static RecordedTree Server()
    {
        var tree = new RecordedTree
        {
            ["proc/cpuinfo"] = """
                processor	: 0
                vendor_id	: AuthenticAMD
                cpu family	: 25
                model		: 1
                model name	: AMD EPYC 7543 32-Core Processor
                stepping	: 1
                microcode	: 0xa0011d5
                flags		: fpu cmov cx8 fxsr mmx syscall sse sse2 cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave svm npt avic x2apic

                processor	: 1
                vendor_id	: Other
                flags		: none

                """,
            ["proc/meminfo"] = "MemTotal:       263856128 kB\nMemFree:        100000000 kB\nMemAvailable:   200000000 kB\nSwapTotal:       8388604 kB\nSwapFree:        8388600 kB\n",
            ["proc/self/limits"] = "Limit                     Soft Limit           Hard Limit           Units     \nMax locked memory         8388608              unlimited            bytes     \n",
            ["proc/self/mountinfo"] = "24 1 0:22 / / rw - ext4 /dev/sda rw\n30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
            ["proc/self/cgroup"] = "0::/user.slice/user-1000.slice/session-3.scope\n",
            ["proc/sys/kernel/osrelease"] = "6.12.41-amd64\n",
            ["proc/version"] = "Linux version 6.12.41-amd64\n",
            ["proc/sys/net/ipv4/ip_forward"] = "1\n",
            ["proc/sys/net/ipv6/conf/all/forwarding"] = "0\n",
            ["etc/os-release"] = "NAME=Debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n",
            ["sys/fs/cgroup/cgroup.controllers"] = "cpuset cpu io memory hugetlb pids\n",
            ["sys/devices/system/cpu/online"] = "0-63\n",
            ["sys/devices/system/cpu/cpu0/topology/thread_siblings_list"] = "0,32\n",
            ["sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"] = "1024\n",
            ["sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"] = "512\n",
            ["sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages"] = "100\n",
            ["sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"] = "4\n",
            ["sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages"] = "4\n",
            ["sys/kernel/mm/transparent_hugepage/enabled"] = "always [madvise] never\n",
            ["sys/kernel/mm/transparent_hugepage/shmem_enabled"] = "always within_size advise [never] deny force\n",
            ["sys/kernel/mm/ksm/run"] = "1\n",
            ["sys/kernel/mm/ksm/pages_shared"] = "10\n",
            ["sys/kernel/mm/ksm/pages_sharing"] = "990\n",
            ["sys/kernel/mm/ksm/pages_to_scan"] = "100\n",
            ["sys/kernel/mm/ksm/sleep_millisecs"] = "20\n",
            ["sys/devices/system/node/online"] = "0-1\n",
            ["sys/devices/system/node/node0/cpulist"] = "0-15,32-47\n",
            ["sys/devices/system/node/node0/meminfo"] = "Node 0 MemTotal:       131000000 kB\nNode 0 MemFree:        50000000 kB\n",
            ["sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"] = "1024\n",
            ["sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages"] = "512\n",
            ["sys/devices/system/node/node1/cpulist"] = "16-31,48-63\n",
            ["sys/module/kvm/parameters/halt_poll_ns"] = "200000\n",
            ["sys/module/kvm_amd/parameters/nested"] = "1\n",
            ["sys/module/kvm_amd/parameters/npt"] = "Y\n",
            ["sys/module/kvm_amd/srcversion"] = "ABCDEF\n",
            ["sys/kernel/iommu_groups/0/"] = "",
            ["sys/kernel/iommu_groups/1/"] = "",
            ["sys/class/net/br0/bridge/"] = "",
            ["sys/class/net/eth0/"] = "",
            ["dev/kvm"] = "",
            ["dev/net/tun"] = "",
            ["dev/vfio/vfio"] = "",
            ["sys/bus/pci/devices/0000:41:00.0/"] = "",
        };
        tree.Link("sys/class/iommu/ivhd0", "../../devices/ivhd0");
        tree.Link("sys/bus/pci/drivers/vfio-pci/0000:41:00.0", "../../devices/0000:41:00.0");
        tree["sys/bus/pci/drivers/vfio-pci/bind"] = "";
        return tree;
    }
}
