using Lodge.Management.Host;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Management.Machines;

/// <summary>A step of the making of a linked clone's disk. After each of them the source is as usable as before.</summary>
/// <param name="Title">What it does.</param>
/// <param name="Run">Does it.</param>
public sealed record DiskCloneStep(string Title, Func<Task> Run);

/// <summary>
/// Gives the machine in a folder that is being made the system disk of another one that does not run. What the disk stands on never changes: both machines have it by hard links.
/// </summary>
public static class MachineDiskClone
{
    private const string Format = "qcow2", FrozenPrefix = "base-";

    // A read of what no layer holds asks each of them.
    private const int MostLayers = 32;

    private static readonly ImageOpenOptions ReadOnly = new() { Format = Format, ReadOnly = true };

    /// <summary>Makes a disk of its own: a copy, without the snapshots inside.</summary>
    /// <param name="source">The machine that has the disk; its locks are held.</param>
    /// <param name="clone">The folder that gets one. It is removed by its maker when this fails.</param>
    /// <param name="progress">Told what part is done, 0 to 1.</param>
    /// <param name="cancellation">Ends the work.</param>
    /// <exception cref="DiskException">The disk cannot be read or written, or is in use.</exception>
    /// <exception cref="IOException">The host refuses.</exception>
    /// <exception cref="ManagementException">The disk stands on a file outside of the machine's folder.</exception>
    public static async Task CopyAsync(MachineFolder source, MachineFolder clone, IProgress<double>? progress = null, CancellationToken cancellation = default)
    {
        IReadOnlyList<ChainLink> chain = await ImageChain.ListAsync(source.Disk, ReadOnly, parents: true, cancellation).ConfigureAwait(false);
        HostFile held = HostFile.Open(source.Disk, new HostFileOptions(ReadOnly: true)); // commands on images keep away from it
        await using (held.ConfigureAwait(false))
        {
            ShareParents(chain, source, clone);
            HostCopy.Copy(source.Disk, clone.Disk, progress, cancellation);
        }
        if (chain[0].Information.Snapshots.Count != 0)
        {
            // They belong to snapshots of the source: the clone has no names for them.
            IImage image = await ImageOpener.OpenAsync(clone.Disk, new ImageOpenOptions { Format = Format }, cancellation).ConfigureAwait(false);
            await using (image.ConfigureAwait(false))
            {
                if (image is ISnapshots inside)
                {
                    foreach (ImageSnapshot snapshot in inside.Snapshots.ToArray())
                    {
                        await inside.DeleteSnapshotAsync(snapshot.Id, cancellation).ConfigureAwait(false);
                    }
                }
                await image.FlushAsync(cancellation).ConfigureAwait(false);
            }
        }
        AtomicFile.SyncFolder(clone.Path);
    }

    /// <summary>Makes both machines stand on what the disk holds now, each with an overlay of its own: see <see cref="PlanLinkAsync"/>.</summary>
    public static async Task LinkAsync(MachineFolder source, MachineFolder clone)
    {
        foreach (DiskCloneStep step in await PlanLinkAsync(source, clone).ConfigureAwait(false))
        {
            await step.Run().ConfigureAwait(false);
        }
    }

    /// <summary>
    /// The steps of <see cref="LinkAsync"/>. The clone's folder becomes a machine only when all are done. Until the source has its overlay, its disk is the file that it was, under one more name; that name is
    /// forgotten by <see cref="RemoveLeftovers"/>. From then on that file is only read. A disk that holds nothing yet is not frozen: then both stand on what it stands on.
    /// </summary>
    /// <param name="source">The machine that has the disk; its locks are held.</param>
    /// <param name="clone">The folder that gets one. It is removed by its maker when a step fails.</param>
    /// <exception cref="DiskException">The disk cannot be read or written, or is in use.</exception>
    /// <exception cref="ManagementException">The disk has snapshots, too many layers, or stands on a file outside of the machine's folder.</exception>
    public static async Task<IReadOnlyList<DiskCloneStep>> PlanLinkAsync(MachineFolder source, MachineFolder clone)
    {
        IReadOnlyList<ChainLink> chain = await ImageChain.ListAsync(source.Disk, ReadOnly, parents: true).ConfigureAwait(false);
        ImageInformation disk = chain[0].Information;
        bool known = new SnapshotStore(source).List().Count != 0;
        if (!known && disk.Snapshots.Count != 0)
        {
            throw new ManagementException(
                $"the disk of machine '{source.Name}' has snapshots that 'lodge snapshot' did not make ({string.Join(", ", disk.Snapshots.Select(one => one.Name).Take(4))}), which a linked clone would bury: clone it without --linked");
        }
        if (known)
        {
            throw new ManagementException($"machine '{source.Name}' has snapshots, which a linked clone would bury: clone it without --linked, or remove them");
        }
        string parent = $"{FrozenPrefix}{Guid.NewGuid():n}.{Format}", parentFormat = Format;
        string frozen = Path.Combine(source.Path, parent), shared = Path.Combine(clone.Path, parent);
        List<DiskCloneStep> steps = [new("share what the disk stands on", () => Done(() => ShareParents(chain, source, clone)))];
        if (disk is { BackingName: { } below, BackingFormat: { } format } && await IsEmptyAsync(source.Disk).ConfigureAwait(false))
        {
            (parent, parentFormat) = (below, format);
        }
        else
        {
            if (chain.Count >= MostLayers)
            {
                throw new ManagementException($"the disk of machine '{source.Name}' has {chain.Count} layers already: clone it without --linked, and make linked clones of that");
            }
            steps.Add(new("name the frozen disk for the clone", () => Done(() => HostLink.Create(source.Disk, shared))));
            steps.Add(new("name the frozen disk for the source", () => Done(() =>
            {
                HostLink.Create(source.Disk, frozen);
                AtomicFile.SyncFolder(source.Path);
            })));
            // The new overlay takes the disk's name at one blow.
            steps.Add(new("give the source an overlay", () => MakeOverlayAsync(source.Disk, disk.VirtualSize, parent, parentFormat)));
        }
        steps.Add(new("give the clone an overlay", () => MakeOverlayAsync(clone.Disk, disk.VirtualSize, parent, parentFormat)));
        return steps;

        static Task Done(Action action)
        {
            action();
            return Task.CompletedTask;
        }
    }

    /// <summary>Forgets what a linked clone left in its source's folder that ended in between; the machine's locks are held.</summary>
    public static void RemoveLeftovers(MachineFolder machine)
    {
        string[] frozen = Directory.Exists(machine.Path) ? Directory.GetFiles(machine.Path, $"{FrozenPrefix}*.{Format}") : [];
        string[] overlays = frozen.Length == 0 ? [] : Directory.GetFiles(machine.Path, ".*.lodge"); // written, but not renamed
        foreach (string left in overlays.Concat(frozen.Where(file => IsSame(file, machine.Disk))))
        {
            File.Delete(left);
        }
    }

    /// <summary>Gives the clone's folder all that is below the disk.</summary>
    private static void ShareParents(IReadOnlyList<ChainLink> chain, MachineFolder source, MachineFolder clone)
    {
        foreach (string name in chain.Select(link => link.Information.BackingName).OfType<string>())
        {
            if (Path.GetFileName(name) != name)
            {
                throw new ManagementException($"the disk of machine '{source.Name}' stands on '{name}', which is not in its folder: it cannot be cloned");
            }
            string from = Path.Combine(source.Path, name), to = Path.Combine(clone.Path, name);
            try
            {
                HostLink.Create(from, to);
            }
            catch (IOException) when (!File.Exists(to))
            {
                HostCopy.Copy(from, to); // for example, it has as many names as the file system allows
            }
        }
        AtomicFile.SyncFolder(clone.Path);
    }

    private static async Task MakeOverlayAsync(string path, long length, string parent, string parentFormat)
    {
        NewImage made = await NewImage.CreateAsync(new NewImageOptions(path, Format, length) { Options = FormatOptions.None.With("backing_file", parent).With("backing_fmt", parentFormat) }).ConfigureAwait(false);
        await using (made.ConfigureAwait(false))
        {
            IImage image = await made.OpenAsync().ConfigureAwait(false);
            await image.FlushAsync().ConfigureAwait(false);
            await made.CompleteAsync().ConfigureAwait(false);
        }
    }

    private static async Task<bool> IsEmptyAsync(string path)
    {
        IImage image = await ImageOpener.OpenAsync(path, ReadOnly with { OpenBacking = false }).ConfigureAwait(false);
        await using (image.ConfigureAwait(false))
        {
            for (long at = 0; image is IBackedImage backed && at < image.Length;)
            {
                (bool own, long length) = await backed.IsOwnAsync(at, image.Length - at).ConfigureAwait(false);
                if (own || length <= 0)
                {
                    return false;
                }
                at += length;
            }
            return image is IBackedImage;
        }
    }

    private static bool IsSame(string file, string other) => File.Exists(other) && Identity(file) == Identity(other);

    private static HostFileIdentity Identity(string path)
    {
        HostFile file = HostFile.Open(path, new HostFileOptions(ReadOnly: true, Lock: false));
        try
        {
            return file.Identity;
        }
        finally
        {
            _ = file.DisposeAsync().AsTask();
        }
    }
}
