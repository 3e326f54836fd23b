using System.Runtime.InteropServices;
using Lodge.Management.Host;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Limits;

/// <summary>The control groups of a host, of version 1, version 2 or both, as far as this process may make some.</summary>
public sealed partial class ControlGroups
{
    /// <summary>The group that holds the machines' groups.</summary>
    internal const string Parent = "lodge";

    /// <summary>Controllers that limits need.</summary>
    internal static readonly string[] Used = ["cpu", "cpuset", "memory", "io", "pids"];

    private readonly IReadOnlyList<ControlGroupHierarchy> _hierarchies;
    private readonly bool _privileged;
    private readonly Func<string, bool> _mayWrite;

    private ControlGroups(IReadOnlyList<ControlGroupHierarchy> hierarchies, bool privileged, Func<string, bool> mayWrite) =>
        (_hierarchies, _privileged, _mayWrite) = (hierarchies, privileged, mayWrite);

    /// <summary>Those of this host.</summary>
    public static ControlGroups OfHost() => Read("/", Environment.IsPrivilegedProcess, MayWrite);

    /// <summary>Those of a tree of files.</summary>
    /// <param name="root">Folder that stands for <c>/</c>.</param>
    /// <param name="privileged">Whether groups are made at the top of a tree rather than where they were delegated.</param>
    /// <param name="mayWrite">Whether this process may write a file or folder.</param>
    internal static ControlGroups Read(string root, bool privileged, Func<string, bool> mayWrite) => new(ControlGroupHierarchy.Read(root), privileged, mayWrite);

    /// <summary>Told of each folder that is made. In tests, where no kernel fills it.</summary>
    internal Action<string>? FolderMade { get; set; }

    /// <summary>Where the groups of machines are, by controller (version 2's names: <c>io</c> stands for <c>blkio</c>); only controllers that can be used.</summary>
    internal IReadOnlyDictionary<string, ControlGroupPlace> Places()
    {
        Dictionary<string, ControlGroupPlace> places = new(StringComparer.Ordinal);
        foreach (ControlGroupHierarchy tree in _hierarchies.OrderBy(tree => tree.Version))
        {
            if (Base(tree) is not { } folder)
            {
                continue;
            }
            IEnumerable<string> offered = tree.Version == 1 ? tree.Controllers : ControlGroupHierarchy.Words(Path.Combine(folder, "cgroup.controllers"));
            foreach (string controller in offered.Select(name => name == "blkio" ? "io" : name).Where(Used.Contains))
            {
                places.TryAdd(controller, new ControlGroupPlace(tree.Version, folder));
            }
        }
        return places;
    }

    /// <summary>
    /// Keeps empty groups from being removed, for one that is made and has no process yet; or, exclusive, keeps them from being made. The lock is of the folder that all Lodge's groups of a host, or of a user, lie in.
    /// </summary>
    /// <returns>The lock; null when there is no such folder, or for an exclusive one when groups are being made.</returns>
    internal SafeFileHandle? Hold(bool exclusive)
    {
        if (Places().Values.Select(place => place.Folder).Order(StringComparer.Ordinal).FirstOrDefault() is not { } folder || Path.Combine(folder, Parent) is var parent && !Directory.Exists(parent))
        {
            return null;
        }
        SafeFileHandle handle = HostSystemCalls.OpenFolder(parent);
        while (!HostSystemCalls.TryLock(handle, exclusive))
        {
            if (exclusive)
            {
                handle.Dispose();
                return null;
            }
            Thread.Sleep(1); // groups of ended machines are being removed
        }
        return handle;
    }

    /// <summary>What to do about a controller that cannot be used.</summary>
    internal string Missing(string controller)
    {
        string name = controller == "io" ? "io (blkio)" : controller;
        ControlGroupHierarchy? two = _hierarchies.FirstOrDefault(tree => tree.Version == 2);
        bool offered = _hierarchies.Any(tree => tree.Controllers.Contains(controller) || (controller == "io" && tree.Controllers.Contains("blkio")));
        if (!offered)
        {
            return $"this host has no control group controller '{name}' (see /proc/cgroups; boot with cgroup_enable={controller} if the kernel has it)";
        }
        if (_privileged)
        {
            return $"the control groups of controller '{name}' cannot be changed here (a container without its own?); run on the host itself";
        }
        return two is null || !two.Controllers.Contains(controller)
            ? $"controller '{name}' is not delegated to this user; start the machine as root, or boot the host with systemd.unified_cgroup_hierarchy=1"
            : Base(two) is null
                ? "this session's control group is not delegated to this user; start the machine with: systemd-run --user --scope lodge start ..."
                : $"controller '{name}' is not delegated to this user; delegate it as root: systemctl set-property user@{Uid()}.service Delegate=yes, or Delegate=cpu cpuset io memory pids in a drop-in of user@.service, and log in anew";
    }

    /// <summary>Where groups may be made in a tree: its top for the privileged; else the topmost group, from this process' own upwards, that is this user's.</summary>
    private string? Base(ControlGroupHierarchy tree)
    {
        if (_privileged)
        {
            return _mayWrite(tree.MountPoint) ? tree.MountPoint : null;
        }
        string? topmost = null;
        for (string folder = tree.Own; folder.Length >= tree.MountPoint.Length; folder = Path.GetDirectoryName(folder)!)
        {
            if (!_mayWrite(folder) || !_mayWrite(Path.Combine(folder, "cgroup.procs")) || (tree.Version == 2 && !_mayWrite(Path.Combine(folder, "cgroup.subtree_control"))))
            {
                break;
            }
            topmost = folder;
        }
        return topmost;
    }

    private static bool MayWrite(string path) => access(path, 2) == 0;

    private static uint Uid() => geteuid();

    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8)]
    private static partial int access(string path, int mode);

    [LibraryImport("libc")]
    private static partial uint geteuid();
}

/// <summary>Where the groups of a controller are made.</summary>
/// <param name="Version">Version of its tree.</param>
/// <param name="Folder">The group beneath which Lodge makes its own.</param>
internal readonly record struct ControlGroupPlace(int Version, string Folder);
