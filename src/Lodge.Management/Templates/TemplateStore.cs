using System.Text.Json;
using Lodge.Management.Host;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Templates;

/// <summary>
/// Templates: machines that were booted once and stand still where their guest waits for what it is to run. Each is a folder with <c>template.json</c>, <c>memory</c> (RAM as a sparse
/// file, which clones map copy-on-write), <c>code</c> (what was translated of the guest's code), <c>state</c> (devices and processors) and, for a stored image, <c>disk.qcow2</c> (what the machine has written to its disk, on which clones
/// put overlays of their own), made whole or not at all. What is damaged, of another version or of an earlier start of the host
/// (and was not written through) is thrown away when it is met.
/// </summary>
/// <param name="folder">The store's folder.</param>
public sealed class TemplateStore(string folder)
{
    /// <summary>Most templates that runs make on their own account.</summary>
    public const int MaximumCount = 8;

    /// <summary>Most bytes that all templates take before the oldest are thrown away.</summary>
    public const long MaximumBytes = 8L << 30;

    private const string DescriptionFile = "template.json", MemoryFile = "memory", StateFile = "state", DiskFile = "disk.qcow2", CodeFile = "code", LockFile = ".lock", NewPrefix = ".new-";
    private const UnixFileMode Private = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;

    /// <summary>The store of this user, in the cache folder.</summary>
    /// <exception cref="ManagementException">There is no home directory.</exception>
    public static TemplateStore ForUser() => new(Path.Combine(HostFolders.Cache, "templates"));

    /// <summary>Opens a template to make a clone; null when there is none that can be used.</summary>
    public SavedTemplate? Open(TemplateKey key)
    {
        string place = Path.Combine(folder, key.Name);
        try
        {
            if (!File.Exists(Path.Combine(place, StateFile)))
            {
                return null;
            }
            if (SavedTemplate.Read(place, key.Text, DiskFile, HostStart) is { } saved)
            {
                Directory.SetLastWriteTimeUtc(place, DateTime.UtcNow);
                return saved;
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Gone meanwhile, or not ours.
        }
        TryDelete(place);
        return null;
    }

    /// <summary>Begins a template. Null when another process makes one now, when it is there already, or when the store cannot be written.</summary>
    public TemplateDraft? TryBegin(TemplateKey key)
    {
        SafeFileHandle? turn = null;
        try
        {
            Directory.CreateDirectory(folder, Private);
            turn = HostSystemCalls.OpenUnlocked(Path.Combine(folder, LockFile), create: true)!;
            if (HostSystemCalls.TryLock(turn, exclusive: true) && !Directory.Exists(Path.Combine(folder, key.Name)))
            {
                foreach (string leftover in Directory.EnumerateDirectories(folder, NewPrefix + "*"))
                {
                    Directory.Delete(leftover, recursive: true); // of a process that was killed: the lock is ours
                }
                string work = Path.Combine(folder, NewPrefix + key.Name);
                Directory.CreateDirectory(work, Private);
                return new TemplateDraft(this, key, work, turn);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // A template is a convenience: the run goes on without.
        }
        turn?.Dispose();
        return null;
    }

    /// <summary>All templates, the one first that was used last.</summary>
    public IReadOnlyList<StoredTemplate> List()
    {
        List<StoredTemplate> all = [];
        if (Directory.Exists(folder))
        {
            foreach (string place in Directory.EnumerateDirectories(folder))
            {
                if (TemplateKey.IsName(Path.GetFileName(place)) && Describe(place) is { } description)
                {
                    all.Add(new StoredTemplate(description, Directory.GetLastWriteTimeUtc(place)));
                }
            }
        }
        return [.. all.OrderByDescending(t => t.Used)];
    }

    /// <summary>Removes a template; machines that are clones of it keep running.</summary>
    /// <returns>Whether it was there.</returns>
    public bool Remove(string name)
    {
        string place = Path.Combine(folder, name);
        if (!TemplateKey.IsName(name) || !Directory.Exists(place))
        {
            return false;
        }
        Delete(place);
        return true;
    }

    /// <summary>Throws away what was not used since <paramref name="before"/>, and of the others the oldest beyond a number and a size. What cannot be read goes too.</summary>
    /// <returns>Names of those that were thrown away.</returns>
    public IReadOnlyList<string> Prune(int count = MaximumCount, long bytes = MaximumBytes, DateTimeOffset? before = null)
    {
        List<string> removed = [];
        if (!Directory.Exists(folder))
        {
            return removed;
        }
        HashSet<string> kept = [];
        foreach (StoredTemplate template in List())
        {
            bytes -= template.Description.StoredBytes;
            if (kept.Count < count && bytes >= 0 && (before is null || template.Used >= before))
            {
                kept.Add(template.Description.Key);
            }
        }
        foreach (string place in Directory.EnumerateDirectories(folder))
        {
            string name = Path.GetFileName(place);
            if (TemplateKey.IsName(name) && !kept.Contains(name) && TryDelete(place))
            {
                removed.Add(name);
            }
        }
        return removed;
    }

    internal string Publish(TemplateDraft draft)
    {
        string place = Path.Combine(folder, draft.Key.Name);
        Directory.Move(draft.Folder, place);
        return place;
    }

    internal static void Compose(TemplateDraft draft, TemplateDescription description, IReadOnlyList<string> cards, ReadOnlySpan<byte> state)
    {
        byte[] contents = TemplateState.Write(draft.Key.Text, description.Asked ? "" : HostStart(), FileOf(MemoryFile), FileOf(CodeFile), FileOf(DiskFile), cards, state);
        using (SafeFileHandle handle = File.OpenHandle(Path.Combine(draft.Folder, StateFile), FileMode.CreateNew, FileAccess.Write))
        {
            RandomAccess.Write(handle, contents, 0);
            if (description.Asked)
            {
                RandomAccess.FlushToDisk(handle);
            }
        }
        File.WriteAllText(Path.Combine(draft.Folder, DescriptionFile), JsonSerializer.Serialize(description, TemplateJson.Default.TemplateDescription) + "\n");

        TemplateFile FileOf(string name) => new FileInfo(Path.Combine(draft.Folder, name)) is { Exists: true } file ? new(file.Length, file.LastWriteTimeUtc.Ticks) : TemplateFile.Of(null);
    }

    internal static SafeFileHandle CreateMemory(TemplateDraft draft) => File.OpenHandle(Path.Combine(draft.Folder, MemoryFile), FileMode.CreateNew, FileAccess.Write);

    internal static SafeFileHandle CreateCode(TemplateDraft draft) => File.OpenHandle(Path.Combine(draft.Folder, CodeFile), FileMode.CreateNew, FileAccess.Write);

    internal static SafeFileHandle CreateDisk(TemplateDraft draft) => File.OpenHandle(Path.Combine(draft.Folder, DiskFile), FileMode.CreateNew, FileAccess.ReadWrite);

    internal static void Delete(string place)
    {
        // First out of the way in one step, so that nobody meets half of it.
        string away = Path.Combine(Path.GetDirectoryName(place)!, $".old-{Path.GetFileName(place)}-{Environment.ProcessId}");
        Directory.Move(place, away);
        Directory.Delete(away, recursive: true);
    }

    private static bool TryDelete(string place)
    {
        try
        {
            Delete(place);
            return true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return false; // another process was first
        }
    }

    private static TemplateDescription? Describe(string place)
    {
        try
        {
            TemplateDescription? description = JsonSerializer.Deserialize(File.ReadAllText(Path.Combine(place, DescriptionFile)), TemplateJson.Default.TemplateDescription);
            return description is { Version: TemplateDescription.CurrentVersion } && description.Key == Path.GetFileName(place) ? description : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or JsonException)
        {
            return null;
        }
    }

    /// <summary>Which start of the host this is: what was written without waiting for the disk is whole only until the next one.</summary>
    internal static string HostStart()
    {
        try
        {
            return File.ReadAllText("/proc/sys/kernel/random/boot_id").Trim();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return "unknown";
        }
    }
}
