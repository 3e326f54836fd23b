using System.Globalization;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Limits;

/// <summary>
/// The control group of one machine's process, <c>lodge/ID</c> in each tree that has a controller for it. From its making until a process is added, or it is disposed, no command takes it for one of a machine that ended.
/// </summary>
public sealed class MachineGroup : IDisposable
{
    private SafeFileHandle? _hold;
    private readonly ControlGroups _groups;
    private readonly IReadOnlyDictionary<string, ControlGroupPlace> _places;
    private readonly string _name;

    private readonly MachineLimits _limits;

    private MachineGroup(ControlGroups groups, Guid id, MachineLimits limits) => (_groups, _places, _name, _limits) = (groups, groups.Places(), Name(id), limits);

    /// <summary>Makes a machine's group, or takes the one that is there, and sets its limits.</summary>
    /// <param name="groups">The host's groups.</param>
    /// <param name="id">The machine's identity.</param>
    /// <param name="limits">Its limits.</param>
    /// <returns>The group; null where none can be made and nothing is limited.</returns>
    /// <exception cref="ManagementException">A limit is wanted that this host, or this user, cannot set.</exception>
    public static MachineGroup? Create(ControlGroups groups, Guid id, MachineLimits limits)
    {
        MachineGroup group = new(groups, id, limits);
        try
        {
            foreach (ControlGroupPlace place in group._places.Values)
            {
                group.MakeFolder(Path.Combine(place.Folder, ControlGroups.Parent));
            }
            group._hold = groups.Hold(exclusive: false);
            group.Ensure();
            return group._places.Count == 0 ? null : group;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            group.Remove();
            group.Dispose();
            return limits.IsNone ? null : throw new ManagementException($"the machine's limits cannot be set: {e.Message}", e);
        }
        catch
        {
            group.Remove();
            group.Dispose();
            throw;
        }
    }

    /// <summary>Changes the limits of a machine that runs.</summary>
    /// <param name="groups">The host's groups.</param>
    /// <param name="id">The machine's identity.</param>
    /// <param name="limits">All its limits: what is not among them is unlimited from now on.</param>
    /// <exception cref="ManagementException">The machine has no group, or a limit cannot be set.</exception>
    public static void Change(ControlGroups groups, Guid id, MachineLimits limits)
    {
        MachineGroup group = new(groups, id, limits);
        if (group.Processes().Count == 0)
        {
            group.RequireAll(limits);
            throw new ManagementException("it was started outside of the control groups that can be changed here");
        }
        try
        {
            group.Ensure();
            foreach (int process in group.Processes())
            {
                group.Add(process); // a controller that was not there when it was started
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ManagementException($"the machine's limits cannot be set: {e.Message}", e);
        }
    }

    /// <summary>Removes a machine's group when its process has ended.</summary>
    public static void Remove(ControlGroups groups, Guid id) => new MachineGroup(groups, id, MachineLimits.None).Remove();

    /// <summary>Removes all groups without a process: those of machines that ended, or were killed.</summary>
    public static void RemoveEnded(ControlGroups groups)
    {
        using SafeFileHandle? hold = groups.Hold(exclusive: true);
        if (hold is null)
        {
            return; // a machine is being started; another command will do it
        }
        foreach (string folder in groups.Places().Values.Select(place => Path.Combine(place.Folder, ControlGroups.Parent)).Distinct().Where(Directory.Exists))
        {
            foreach (string one in Directory.EnumerateDirectories(folder))
            {
                RemoveFolder(one);
            }
        }
    }

    /// <summary>Puts a process with all its threads into the group.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public void Add(int process)
    {
        foreach (string folder in Folders())
        {
            WriteFile(Path.Combine(folder, "cgroup.procs"), Number(process));
        }
        Dispose();
    }

    /// <inheritdoc/>
    public void Dispose() => _hold?.Dispose();

    /// <summary>Removes the group, if no process is in it.</summary>
    public void Remove()
    {
        foreach (string folder in Folders())
        {
            RemoveFolder(folder);
        }
    }

    private void Ensure()
    {
        Make(_limits);
        Write(_limits);
    }

    /// <summary>The processes in it.</summary>
    internal IReadOnlyCollection<int> Processes() =>
        [.. Folders().SelectMany(folder => ControlGroupHierarchy.Words(Path.Combine(folder, "cgroup.procs"))).Select(word => int.Parse(word, CultureInfo.InvariantCulture)).Where(number => number > 0).Distinct()];

    /// <summary>The group's folder of a controller, or null.</summary>
    internal string? Folder(string controller) => _places.TryGetValue(controller, out ControlGroupPlace place) ? Path.Combine(place.Folder, ControlGroups.Parent, _name) : null;

    private static string Name(Guid id) => id.ToString("d", CultureInfo.InvariantCulture);

    private static string Number(long number) => number.ToString(CultureInfo.InvariantCulture);

    private IEnumerable<string> Folders() => _places.Values.Select(place => Path.Combine(place.Folder, ControlGroups.Parent, _name)).Distinct();

    private void RequireAll(MachineLimits limits)
    {
        Require(limits.CpuShares is not null, "cpu", "--cpu-shares");
        Require(limits.CpuQuota is not null, "cpu", "--cpu-quota");
        Require(limits.CpuSet is not null, "cpuset", "--cpu-set");
        Require(limits.Memory is not null, "memory", "--memory-limit");
        Require(limits.IoWeight is not null, "io", "--io-weight");
        Require(limits.Pids is not null, "pids", "--pids-limit");
    }

    private void Require(bool wanted, string controller, string option)
    {
        if (wanted && !_places.ContainsKey(controller))
        {
            throw new ManagementException($"{option}: {_groups.Missing(controller)}");
        }
    }

    /// <summary>Makes the folders, and on version 2 hands the controllers down to them.</summary>
    private void Make(MachineLimits limits)
    {
        RequireAll(limits);
        foreach (IGrouping<ControlGroupPlace, string> tree in _places.GroupBy(one => one.Value, one => one.Key))
        {
            string parent = Path.Combine(tree.Key.Folder, ControlGroups.Parent), folder = Path.Combine(parent, _name);
            if (tree.Key.Version == 2)
            {
                HandDown(tree.Key.Folder, tree, limits);
                MakeFolder(parent);
                HandDown(parent, tree, limits);
                MakeFolder(folder);
                continue;
            }
            foreach (string one in new[] { parent, folder })
            {
                MakeFolder(one);
                if (tree.Contains("cpuset"))
                {
                    // A group of version 1 takes no process before it has CPUs and memory nodes.
                    Inherit(one, "cpuset.cpus");
                    Inherit(one, "cpuset.mems");
                }
            }
        }
    }

    /// <summary>cgroup-v2, "Controlling Controllers".</summary>
    private static void HandDown(string folder, IEnumerable<string> controllers, MachineLimits limits)
    {
        string file = Path.Combine(folder, "cgroup.subtree_control");
        string[] already = ControlGroupHierarchy.Words(file);
        foreach (string controller in controllers.Where(name => !already.Contains(name)))
        {
            try
            {
                WriteFile(file, "+" + controller);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                if (Wants(limits, controller))
                {
                    throw new ManagementException($"controller '{controller}' cannot be turned on for machines in {folder}: {e.Message}; processes that are in that group itself are in the way (in a container: give it a group with a process-free top)", e);
                }
            }
        }
    }

    private static bool Wants(MachineLimits limits, string controller) => controller switch
    {
        "cpu" => limits.CpuShares is not null || limits.CpuQuota is not null,
        "cpuset" => limits.CpuSet is not null,
        "memory" => limits.Memory is not null,
        "io" => limits.IoWeight is not null,
        _ => limits.Pids is not null,
    };

    private void MakeFolder(string folder)
    {
        if (!Directory.Exists(folder))
        {
            Directory.CreateDirectory(folder);
            _groups.FolderMade?.Invoke(folder);
        }
    }

    private static void Inherit(string folder, string name)
    {
        string file = Path.Combine(folder, name);
        if (File.Exists(file) && File.ReadAllText(file).Trim().Length == 0)
        {
            WriteFile(file, File.ReadAllText(Path.Combine(Path.GetDirectoryName(folder)!, name)).Trim());
        }
    }

    private void Write(MachineLimits limits)
    {
        const int period = 100_000; // microseconds
        if (Folder("cpu") is { } cpu)
        {
            long quota = limits.CpuQuota is { } percent ? (long)percent * (period / 100) : -1;
            int shares = limits.CpuShares ?? 1024;
            if (_places["cpu"].Version == 1)
            {
                Set(cpu, "cpu.shares", Number(shares), limits.CpuShares is not null);
                Set(cpu, "cpu.cfs_period_us", Number(period), limits.CpuQuota is not null);
                Set(cpu, "cpu.cfs_quota_us", Number(quota), limits.CpuQuota is not null);
            }
            else
            {
                // The weight of version 2 is 1 to 10000, others have 100; shares are 2 to 262144, others have 1024. The same proportion to others:
                Set(cpu, "cpu.weight", Number(Math.Clamp((shares * 100L + 512) / 1024, 1, 10_000)), limits.CpuShares is not null);
                Set(cpu, "cpu.max", $"{(quota < 0 ? "max" : Number(quota))} {period}", limits.CpuQuota is not null);
            }
        }
        if (Folder("cpuset") is { } set)
        {
            string cpus = limits.CpuSet is { } chosen ? string.Join(',', chosen) : _places["cpuset"].Version == 1 ? File.ReadAllText(Path.Combine(Path.GetDirectoryName(set)!, "cpuset.cpus")).Trim() : "";
            Set(set, "cpuset.cpus", cpus, limits.CpuSet is not null);
        }
        if (Folder("memory") is { } memory)
        {
            bool one = _places["memory"].Version == 1;
            Set(memory, one ? "memory.limit_in_bytes" : "memory.max", limits.Memory is { } most ? Number(most) : one ? "-1" : "max", limits.Memory is not null);
        }
        if (Folder("pids") is { } pids)
        {
            Set(pids, "pids.max", limits.Pids is { } most ? Number(most) : "max", limits.Pids is not null);
        }
        if (Folder("io") is { } io)
        {
            WriteIo(io, limits.IoWeight);
        }
    }

    private static void WriteIo(string folder, int? weight)
    {
        foreach ((string name, string prefix) in new[] { ("io.weight", "default "), ("io.bfq.weight", ""), ("blkio.weight", ""), ("blkio.bfq.weight", "") })
        {
            if (File.Exists(Path.Combine(folder, name)))
            {
                Set(folder, name, prefix + Number(weight ?? 100), weight is not null);
                return;
            }
        }
        if (weight is not null)
        {
            throw new ManagementException("--io-weight: this host's kernel gives groups no weight: its disks have no scheduler that does (bfq), and there is no io.cost; limit a disk itself: --disk PATH,bps=N,iops=N");
        }
    }

    /// <summary>Writes a limit. One that is not wanted may fail: the controller need not be there.</summary>
    private static void Set(string folder, string name, string value, bool wanted)
    {
        try
        {
            WriteFile(Path.Combine(folder, name), value);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            if (wanted)
            {
                throw new ManagementException($"limit {name} = {value} is refused by the host: {e.Message}", e);
            }
        }
    }

    /// <summary>Writes to a file of the kernel's, in one write, never making one.</summary>
    private static void WriteFile(string path, string text)
    {
        using FileStream file = new(path, FileMode.Truncate, FileAccess.Write, FileShare.ReadWrite, 1);
        file.Write(System.Text.Encoding.ASCII.GetBytes(text));
    }

    private static void RemoveFolder(string folder)
    {
        try
        {
            Directory.Delete(folder);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // It is not there, or a process is in it.
        }
    }
}
