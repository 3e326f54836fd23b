namespace Lodge.Management.Host.Inventory;

/// <summary>One of the levels of x86-64 (x86-64 psABI, 3.1.1).</summary>
/// <param name="Name">For example <c>x86-64-v3</c>.</param>
/// <param name="Available">Whether the host has all of it.</param>
/// <param name="Missing">Features that it lacks, by the names that Linux gives them.</param>
public sealed record CpuLevel(string Name, bool Available, IReadOnlyList<string> Missing);

/// <summary>The host's processors.</summary>
public sealed record CpuInventory
{
    // Linux: abm is LZCNT, pni is SSE3.
    private static readonly (string Name, string[] Features)[] s_levels =
    [
        ("x86-64-v1", ["cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2"]),
        ("x86-64-v2", ["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"]),
        ("x86-64-v3", ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]),
        ("x86-64-v4", ["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
    ];

    /// <summary>Model, as it names itself.</summary>
    public string? Model { get; init; }

    /// <summary>Vendor, for example <c>GenuineIntel</c>.</summary>
    public string? Vendor { get; init; }

    /// <summary>Family.</summary>
    public long? Family { get; init; }

    /// <summary>Model number.</summary>
    public long? ModelNumber { get; init; }

    /// <summary>Stepping.</summary>
    public long? Stepping { get; init; }

    /// <summary>Revision of the microcode.</summary>
    public string? Microcode { get; init; }

    /// <summary>Numbers of the CPUs that are online, as the kernel writes them.</summary>
    public string? Online { get; init; }

    /// <summary>How many are online.</summary>
    public int Count { get; init; }

    /// <summary>Threads of a core, where the kernel tells.</summary>
    public int? ThreadsPerCore { get; init; }

    /// <summary>Features by the names that Linux gives them.</summary>
    public IReadOnlyList<string> Features { get; init; } = [];

    /// <summary>Levels of x86-64. Each takes in those before it.</summary>
    public IReadOnlyList<CpuLevel> Levels { get; init; } = [];

    /// <summary>The highest level that the host has, or null.</summary>
    public string? Level => Levels.LastOrDefault(level => level.Available)?.Name;

    /// <summary>Looks.</summary>
    public static CpuInventory Read(HostTree tree)
    {
        IReadOnlyDictionary<string, string> fields = tree.Fields("proc/cpuinfo"); // of the first CPU
        string[] features = [.. (fields.GetValueOrDefault("flags") ?? "").Split(' ', StringSplitOptions.RemoveEmptyEntries).Distinct().Order(StringComparer.Ordinal)];
        string? online = tree.Text("sys/devices/system/cpu/online");
        IReadOnlyList<int> siblings = HostTree.List(tree.Text("sys/devices/system/cpu/cpu0/topology/thread_siblings_list"));
        return new CpuInventory
        {
            Model = fields.GetValueOrDefault("model name"),
            Vendor = fields.GetValueOrDefault("vendor_id"),
            Family = HostTree.Parse(fields.GetValueOrDefault("cpu family")),
            ModelNumber = HostTree.Parse(fields.GetValueOrDefault("model")),
            Stepping = HostTree.Parse(fields.GetValueOrDefault("stepping")),
            Microcode = fields.GetValueOrDefault("microcode"),
            Online = online,
            Count = HostTree.List(online).Count,
            ThreadsPerCore = siblings.Count == 0 ? null : siblings.Count,
            Features = features,
            Levels = LevelsOf(features),
        };
    }

    private static IReadOnlyList<CpuLevel> LevelsOf(string[] features)
    {
        List<CpuLevel> levels = [];
        bool below = features.Length != 0;
        foreach ((string name, string[] needed) in s_levels)
        {
            string[] missing = [.. needed.Except(features)];
            below &= missing.Length == 0;
            levels.Add(new CpuLevel(name, below, missing));
        }
        return levels;
    }
}
