namespace Lodge.Management.Host.Inventory;

/// <summary>Control groups (Linux Documentation/admin-guide/cgroup-v2.rst and cgroup-v1).</summary>
public sealed record CgroupInventory
{
    /// <summary><c>v2</c>, <c>v1</c>, <c>hybrid</c> (v1, and v2 without controllers or with the rest of them), or <c>none</c>.</summary>
    public string Kind { get; init; } = "none";

    /// <summary>Controllers of v2.</summary>
    public IReadOnlyList<string> Controllers { get; init; } = [];

    /// <summary>Controllers of v1 that are mounted.</summary>
    public IReadOnlyList<string> LegacyControllers { get; init; } = [];

    /// <summary>Where v2 is mounted, or null.</summary>
    public string? Mount { get; init; }

    /// <summary>This process' group of v2, or null.</summary>
    public string? Own { get; init; }

    /// <summary>Looks.</summary>
    public static CgroupInventory Read(HostTree tree)
    {
        string? mount = null;
        SortedSet<string> legacy = new(StringComparer.Ordinal);
        foreach (string line in tree.Lines("proc/self/mountinfo"))
        {
            // ... mount point ... - type source options of the file system (proc_pid_mountinfo(5))
            string[] words = line.Split(' ');
            int dash = Array.IndexOf(words, "-");
            if (dash < 5 || words.Length < dash + 4)
            {
                continue;
            }
            if (words[dash + 1] == "cgroup2")
            {
                mount ??= words[4];
            }
            else if (words[dash + 1] == "cgroup")
            {
                legacy.UnionWith(words[dash + 3].Split(',').Where(option => option is not ("rw" or "ro" or "xattr" or "clone_children") && !option.Contains('=')));
            }
        }
        string[] controllers = mount is null ? [] : (tree.Text($"{mount.TrimStart('/')}/cgroup.controllers") ?? "").Split(' ', StringSplitOptions.RemoveEmptyEntries);
        return new CgroupInventory
        {
            Kind = (mount, legacy.Count) switch
            {
                (null, 0) => "none",
                (null, _) => "v1",
                (_, 0) => "v2",
                _ => "hybrid",
            },
            Controllers = controllers,
            LegacyControllers = [.. legacy],
            Mount = mount,
            Own = tree.Lines("proc/self/cgroup").FirstOrDefault(line => line.StartsWith("0::", StringComparison.Ordinal))?[3..],
        };
    }
}
