using Lodge.Cli.Run;
using Lodge.Management;
using Lodge.Management.Machines;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Cli.Machines;

/// <summary>What a machine's snapshots have put into disks that are the user's own (<c>--disk</c>) and outlast the machine: internal snapshots by the names of <see cref="SnapshotStore.Tag"/>.</summary>
internal static class MachineTags
{
    /// <summary>Removes them, of a machine that does not run and is to be removed.</summary>
    /// <returns>Lines that say what is left and how to remove it.</returns>
    /// <exception cref="ManagementException">There is no such machine, or it runs.</exception>
    public static IReadOnlyList<string> Remove(MachineStore store, string name) => store.Changing(name, folder =>
    {
        using SafeFileHandle? still = folder.TryRun();
        if (still is null || folder.ReadDefinition(out _) is not { } definition)
        {
            return []; // who removes it says so
        }
        SnapshotStore snapshots = new(folder);
        HashSet<string> tags = [.. snapshots.List().Select(snapshot => SnapshotStore.Tag(snapshot.Id)), .. snapshots.Unfinished().Select(SnapshotStore.Tag)];
        if (tags.Count == 0 || !definition.Options.TryGetValue("disk", out IReadOnlyList<string>? disks))
        {
            return [];
        }
        List<string> left = [];
        foreach (string text in disks)
        {
            try
            {
                DiskOption disk = DiskOption.Parse(text);
                if (!disk.IsPlace && !disk.ReadOnly && !DiskAddresses.IsAddress(disk.Path))
                {
                    RemoveFrom(Path.GetFullPath(disk.Path, definition.Directory), disk, tags);
                }
            }
            catch (Exception e) when (e is DiskException or FormatException)
            {
                left.Add($"disk '{OptionWords.Split(text)[0]}' may still have snapshots of machine '{name}' ({string.Join(", ", tags.Order(StringComparer.Ordinal))}), to be removed by 'lodge image snapshot -d': {e.Message}");
            }
        }
        return (IReadOnlyList<string>)left;
    });

    private static void RemoveFrom(string path, DiskOption disk, HashSet<string> tags)
    {
        ImageOpenOptions options = RunDisks.Opening(disk) with { ReadOnly = true, ForceShare = true, OpenBacking = false };
        // Looked at first: a disk without any is not written.
        if (Tagged(path, options, tags, static (_, _) => { }) != 0)
        {
            Tagged(path, options with { ReadOnly = false, ForceShare = false }, tags, static (snapshots, tag) => snapshots.DeleteSnapshotAsync(tag).AsTask().GetAwaiter().GetResult());
        }
    }

    private static int Tagged(string path, ImageOpenOptions options, HashSet<string> tags, Action<ISnapshots, string> each)
    {
        IImage image = ImageOpener.OpenAsync(path, options).AsTask().GetAwaiter().GetResult();
        try
        {
            string[] found = image is ISnapshots all ? [.. all.Snapshots.Select(snapshot => snapshot.Name).Where(tags.Contains)] : [];
            foreach (string tag in found)
            {
                each((ISnapshots)image, tag);
            }
            if (!options.ReadOnly)
            {
                image.FlushAsync().AsTask().GetAwaiter().GetResult();
            }
            return found.Length;
        }
        finally
        {
            image.DisposeAsync().AsTask().GetAwaiter().GetResult();
        }
    }
}
