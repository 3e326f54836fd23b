namespace Lodge.Management.Host.Inventory;

/// <summary>A pool of huge pages (Linux Documentation/admin-guide/mm/hugetlbpage.rst).</summary>
/// <param name="Size">Bytes of a page.</param>
/// <param name="Total">Pages in the pool.</param>
/// <param name="Free">Of these not in use.</param>
/// <param name="Reserved">Of the free ones promised to someone.</param>
public sealed record HugePagePool(long Size, long Total, long Free, long Reserved);

/// <summary>Merging of equal pages, KSM (Documentation/admin-guide/mm/ksm.rst).</summary>
/// <param name="Running">Whether the host merges now.</param>
/// <param name="Shared">Pages that stand for several.</param>
/// <param name="Sharing">Pages that were saved by that.</param>
/// <param name="PagesToScan">Pages that are looked at each time it wakes.</param>
/// <param name="SleepMilliseconds">How long it sleeps between.</param>
public sealed record PageMerging(bool Running, long Shared, long Sharing, long PagesToScan, long SleepMilliseconds);

/// <summary>A NUMA node.</summary>
/// <param name="Number">Its number.</param>
/// <param name="Cpus">Its CPUs as the kernel writes them.</param>
/// <param name="Total">Bytes of memory.</param>
/// <param name="Free">Bytes of memory that nothing uses.</param>
/// <param name="HugePages">Its part of the pools.</param>
public sealed record NumaNode(int Number, string Cpus, long Total, long Free, IReadOnlyList<HugePagePool> HugePages);

/// <summary>The host's memory, in bytes.</summary>
public sealed record MemoryInventory
{
    /// <summary>All memory.</summary>
    public long Total { get; init; }

    /// <summary>What a new process could have without swapping.</summary>
    public long Available { get; init; }

    /// <summary>Swap.</summary>
    public long SwapTotal { get; init; }

    /// <summary>Swap that is free.</summary>
    public long SwapFree { get; init; }

    /// <summary>What this process may lock (RLIMIT_MEMLOCK); null: without limit. Root is not bound by it.</summary>
    public long? LockLimit { get; init; }

    /// <summary>Pools of huge pages by size.</summary>
    public IReadOnlyList<HugePagePool> HugePages { get; init; } = [];

    /// <summary>When private memory gets transparent huge pages: <c>always</c>, <c>madvise</c>, <c>never</c>; null: the kernel has none.</summary>
    public string? TransparentHugePages { get; init; }

    /// <summary>The same for shared memory.</summary>
    public string? TransparentHugePagesShared { get; init; }

    /// <summary>Merging of equal pages; null: the kernel has none.</summary>
    public PageMerging? Merging { get; init; }

    /// <summary>NUMA nodes.</summary>
    public IReadOnlyList<NumaNode> Nodes { get; init; } = [];

    /// <summary>Looks.</summary>
    public static MemoryInventory Read(HostTree tree)
    {
        IReadOnlyDictionary<string, string> fields = tree.Fields("proc/meminfo");
        const string transparent = "sys/kernel/mm/transparent_hugepage", merging = "sys/kernel/mm/ksm";
        return new MemoryInventory
        {
            Total = Kilobytes(fields, "MemTotal"),
            Available = Kilobytes(fields, "MemAvailable"),
            SwapTotal = Kilobytes(fields, "SwapTotal"),
            SwapFree = Kilobytes(fields, "SwapFree"),
            LockLimit = Limit(tree),
            HugePages = Pools(tree, "sys/kernel/mm/hugepages"),
            TransparentHugePages = tree.Chosen($"{transparent}/enabled"),
            TransparentHugePagesShared = tree.Chosen($"{transparent}/shmem_enabled"),
            Merging = tree.Number($"{merging}/run") is not { } run ? null : new PageMerging(
                run == 1,
                tree.Number($"{merging}/pages_shared") ?? 0,
                tree.Number($"{merging}/pages_sharing") ?? 0,
                tree.Number($"{merging}/pages_to_scan") ?? 0,
                tree.Number($"{merging}/sleep_millisecs") ?? 0),
            Nodes = ReadNodes(tree),
        };
    }

    private static IReadOnlyList<HugePagePool> Pools(HostTree tree, string folder) =>
    [
        .. tree.Names(folder)
            .Select(name => (Name: name, Size: Kilobytes(name)))
            .Where(pool => pool.Size > 0)
            .OrderBy(pool => pool.Size)
            .Select(pool => new HugePagePool(
                pool.Size,
                tree.Number($"{folder}/{pool.Name}/nr_hugepages") ?? 0,
                tree.Number($"{folder}/{pool.Name}/free_hugepages") ?? 0,
                tree.Number($"{folder}/{pool.Name}/resv_hugepages") ?? 0)),
    ];

    // hugepages-2048kB
    private static long Kilobytes(string folder) =>
        folder.StartsWith("hugepages-", StringComparison.Ordinal) && folder.EndsWith("kB", StringComparison.Ordinal) && HostTree.Parse(folder[10..^2]) is { } size and > 0 and < 1L << 40
            ? size << 10
            : 0;

    private static IReadOnlyList<NumaNode> ReadNodes(HostTree tree)
    {
        const string folder = "sys/devices/system/node";
        List<NumaNode> nodes = [];
        foreach (int number in HostTree.List(tree.Text($"{folder}/online")))
        {
            // Node 0 MemTotal:       24684096 kB
            Dictionary<string, string> fields = new(StringComparer.Ordinal);
            foreach ((string name, string value) in tree.Fields($"{folder}/node{number}/meminfo"))
            {
                fields.TryAdd(name.Split(' ')[^1], value);
            }
            nodes.Add(new NumaNode(
                number, tree.Text($"{folder}/node{number}/cpulist") ?? "", Kilobytes(fields, "MemTotal"), Kilobytes(fields, "MemFree"), Pools(tree, $"{folder}/node{number}/hugepages")));
        }
        return nodes;
    }

    private static long? Limit(HostTree tree)
    {
        // Max locked memory         8388608              8388608              bytes
        string? line = tree.Lines("proc/self/limits").FirstOrDefault(l => l.StartsWith("Max locked memory", StringComparison.Ordinal));
        return line is null ? null : HostTree.Parse(line["Max locked memory".Length..]);
    }

    private static long Kilobytes(IReadOnlyDictionary<string, string> fields, string name) =>
        HostTree.Parse(fields.GetValueOrDefault(name)) is { } value and >= 0 and < 1L << 52 ? value << 10 : 0;
}
