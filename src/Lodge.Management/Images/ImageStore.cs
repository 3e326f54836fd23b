using System.Text.Json;
using Lodge.Management.Host;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Images;

/// <summary>
/// The local store of images: <c>FOLDER/NAME/TAG/</c> with the disk, a kernel where it is booted directly, and <c>image.json</c>. An image is made in a folder
/// <c>.new-*</c> that is locked by its maker and renamed when complete; what a dead maker left is removed by the next command that changes the store.
/// </summary>
public sealed class ImageStore(string folder)
{
    private const string ManifestFile = "image.json";
    private const string NewPrefix = ".new-";

    /// <summary>The store of this user, or of the system for root.</summary>
    public static ImageStore ForUser() => new(Path.Combine(HostFolders.Data, "images"));

    /// <summary>Where it is.</summary>
    public string Folder => folder;

    /// <summary>All images by name and tag. A folder without a readable manifest is left out and named in <paramref name="damaged"/>.</summary>
    public IReadOnlyList<StoredImage> List(out IReadOnlyList<string> damaged)
    {
        List<StoredImage> images = [];
        List<string> bad = [];
        if (Directory.Exists(folder))
        {
            foreach (string named in Directory.EnumerateDirectories(folder).Where(path => !Path.GetFileName(path).StartsWith('.')).Order(StringComparer.Ordinal))
            {
                foreach (string tagged in Directory.EnumerateDirectories(named).Order(StringComparer.Ordinal))
                {
                    if (Read(tagged) is { } image)
                    {
                        images.Add(image);
                    }
                    else
                    {
                        bad.Add(tagged);
                    }
                }
            }
        }
        damaged = bad;
        return images;
    }

    /// <summary>The image of a name, or null.</summary>
    public StoredImage? Find(ImageName name) => Read(PathOf(name));

    /// <summary>Makes an image: <paramref name="make"/> fills an empty folder and gives the manifest; the image replaces one of the same name.</summary>
    /// <exception cref="ManagementException">The store cannot be written; nothing is left.</exception>
    public async Task<StoredImage> AddAsync(ImageName name, Func<string, Task<ImageManifest>> make)
    {
        string work = Path.Combine(folder, $"{NewPrefix}{Environment.ProcessId}-{Guid.NewGuid():n}");
        SafeFileHandle? claim = null;
        try
        {
            Directory.CreateDirectory(folder);
            RemoveLeftovers();
            Directory.CreateDirectory(work);
            claim = File.OpenHandle(Path.Combine(work, ".lock"), FileMode.CreateNew, FileAccess.Write, FileShare.ReadWrite);
            HostSystemCalls.TryLock(claim, exclusive: true);
            ImageManifest manifest = await make(work).ConfigureAwait(false);
            AtomicFile.Write(Path.Combine(work, ManifestFile), JsonSerializer.Serialize(manifest, ManifestJson.Default.ImageManifest) + "\n");
            foreach (string made in Directory.EnumerateFiles(work).Where(file => Path.GetFileName(file) != ".lock"))
            {
                using SafeFileHandle handle = File.OpenHandle(made, FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
                RandomAccess.FlushToDisk(handle);
            }
            File.Delete(Path.Combine(work, ".lock"));
            string final = PathOf(name);
            Directory.CreateDirectory(Path.GetDirectoryName(final)!);
            if (Directory.Exists(final))
            {
                HostSystemCalls.Exchange(work, final); // machines that run from the old one keep its files open
            }
            else
            {
                Directory.Move(work, final);
            }
            AtomicFile.SyncFolder(Path.GetDirectoryName(final)!);
            AtomicFile.SyncFolder(folder);
            RemoveLeftovers();
            return Read(final) ?? throw new ManagementException($"image {name} was stored but cannot be read back from {final}");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ManagementException($"image {name} cannot be stored in {folder}: {e.Message}", e);
        }
        finally
        {
            claim?.Dispose();
            if (Directory.Exists(work))
            {
                Delete(work);
            }
        }
    }

    /// <summary>Removes an image.</summary>
    /// <exception cref="ManagementException">There is none, or the host refuses.</exception>
    public void Remove(ImageName name)
    {
        string path = PathOf(name);
        if (!Directory.Exists(path))
        {
            throw new ManagementException($"there is no image {name}; 'lodge image list' shows the images");
        }
        try
        {
            string gone = Path.Combine(folder, $"{NewPrefix}old-{Guid.NewGuid():n}");
            Directory.Move(path, gone);
            Delete(gone);
            string named = Path.GetDirectoryName(path)!;
            if (!Directory.EnumerateFileSystemEntries(named).Any())
            {
                Directory.Delete(named);
            }
            RemoveLeftovers();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ManagementException($"image {name} cannot be removed from {folder}: {e.Message}", e);
        }
    }

    private static StoredImage? Read(string path)
    {
        try
        {
            ImageManifest? manifest = JsonSerializer.Deserialize(File.ReadAllText(Path.Combine(path, ManifestFile)), ManifestJson.Default.ImageManifest);
            return manifest is { Version: <= ImageManifest.CurrentVersion } && IsPlain(manifest.Disk) && IsPlain(manifest.Kernel) && IsPlain(manifest.Initrd)
                ? new StoredImage(path, manifest)
                : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or JsonException)
        {
            return null;
        }
    }

    private static bool IsPlain(string? file) => file is null || (file.Length > 0 && !file.Contains('/') && file[0] != '.');

    private string PathOf(ImageName name) => Path.Combine(folder, name.Name, name.Tag);

    private void RemoveLeftovers()
    {
        foreach (string left in Directory.EnumerateDirectories(folder, NewPrefix + "*"))
        {
            if (!IsHeld(left))
            {
                Delete(left);
            }
        }
    }

    private static bool IsHeld(string work)
    {
        try
        {
            using SafeFileHandle handle = File.OpenHandle(Path.Combine(work, ".lock"), FileMode.Open, FileAccess.Write, FileShare.ReadWrite);
            return !HostSystemCalls.TryLock(handle, exclusive: true);
        }
        catch (FileNotFoundException)
        {
            // Without a lock file it is old, or so new that its maker has not come to it: wait a minute before it counts as dead.
            return !Path.GetFileName(work).StartsWith(NewPrefix + "old-", StringComparison.Ordinal) && Directory.GetLastWriteTimeUtc(work) > DateTime.UtcNow.AddMinutes(-1);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return true;
        }
    }

    private static void Delete(string path)
    {
        try
        {
            Directory.Delete(path, recursive: true);
        }
        catch (DirectoryNotFoundException)
        {
            // Another command removed it at the same time.
        }
    }
}
