using System.Text.Json.Serialization;
using Lodge.Management.Networks;

namespace Lodge.Management.Host.Inventory;

/// <summary>One thing that an engine needs of its host, and whether it is so.</summary>
/// <param name="Name">What, for example <c>xsave</c>.</param>
/// <param name="Works">Whether it is so; null: not tried, because the processor does not have it.</param>
/// <param name="Detail">What happened instead, or what it is for.</param>
public sealed record EngineCheck(string Name, bool? Works, string Detail);

/// <summary>An engine on this host.</summary>
/// <param name="Name">As <c>--engine</c> has it.</param>
/// <param name="Usable">Whether machines can run on it.</param>
/// <param name="Problem">Why not, in one line; null when usable.</param>
/// <param name="Advice">What to do, or null.</param>
/// <param name="Checks">What was tried.</param>
public sealed record EngineReport(string Name, bool Usable, string? Problem, string? Advice, IReadOnlyList<EngineCheck> Checks)
{
    /// <summary>When the checks were made; null: nothing had to be tried.</summary>
    public DateTimeOffset? Checked { get; init; }

    /// <summary>How long they took in milliseconds.</summary>
    public double? CheckMilliseconds { get; init; }
}

/// <summary>What <c>lodge host</c> shows.</summary>
public sealed record HostInventory
{
    /// <summary>Name of the host.</summary>
    public string? HostName { get; init; }

    /// <summary>The kernel's release.</summary>
    public string? Kernel { get; init; }

    /// <summary>Distribution.</summary>
    public string? System { get; init; }

    /// <summary>The engines, the one first that <c>--engine auto</c> takes.</summary>
    public IReadOnlyList<EngineReport> Engines { get; init; } = [];

    /// <summary>Processors.</summary>
    public required CpuInventory Cpu { get; init; }

    /// <summary>Memory.</summary>
    public required MemoryInventory Memory { get; init; }

    /// <summary>Hardware virtualization, IOMMU.</summary>
    public required VirtualizationInventory Virtualization { get; init; }

    /// <summary>Control groups.</summary>
    public required CgroupInventory Cgroups { get; init; }

    /// <summary>Networks.</summary>
    public required NetworkInventory Network { get; init; }

    /// <summary>Packages.</summary>
    public IReadOnlyList<HostPackage> Packages { get; init; } = [];

    /// <summary>Looks at this host.</summary>
    /// <param name="engines">What the engines say of themselves.</param>
    /// <param name="userModeProblem">Why there is no user-mode NAT, or null.</param>
    public static HostInventory OfHost(IReadOnlyList<EngineReport> engines, string? userModeProblem)
    {
        HostInventory host = Read(HostTree.OfHost, HostProgram.Exists);
        return host with
        {
            HostName = Environment.MachineName,
            Engines = engines,
            Network = host.Network with
            {
                UserMode = userModeProblem is null,
                UserModeProblem = userModeProblem,
                Rules = Environment.IsPrivilegedProcess && HostProgram.Exists("nft") ? HostProgram.Run("nft", ["list", "tables"]).Status == 0 : null,
                Networks = [.. NetworkStore.OfHost().Definitions().Select(network => network.Name)],
            },
            Packages = PackageInventory.Read(),
        };
    }

    /// <summary>Looks at a tree.</summary>
    /// <param name="hasProgram">Whether a program is installed.</param>
    public static HostInventory Read(HostTree tree, Func<string, bool> hasProgram)
    {
        CpuInventory cpu = CpuInventory.Read(tree);
        return new HostInventory
        {
            Kernel = tree.Text("proc/sys/kernel/osrelease"),
            System = tree.Lines("etc/os-release").FirstOrDefault(line => line.StartsWith("PRETTY_NAME=", StringComparison.Ordinal))?["PRETTY_NAME=".Length..].Trim('"'),
            Cpu = cpu,
            Memory = MemoryInventory.Read(tree),
            Virtualization = VirtualizationInventory.Read(tree, cpu),
            Cgroups = CgroupInventory.Read(tree),
            Network = NetworkInventory.Read(tree, hasProgram),
        };
    }
}

/// <summary>JSON of what <c>lodge host --json</c> prints.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(HostInventory))]
public sealed partial class HostJson : JsonSerializerContext;
