using System.Globalization;
using System.Text;
using Lodge.Management.Host.Inventory;

namespace Lodge.Cli.Host;

/// <summary>An inventory as <c>lodge host</c> prints it.</summary>
internal static class HostText
{
    private const int Column = 16, Width = 120;

    // Features that matter to guests or to how fast they run; all of them are in the JSON.
    private static readonly string[] s_notable =
    [
        "aes", "pclmulqdq", "sha_ni", "vaes", "gfni", "rdrand", "rdseed", "adx", "erms", "fsrm", "avx512f", "avx512vl", "avx_vnni", "amx_tile", "pku", "smep", "smap", "umip", "la57", "pcid",
        "invpcid", "x2apic", "tsc_deadline_timer", "constant_tsc", "nonstop_tsc", "pdpe1gb", "ept", "vpid", "npt", "avic", "sev",
    ];

    /// <summary>Writes it.</summary>
    public static string Write(HostInventory host)
    {
        StringBuilder text = new();
        Line(text, "Host", string.Join(", ", new[] { host.HostName, host.System, host.Kernel is { } kernel ? $"Linux {kernel}" : null }.OfType<string>()));
        Engines(text, host.Engines);
        Cpu(text, host.Cpu);
        Virtualization(text, host.Virtualization);
        Memory(text, host.Memory);
        Cgroups(text, host.Cgroups);
        Network(text, host.Network);
        Packages(text, host.Packages);
        return text.ToString();
    }

    private static void Engines(StringBuilder text, IReadOnlyList<EngineReport> engines)
    {
        for (int i = 0; i < engines.Count; i++)
        {
            EngineReport engine = engines[i];
            string name = engine.Name == "kvm" ? "kvm (hardware)" : engine.Name == "translate" ? "translate (software)" : engine.Name;
            string choice = i == 0 && engine.Usable ? "usable; --engine auto takes it" : engine.Usable ? "usable" : $"not usable: {engine.Problem}";
            Line(text, "Engine", $"{name}: {choice}");
            if (engine.Advice is { } advice)
            {
                Line(text, "", advice);
            }
            if (engine.Checks.Count == 0)
            {
                continue;
            }
            int width = engine.Checks.Max(check => check.Name.Length);
            foreach (EngineCheck check in engine.Checks)
            {
                string verdict = check.Works switch
                {
                    true => "works",
                    false => $"fails: {check.Detail}",
                    null => check.Detail,
                };
                Line(text, "", $"  {check.Name.PadRight(width)}  {verdict}");
            }
            if (engine.Checked is { } time)
            {
                Line(text, "", string.Create(CultureInfo.InvariantCulture, $"  tried {time.ToLocalTime():yyyy-MM-dd HH:mm} in {engine.CheckMilliseconds ?? 0:f0} ms; again with --probe"));
            }
        }
    }

    private static void Cpu(StringBuilder text, CpuInventory cpu)
    {
        string threads = cpu.ThreadsPerCore is > 1 and { } count ? $", {count} threads a core" : "";
        Line(text, "CPU", $"{cpu.Model ?? "unknown"}, {cpu.Count} online ({cpu.Online ?? "?"}){threads}");
        Line(text, "", $"{cpu.Vendor ?? "unknown vendor"}, family {cpu.Family}, model {cpu.ModelNumber}, stepping {cpu.Stepping}, microcode {cpu.Microcode ?? "unknown"}");
        CpuLevel? next = cpu.Levels.FirstOrDefault(level => !level.Available);
        Line(text, "Level", $"{cpu.Level ?? "unknown"}{(next is null ? "" : $"; {next.Name} lacks {string.Join(' ', next.Missing)}")}");
        Line(text, "Features", string.Join(' ', s_notable.Where(cpu.Features.Contains)));
    }

    private static void Virtualization(StringBuilder text, VirtualizationInventory host)
    {
        Line(text, "Virtualization", $"{host.Extension ?? "no VT-x or AMD-V"}{(host.NestedPaging ? " with nested paging" : "")}{(host.Virtual ? "; this host is a virtual machine" : "")}"
            + $"; {(host.Device ? "/dev/kvm is there" : "no /dev/kvm")}{(host.Modules.Count == 0 ? "" : $" ({string.Join(", ", host.Modules)})")}");
        Line(text, "Nested", host.Nested switch
        {
            true => "guests can virtualize",
            false => "guests cannot virtualize; load the module with nested=1",
            null => "guests cannot virtualize",
        });
        Line(text, "IOMMU", host.Iommus.Count == 0
            ? "none: no device can be passed through"
            : $"{string.Join(", ", host.Iommus)}, {host.IommuGroups} groups; vfio {(host.Vfio ? "is there" : "is not loaded")}"
                + (host.VfioDevices.Count == 0 ? "" : $", devices {string.Join(", ", host.VfioDevices)}"));
    }

    private static void Memory(StringBuilder text, MemoryInventory memory)
    {
        Line(text, "Memory", $"{Size(memory.Total)}, {Size(memory.Available)} available; {(memory.SwapTotal == 0 ? "no swap" : $"swap {Size(memory.SwapTotal)}, {Size(memory.SwapFree)} free")}; "
            + $"--memory-lock up to {(memory.LockLimit is { } limit && !Environment.IsPrivilegedProcess ? Size(limit) : "all")}");
        foreach (HugePagePool pool in memory.HugePages)
        {
            Line(text, "Huge pages", $"{Size(pool.Size)}: {(pool.Total == 0 ? "none in the pool" : $"{pool.Total}, {Math.Max(0, pool.Free - pool.Reserved)} free")}");
        }
        Line(text, "", $"transparent: {memory.TransparentHugePages ?? "not in this kernel"}; of shared memory: {memory.TransparentHugePagesShared ?? "not in this kernel"}");
        Line(text, "Page merging", memory.Merging switch
        {
            null => "not in this kernel",
            { Running: true } merging => $"on: {merging.Shared} pages stand for {merging.Shared + merging.Sharing}, {Size(merging.Sharing * 4096)} saved; {merging.PagesToScan} pages every {merging.SleepMilliseconds} ms",
            _ => "off; as root: echo 1 > /sys/kernel/mm/ksm/run",
        });
        foreach (NumaNode node in memory.Nodes)
        {
            string pools = string.Join("", node.HugePages.Where(pool => pool.Total != 0).Select(pool => $", {pool.Free} of {pool.Total} pages of {Size(pool.Size)} free"));
            Line(text, "NUMA node", $"{node.Number}: CPUs {node.Cpus}, {Size(node.Total)}, {Size(node.Free)} free{pools}");
        }
    }

    private static void Cgroups(StringBuilder text, CgroupInventory groups) => Line(text, "Control groups", groups.Kind switch
    {
        "none" => "not mounted",
        _ => groups.Kind
            + (groups.Controllers.Count == 0 ? "" : $"; v2: {string.Join(' ', groups.Controllers)}")
            + (groups.LegacyControllers.Count == 0 ? "" : $"; v1: {string.Join(' ', groups.LegacyControllers)}"),
    });

    private static void Network(StringBuilder text, NetworkInventory network)
    {
        Line(text, "Network", $"--net user: {(network.UserMode == true ? "usable" : $"not usable: {network.UserModeProblem}")}");
        string bridges = (network.Privileged, network.Taps, network.MissingPrograms.Count) switch
        {
            (_, false, _) => "not usable: no /dev/net/tun (modprobe tun)",
            (_, _, > 0) => $"not usable: {string.Join(", ", network.MissingPrograms)} missing, see below",
            (false, _, _) => "needs root",
            _ when network.Rules == false => "not usable: this kernel has no nftables (modprobe nf_tables)",
            _ => "usable",
        };
        Line(text, "", $"lodge network, taps, bridges: {bridges}; forwarding IPv4 {Switch(network.Forwarding4)}, IPv6 {Switch(network.Forwarding6)}");
        if (network.Networks.Count != 0)
        {
            Line(text, "", $"networks: {string.Join(", ", network.Networks)}");
        }
        if (network.Bridges.Count != 0)
        {
            Line(text, "", $"bridges: {string.Join(", ", network.Bridges)}");
        }
    }

    private static void Packages(StringBuilder text, IReadOnlyList<HostPackage> packages)
    {
        HostPackage[] missing = [.. packages.Where(package => !package.Installed)];
        if (missing.Length == 0)
        {
            Line(text, "Packages", "all that Lodge can use are installed");
            return;
        }
        foreach (HostPackage package in missing)
        {
            Line(text, "Missing", $"{package.Name}: {package.For}");
        }
        Line(text, "To install", $"apt-get install {string.Join(' ', missing.Select(package => package.Name))}");
    }

    private static void Line(StringBuilder text, string name, string value)
    {
        string label = name.Length == 0 ? "" : name + ":";
        foreach (string line in Wrap(value))
        {
            text.Append(label.PadRight(Column)).Append(line).Append('\n');
            label = "";
        }
    }

    private static IEnumerable<string> Wrap(string value)
    {
        while (value.Length > Width - Column && value.LastIndexOf(' ', Width - Column) is > Column and int cut)
        {
            yield return value[..cut];
            value = value[(cut + 1)..];
        }
        yield return value;
    }

    private static string Switch(bool? on) => on switch
    {
        true => "on",
        false => "off",
        null => "unknown",
    };

    private static string Size(long bytes) => bytes switch
    {
        >= 1L << 40 => string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 40):0.#} TiB"),
        >= 1L << 30 => string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 30):0.#} GiB"),
        >= 1L << 20 => string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 20):0.#} MiB"),
        _ => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1024.0:0.#} KiB"),
    };
}
