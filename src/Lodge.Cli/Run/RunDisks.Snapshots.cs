using Lodge.Storage.Disks;
using Lodge.Storage.Formats;

namespace Lodge.Cli.Run;

// Snapshots inside of the images, of all disks that can be written, while the machine stands still or does not run.
internal sealed partial class RunDisks
{
    private readonly List<(DiskOption Option, IImage? Image)> _images = [];

    private IEnumerable<(DiskOption Option, IImage Image, ISnapshots Snapshots)> Keepers =>
        from disk in _images where disk.Image is ISnapshots && !disk.Image.IsReadOnly select (disk.Option, disk.Image!, (ISnapshots)disk.Image!);

    /// <summary>Refuses when a disk that can be written keeps no snapshots.</summary>
    /// <exception cref="LodgeException">There is such a disk.</exception>
    public void RequireSnapshots()
    {
        foreach (((DiskOption option, IDisk disk), int index) in _disks.Select(static (disk, index) => (disk, index)))
        {
            if (!disk.IsReadOnly && _images[index].Image is not ISnapshots)
            {
                throw new LodgeException($"disk '{option.Path}' can be written and its format keeps no snapshots; 'lodge image convert -O qcow2' makes one that does");
            }
        }
    }

    /// <summary>Keeps the present content of all disks under a name: of all, or of none.</summary>
    /// <exception cref="DiskException">A disk fails.</exception>
    public void CreateSnapshot(string name)
    {
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

    /// <summary>Brings all disks back to a snapshot.</summary>
    /// <exception cref="DiskException">A disk fails, or does not have it; others may be back already.</exception>
    public void ApplySnapshot(string name)
    {
        foreach ((DiskOption option, _, ISnapshots snapshots) in Keepers)
        {
            if (!Has(snapshots, name))
            {
                throw new DiskException(DiskError.NotFound, $"disk '{option.Path}' does not have the snapshot: it was added later, or replaced");
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
    public void DeleteSnapshot(string name)
    {
        foreach ((_, IImage image, ISnapshots snapshots) in Keepers)
        {
            while (Has(snapshots, name))
            {
                Wait(snapshots.DeleteSnapshotAsync(name));
                Wait(image.FlushAsync());
            }
        }
    }

    private static bool Has(ISnapshots snapshots, string name) => snapshots.Snapshots.Any(s => s.Name == name);

    private static void Wait(ValueTask task) => task.AsTask().GetAwaiter().GetResult();
}
