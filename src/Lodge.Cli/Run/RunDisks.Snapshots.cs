using Lodge.Machine;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;

namespace Lodge.Cli.Run;

// Snapshots inside of the images, of all disks that can be written, while the machine stands still or does not run.
internal sealed partial class RunDisks
{
    private IEnumerable<(RunDisk Disk, IImage Image, ISnapshots Snapshots)> Keepers =>
        from disk in _disks where disk.Image is ISnapshots && !disk.Image.IsReadOnly select (disk, disk.Image!, (ISnapshots)disk.Image!);

    /// <summary>Refuses when a disk that can be written keeps no snapshots.</summary>
    /// <exception cref="LodgeException">There is such a disk.</exception>
    public void RequireSnapshots()
    {
        foreach (RunDisk disk in _disks)
        {
            if (!disk.Disk.IsReadOnly && disk.Image is not ISnapshots)
            {
                throw new LodgeException($"disk '{disk.Option.Path}' can be written and its format keeps no snapshots; 'lodge image convert -O qcow2' makes one that does");
            }
        }
    }

    /// <summary>Keeps the present content of all disks under a name: of all, or of none.</summary>
    /// <exception cref="DiskException">A disk fails.</exception>
    /// <exception cref="DeviceBusyException">A disk does not answer; nothing was done.</exception>
    public void CreateSnapshot(string name)
    {
        lock (_gate)
        {
            foreach ((RunDisk disk, IImage image, _) in Keepers)
            {
                Flush(disk.Name, image); // one that does not answer would hold the guest for ever
            }
            try
            {
                foreach ((_, IImage image, ISnapshots snapshots) in Keepers)
                {
                    Wait(snapshots.CreateSnapshotAsync(name));
                    Wait(image.FlushAsync());
                }
            }
            catch
            {
                DeleteSnapshot(name);
                throw;
            }
        }
    }

    /// <summary>Brings all disks back to a snapshot.</summary>
    /// <exception cref="DiskException">A disk fails, or does not have it; others may be back already.</exception>
    public void ApplySnapshot(string name)
    {
        foreach ((RunDisk disk, _, ISnapshots snapshots) in Keepers)
        {
            if (!Has(snapshots, name))
            {
                throw new DiskException(DiskError.NotFound, $"{disk.Name} ('{disk.Option.Path}') does not have the snapshot: it was added later, or replaced; take it away before (lodge detach)");
            }
        }
        foreach ((_, IImage image, ISnapshots snapshots) in Keepers)
        {
            Wait(snapshots.ApplySnapshotAsync(name));
            Wait(image.FlushAsync());
        }
    }

    /// <summary>Forgets a snapshot on the disks that have it.</summary>
    /// <exception cref="DiskException">A disk fails.</exception>
    /// <exception cref="DeviceBusyException">A disk does not answer; those before it may have forgotten the snapshot.</exception>
    public void DeleteSnapshot(string name)
    {
        lock (_gate)
        {
            foreach ((RunDisk disk, IImage image, ISnapshots snapshots) in Keepers)
            {
                if (Has(snapshots, name))
                {
                    Flush(disk.Name, image);
                }
                while (Has(snapshots, name))
                {
                    Wait(snapshots.DeleteSnapshotAsync(name));
                    Wait(image.FlushAsync());
                }
            }
        }
    }

    private static bool Has(ISnapshots snapshots, string name) => snapshots.Snapshots.Any(s => s.Name == name);

    private static void Wait(ValueTask task) => task.AsTask().GetAwaiter().GetResult();
}
