using System.Text.Json;
using System.Text.Json.Serialization;
using Lodge.Management.Host;

namespace Lodge.Management.Machines;

/// <summary>A snapshot of a machine, <c>snapshot.json</c> in its folder.</summary>
public sealed record SnapshotRecord
{
    /// <summary>The version that this Lodge writes, and the newest that it reads.</summary>
    public const int CurrentVersion = 1;

    /// <summary>Version of the file.</summary>
    public int Version { get; init; } = CurrentVersion;

    /// <summary>Its identity: 8 hexadecimal digits.</summary>
    public required string Id { get; init; }

    /// <summary>Its name, which no other snapshot of the machine has.</summary>
    public required string Name { get; init; }

    /// <summary>What the user says of it.</summary>
    public string? Description { get; init; }

    /// <summary>The snapshot from which the machine had gone on; null for none.</summary>
    public string? Parent { get; init; }

    /// <summary>When it was taken.</summary>
    public required DateTimeOffset Time { get; init; }

    /// <summary>Whether it has the state of a running machine.</summary>
    public bool Memory { get; init; }

    /// <summary>Names of the disks and network cards that the machine had, of one with memory; null: not known.</summary>
    public IReadOnlyList<string>? Devices { get; init; }

    /// <summary>Bytes of the file that has it.</summary>
    public long MemoryBytes { get; init; }

    /// <summary>Whether its guest is a clone's that has not made an identity of its own yet.</summary>
    public bool FreshIdentity { get; init; }

    /// <summary>How long the guest was held, in milliseconds.</summary>
    public double Pause { get; init; }
}

/// <summary>What a snapshot is to be, <c>POST /v1/snapshots</c>.</summary>
/// <param name="Name">Its name; null: its identity.</param>
/// <param name="Description">What the user says of it.</param>
/// <param name="Memory">Whether to keep the state of the running machine.</param>
/// <param name="Freeze">The guest's agent holds its file systems meanwhile; without memory only.</param>
public sealed record SnapshotRequest(string? Name, string? Description, bool Memory, bool Freeze = false);

/// <summary>JSON of snapshots.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true, DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull)]
[JsonSerializable(typeof(SnapshotRecord))]
[JsonSerializable(typeof(List<SnapshotRecord>))]
[JsonSerializable(typeof(SnapshotRequest))]
public sealed partial class SnapshotJson : JsonSerializerContext;

/// <summary>
/// The snapshots of a machine: a folder each, with <c>snapshot.json</c>, which is written last, and <c>memory.lodge</c>. What disks keep of a snapshot is an internal snapshot with the name
/// <see cref="Tag"/>. A folder without <c>snapshot.json</c> is one that was not finished, or not quite removed.
/// </summary>
/// <param name="machine">The machine.</param>
public sealed class SnapshotStore(MachineFolder machine)
{
    private const int LongestRecord = 64 << 10, LongestName = 64, LongestDescription = 1024, IdentityLength = 8;

    private string CurrentFile => Path.Combine(machine.Snapshots, "current");

    private string RevertingFile => Path.Combine(machine.Snapshots, "reverting");

    /// <summary>The snapshot from which the machine has gone on since; null for none.</summary>
    public string? Current => ReadIdentity(CurrentFile);

    /// <summary>A snapshot to which the disks were being brought back when that was interrupted; null for none.</summary>
    public string? Reverting => ReadIdentity(RevertingFile);

    /// <summary>Name of what disks keep of a snapshot.</summary>
    public static string Tag(string id) => $"lodge-{id}";

    /// <summary>The file with memory and state.</summary>
    public string MemoryOf(string id) => Path.Combine(FolderOf(id), "memory.lodge");

    /// <summary>All snapshots, oldest first.</summary>
    public IReadOnlyList<SnapshotRecord> List() => [.. Folders().Select(Read).OfType<SnapshotRecord>().OrderBy(static s => s.Time).ThenBy(static s => s.Id, StringComparer.Ordinal)];

    /// <summary>Identities of those that were not finished. One whose record cannot be understood is not among them: another Lodge may.</summary>
    public IReadOnlyList<string> Unfinished() => [.. Folders().Where(id => !File.Exists(RecordOf(id)))];

    /// <summary>Finds one by name or identity.</summary>
    /// <exception cref="ManagementException">There is none.</exception>
    public SnapshotRecord Find(string nameOrId)
    {
        IReadOnlyList<SnapshotRecord> all = List();
        return all.FirstOrDefault(s => s.Name == nameOrId) ?? all.FirstOrDefault(s => s.Id == nameOrId)
            ?? throw new ManagementException($"machine '{machine.Name}' has no snapshot '{nameOrId}'; see: lodge snapshot list {machine.Name}");
    }

    /// <summary>Makes the folder of a new one.</summary>
    /// <exception cref="ManagementException">The name is taken or unusable.</exception>
    public SnapshotRecord Begin(SnapshotRequest wanted)
    {
        string id = Guid.NewGuid().ToString("n")[..IdentityLength];
        string name = wanted.Name ?? id;
        if (name.Length is 0 or > LongestName || name.Any(char.IsControl) || wanted.Description is { } text && (text.Length > LongestDescription || text.Any(char.IsControl)))
        {
            throw new ManagementException($"a snapshot's name has 1 to {LongestName} characters, its description at most {LongestDescription}, in one line");
        }
        if (List().Any(s => s.Name == name || s.Id == name))
        {
            throw new ManagementException($"machine '{machine.Name}' has a snapshot '{name}' already; choose another name, or remove it: lodge snapshot remove {machine.Name} {name}");
        }
        string? parent = Current;
        RequireOwnFolder();
        bool first = !Directory.Exists(machine.Snapshots);
        Directory.CreateDirectory(FolderOf(id), UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        // Durable before the disks have anything of it: what is left when the host goes down is found by it.
        AtomicFile.SyncFolder(machine.Snapshots);
        if (first)
        {
            AtomicFile.SyncFolder(machine.Work);
        }
        return new SnapshotRecord { Id = id, Name = name, Description = wanted.Description, Parent = parent, Time = DateTimeOffset.Now, FreshIdentity = File.Exists(machine.FreshIdentity) };
    }

    /// <summary>Makes it one that counts.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public void Finish(SnapshotRecord snapshot)
    {
        AtomicFile.Write(RecordOf(snapshot.Id), JsonSerializer.Serialize(snapshot, SnapshotJson.Default.SnapshotRecord) + "\n");
        AtomicFile.SyncFolder(machine.Snapshots);
        AtomicFile.Write(CurrentFile, snapshot.Id);
    }

    /// <summary>Notes that the disks are being brought back, so that nothing runs on half of that.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    /// <exception cref="ManagementException">The folder leads elsewhere.</exception>
    public void BeginRevert(string id)
    {
        RequireOwnFolder();
        AtomicFile.Write(RevertingFile, id);
    }

    /// <summary>Notes that they were.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public void EndRevert(SnapshotRecord snapshot)
    {
        if (snapshot.FreshIdentity)
        {
            AtomicFile.Write(machine.FreshIdentity, ""); // the identity that its guest made since is gone
        }
        else
        {
            File.Delete(machine.FreshIdentity);
        }
        AtomicFile.Write(CurrentFile, snapshot.Id);
        File.Delete(RevertingFile);
        AtomicFile.SyncFolder(machine.Snapshots);
    }

    /// <summary>Refuses while the disks are half at a snapshot, or wholly and nobody knows.</summary>
    /// <exception cref="ManagementException">That was interrupted.</exception>
    public void RequireWhole()
    {
        if (Reverting is { } interrupted)
        {
            throw new ManagementException($"machine '{machine.Name}' was being brought back to a snapshot and that was interrupted; do it again: lodge snapshot revert {machine.Name} {interrupted}");
        }
    }

    /// <summary>Makes it one that does not count any more; those that came of it come of its parent.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    /// <exception cref="ManagementException">The folder leads elsewhere.</exception>
    public void Forget(SnapshotRecord snapshot)
    {
        RequireOwnFolder();
        foreach (SnapshotRecord child in List().Where(s => s.Parent == snapshot.Id))
        {
            AtomicFile.Write(RecordOf(child.Id), JsonSerializer.Serialize(child with { Parent = snapshot.Parent }, SnapshotJson.Default.SnapshotRecord) + "\n");
        }
        if (Current == snapshot.Id)
        {
            AtomicFile.Write(CurrentFile, snapshot.Parent ?? "");
        }
        File.Delete(RecordOf(snapshot.Id));
        AtomicFile.SyncFolder(FolderOf(snapshot.Id));
    }

    /// <summary>Removes the folder of one that does not count.</summary>
    /// <exception cref="IOException">The host refuses.</exception>
    public void RemoveFolder(string id) => Directory.Delete(FolderOf(id), recursive: true);

    /// <summary>The machine's process may have been taken over by its guest, and this be root, who would follow its links. It runs no more when a command writes here.</summary>
    private void RequireOwnFolder()
    {
        if (new DirectoryInfo(machine.Snapshots).LinkTarget is not null || Folders().Any(id => new DirectoryInfo(FolderOf(id)).LinkTarget is not null))
        {
            throw new ManagementException($"the snapshots of machine '{machine.Name}' lead elsewhere by a symbolic link: {machine.Snapshots}");
        }
    }

    private static bool IsIdentity(string? text) => text is { Length: IdentityLength } && text.All(char.IsAsciiHexDigitLower);

    private string FolderOf(string id) => IsIdentity(id) ? Path.Combine(machine.Snapshots, id) : throw new ArgumentException($"'{id}' is no snapshot's identity");

    private string RecordOf(string id) => Path.Combine(FolderOf(id), "snapshot.json");

    private IEnumerable<string> Folders() =>
        Directory.Exists(machine.Snapshots) ? Directory.EnumerateDirectories(machine.Snapshots).Select(folder => Path.GetFileName(folder)!).Where(IsIdentity) : [];

    // The process of the machine, which writes these, may have been taken over by its guest: they are read as such.
    private SnapshotRecord? Read(string id)
    {
        try
        {
            SnapshotRecord? found = JsonSerializer.Deserialize(ReadBounded(RecordOf(id)), SnapshotJson.Default.SnapshotRecord);
            return found is { Version: SnapshotRecord.CurrentVersion } && found.Id == id && !found.Name.Any(char.IsControl) && found.Description?.Any(char.IsControl) != true ? found : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or JsonException)
        {
            return null;
        }
    }

    private static string? ReadIdentity(string file)
    {
        try
        {
            return ReadBounded(file).Trim() is var text && IsIdentity(text) ? text : null;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    private static string ReadBounded(string file)
    {
        byte[] buffer = new byte[LongestRecord];
        using FileStream stream = new(file, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete, 1);
        return System.Text.Encoding.UTF8.GetString(buffer, 0, stream.ReadAtLeast(buffer, LongestRecord, throwOnEndOfStream: false));
    }
}
