using System.Text;

namespace Lodge.Management.Limits;

/// <summary>A mounted tree of control groups: of version 1 with some controllers, or the one of version 2 (cgroups(7)).</summary>
/// <param name="Version">1 or 2.</param>
/// <param name="MountPoint">Where it is mounted.</param>
/// <param name="Own">Folder of the group that this process is in, beneath the mount point; the mount point itself when that group is not visible.</param>
/// <param name="Controllers">Version 1: what the tree has; version 2: what its root offers.</param>
public sealed record ControlGroupHierarchy(int Version, string MountPoint, string Own, IReadOnlySet<string> Controllers)
{
    /// <summary>The trees of a host.</summary>
    /// <param name="root">Folder that stands for <c>/</c>.</param>
    public static IReadOnlyList<ControlGroupHierarchy> Read(string root)
    {
        List<ControlGroupHierarchy> all = [];
        Dictionary<string, string> own = OwnPaths(Lines(root, "proc/self/cgroup"));
        foreach (string line in Lines(root, "proc/self/mountinfo"))
        {
            // proc_pid_mountinfo(5): number parent device root mount-point options [optional...] - type source super-options
            string[] fields = line.Split(' ');
            int dash = Array.IndexOf(fields, "-");
            if (dash < 6 || fields.Length < dash + 4 || fields[dash + 1] is not ("cgroup" or "cgroup2"))
            {
                continue;
            }
            int version = fields[dash + 1] == "cgroup2" ? 2 : 1;
            string mountRoot = Unescape(fields[3]), mountPoint = Path.Join(root, Unescape(fields[4])).TrimEnd('/');
            HashSet<string> options = [.. fields[dash + 3].Split(',')];
            string? path = version == 2 ? own.GetValueOrDefault("") : own.FirstOrDefault(one => one.Key.Length != 0 && options.Contains(one.Key)).Value;
            if (version == 1 && (path is null || options.Any(option => option.StartsWith("name=", StringComparison.Ordinal))))
            {
                continue; // no controllers
            }
            HashSet<string> controllers = version == 1
                ? [.. options.Where(own.ContainsKey)]
                : [.. Words(Path.Combine(mountPoint, "cgroup.controllers"))];
            all.Add(new ControlGroupHierarchy(version, mountPoint, Beneath(mountPoint, mountRoot, path ?? "/"), controllers));
        }
        return all;
    }

    /// <summary>The words of a file; none when it is not there.</summary>
    internal static string[] Words(string file)
    {
        try
        {
            return File.ReadAllText(file).Split([' ', '\n'], StringSplitOptions.RemoveEmptyEntries);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    private static string Beneath(string mountPoint, string mountRoot, string path)
    {
        string relative = mountRoot == "/" ? path : path == mountRoot ? "" : path.StartsWith(mountRoot + "/", StringComparison.Ordinal) ? path[mountRoot.Length..] : "";
        string folder = Path.Join(mountPoint, relative).TrimEnd('/');
        return !relative.Split('/').Contains("..") && Directory.Exists(folder) ? folder : mountPoint;
    }

    /// <summary>Lines <c>number:controllers:path</c>; version 2's has no controllers.</summary>
    private static Dictionary<string, string> OwnPaths(IEnumerable<string> lines)
    {
        Dictionary<string, string> own = new(StringComparer.Ordinal);
        foreach (string[] parts in lines.Select(line => line.Split(':', 3)).Where(parts => parts.Length == 3))
        {
            foreach (string controller in parts[1].Split(','))
            {
                own[controller] = parts[2];
            }
        }
        return own;
    }

    private static string[] Lines(string root, string file)
    {
        try
        {
            return File.ReadAllLines(Path.Combine(root, file));
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return [];
        }
    }

    /// <summary>Space, tab, newline and backslash are written as three octal digits.</summary>
    private static string Unescape(string text)
    {
        StringBuilder plain = new();
        for (int i = 0; i < text.Length; i++)
        {
            if (text[i] == '\\' && i + 3 < text.Length && text.AsSpan(i + 1, 3).IndexOfAnyExceptInRange('0', '7') < 0)
            {
                plain.Append((char)Convert.ToInt32(text.Substring(i + 1, 3), 8));
                i += 3;
            }
            else
            {
                plain.Append(text[i]);
            }
        }
        return plain.ToString();
    }
}
