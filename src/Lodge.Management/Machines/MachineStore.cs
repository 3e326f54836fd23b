using Lodge.Management.Host;
using Lodge.Storage.Disks;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Machines;

/// <summary>
/// The machines of this user, or of the system for root: <c>FOLDER/NAME/</c> each. A machine is made in a folder <c>.new-*</c> that its maker has locked and is renamed when
/// complete; a removed one is renamed to <c>.gone-*</c> before it is deleted. What a dead command left is removed by the next that changes the store.
/// </summary>
/// <param name="folder">Where it is.</param>
public sealed class MachineStore(string folder)
{
    private const string NewPrefix = ".new-", GonePrefix = ".gone-";
    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute;

    /// <summary>The store of this user, or of the system for root.</summary>
    /// <exception cref="ManagementException">There is no home directory.</exception>
    public static MachineStore ForUser() => new(Path.Combine(HostFolders.Data, "machines"));

    /// <summary>Where it is.</summary>
    public string Folder => folder;

    /// <summary>What happened to its machines.</summary>
    public MachineJournal Journal => new(folder);

    /// <summary>All machines by name. Temporary ones that have ended are removed: their own processes may not do that.</summary>
    public IReadOnlyList<MachineReport> List() => !Directory.Exists(folder)
        ? []
        : [.. Directory.EnumerateDirectories(folder).Where(path => MachineName.IsName(Path.GetFileName(path))).Order(StringComparer.Ordinal).Select(path => new MachineFolder(path).Report())
            .Where(report => !IsGone(report))];

    /// <summary>The folder of a machine that there is.</summary>
    /// <exception cref="ManagementException">There is none of that name.</exception>
    public MachineFolder Get(string name)
    {
        MachineFolder machine = At(MachineName.Check(name));
        return machine.Exists ? machine : throw new ManagementException($"there is no machine '{name}'; see 'lodge list'");
    }

    /// <summary>The folder of a machine and its definition.</summary>
    /// <exception cref="ManagementException">There is none, or its definition cannot be used.</exception>
    public (MachineFolder Folder, MachineDefinition Definition) Read(string name)
    {
        MachineFolder machine = Get(name);
        return (machine, machine.ReadDefinition(out string? problem) ?? throw new ManagementException($"machine '{name}' cannot be used: {problem}"));
    }

    /// <summary>Makes a machine.</summary>
    /// <param name="name">Its name, which no other has.</param>
    /// <param name="definition">What it is made from.</param>
    /// <param name="fill">Adds files, its disk for example, to the new folder.</param>
    /// <exception cref="ManagementException">The name is taken, or the store cannot be written; nothing is left.</exception>
    public MachineFolder Create(string name, MachineDefinition definition, Action<MachineFolder>? fill = null)
    {
        MachineFolder final = At(MachineName.Check(name));
        string work = Path.Combine(folder, $"{NewPrefix}{Guid.NewGuid():n}");
        SafeFileHandle? claim = null;
        try
        {
            Directory.CreateDirectory(folder, OwnerOnly);
            RefuseTaken(final);
            RemoveLeftovers();
            Directory.CreateDirectory(work, OwnerOnly);
            MachineFolder made = new(work);
            claim = made.TryChange(wait: false);
            made.WriteDefinition(definition);
            Directory.CreateDirectory(made.Work, OwnerOnly);
            fill?.Invoke(made);
            RefuseTaken(final);
            Directory.Move(work, final.Path);
            AtomicFile.SyncFolder(folder);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            RefuseTaken(final);
            throw new ManagementException($"machine '{name}' cannot be made in {folder}: {e.Message}", e);
        }
        finally
        {
            claim?.Dispose();
            if (Directory.Exists(work))
            {
                Delete(work);
            }
        }
        Journal.Add(new MachineEvent(DateTimeOffset.Now, name, definition.Id, "created", definition.Image));
        return final;
    }

    /// <summary>Changes a definition. What runs keeps what it was started with.</summary>
    /// <exception cref="ManagementException">There is no such machine, or it cannot be written.</exception>
    public MachineDefinition Edit(string name, Func<MachineDefinition, MachineDefinition> change) => Changing(name, machine =>
    {
        MachineDefinition old = machine.ReadDefinition(out string? problem) ?? throw new ManagementException($"machine '{name}' cannot be used: {problem}");
        MachineDefinition changed = change(old);
        if (!machine.IsRunning())
        {
            machine.ForgetTemplate(); // of a machine as it was
        }
        machine.WriteDefinition(changed);
        Journal.Add(new MachineEvent(DateTimeOffset.Now, name, changed.Id, "edited"));
        return changed;
    });

    /// <summary>Gives a machine that does not run another name.</summary>
    /// <exception cref="ManagementException">It runs, the name is taken, or it cannot be done.</exception>
    public void Rename(string name, string newName) => Changing(name, machine =>
    {
        MachineFolder final = At(MachineName.Check(newName));
        RefuseTaken(final);
        using SafeFileHandle still = machine.TryRun() ?? throw new ManagementException($"machine '{name}' runs; stop it first: lodge stop {name}");
        MachineDefinition? definition = machine.ReadDefinition(out _);
        Directory.Move(machine.Path, final.Path);
        AtomicFile.SyncFolder(folder);
        Journal.Add(new MachineEvent(DateTimeOffset.Now, newName, definition?.Id ?? default, "renamed", $"was {name}"));
        return true;
    });

    /// <summary>Makes a machine like another one that does not run and shall not while this works.</summary>
    /// <param name="name">The other.</param>
    /// <param name="newName">Its name, which no other has.</param>
    /// <param name="define">Makes its definition of the other's; the identity, the time and what it is a clone of are set here.</param>
    /// <param name="fill">Puts files into the folder of the new machine; given that of the other first.</param>
    /// <exception cref="ManagementException">The other runs, the name is taken, or the host refuses; then there is no new machine.</exception>
    public MachineFolder Clone(string name, string newName, Func<MachineDefinition, MachineDefinition> define, Action<MachineFolder, MachineFolder> fill) => Changing(name, machine =>
    {
        RefuseTaken(At(MachineName.Check(newName)));
        using SafeFileHandle still = machine.TryRun() ?? throw new ManagementException($"machine '{name}' runs; stop it first: lodge stop {name}");
        MachineDefinition definition = machine.ReadDefinition(out string? problem) ?? throw new ManagementException($"machine '{name}' cannot be used: {problem}");
        new SnapshotStore(machine).RequireWhole();
        MachineDiskClone.RemoveLeftovers(machine);
        MachineDefinition made = define(definition) with { Id = Guid.NewGuid(), Created = DateTimeOffset.Now, ClonedFrom = definition.Id, Autostart = false, Temporary = false };
        try
        {
            MachineFolder clone = Create(newName, made, folder => fill(machine, folder));
            Journal.Add(new MachineEvent(DateTimeOffset.Now, name, definition.Id, "cloned", $"to {newName}"));
            return clone;
        }
        catch (DiskException e)
        {
            throw new DiskException(e.Error, $"machine '{newName}' cannot be made: {e.Message}", e);
        }
        finally
        {
            MachineDiskClone.RemoveLeftovers(machine); // of one that failed; of one that did not there are none
        }
    });

    /// <summary>Removes a machine that does not run, with its disk and all that is kept of it.</summary>
    /// <exception cref="ManagementException">It runs, or cannot be removed.</exception>
    public void Remove(string name) => Changing(name, machine =>
    {
        using SafeFileHandle still = machine.TryRun() ?? throw new ManagementException($"machine '{name}' runs; stop it first: lodge stop {name}, or give --force");
        MachineDefinition? definition = machine.ReadDefinition(out _);
        string gone = Path.Combine(folder, $"{GonePrefix}{Guid.NewGuid():n}");
        Directory.Move(machine.Path, gone);
        AtomicFile.SyncFolder(folder);
        Delete(gone);
        Journal.Add(new MachineEvent(DateTimeOffset.Now, name, definition?.Id ?? default, "removed"));
        return true;
    });

    /// <summary>Does something while no other command changes the machine.</summary>
    /// <exception cref="ManagementException">There is no such machine, or the host refuses.</exception>
    public T Changing<T>(string name, Func<MachineFolder, T> action)
    {
        MachineFolder machine = Get(name);
        try
        {
            RemoveLeftovers();
            using SafeFileHandle claim = machine.TryChange(wait: true)!;
            // It may have been removed or renamed meanwhile; then the lock is of a file that is not there.
            return machine.Exists ? action(machine) : throw new ManagementException($"machine '{name}' was removed or renamed by another command");
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ManagementException(machine.Exists ? $"machine '{name}' cannot be changed: {e.Message}" : $"machine '{name}' was removed or renamed by another command", e);
        }
    }

    /// <summary>Whether a machine was to go with its process, and has gone.</summary>
    private bool IsGone(MachineReport report)
    {
        if (report is not { Definition: { Temporary: true } definition, State: MachineStates.Stopped, End: not null })
        {
            return false;
        }
        MachineFolder machine = At(report.Name);
        try
        {
            using SafeFileHandle? claim = machine.TryChange(wait: false), still = claim is null ? null : machine.TryRun();
            if (still is null)
            {
                return !machine.Exists;
            }
            string gone = Path.Combine(folder, $"{GonePrefix}{Guid.NewGuid():n}");
            Directory.Move(machine.Path, gone);
            Delete(gone);
            Journal.Add(new MachineEvent(DateTimeOffset.Now, report.Name, definition.Id, "removed"));
            return true;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return !machine.Exists;
        }
    }

    private MachineFolder At(string name) => new(Path.Combine(folder, name));

    private void RefuseTaken(MachineFolder machine)
    {
        if (machine.Exists && !IsGone(machine.Report()))
        {
            _ = machine.ReadDefinition(out string? problem);
            throw new ManagementException($"the name '{machine.Name}' is taken{(problem is null ? "" : $" ({problem})")}; choose another, or remove it: lodge remove {machine.Name}");
        }
    }

    private void RemoveLeftovers()
    {
        foreach (string left in Directory.EnumerateDirectories(folder, ".*"))
        {
            string name = Path.GetFileName(left);
            if (name.StartsWith(GonePrefix, StringComparison.Ordinal))
            {
                Delete(left);
            }
            else if (name.StartsWith(NewPrefix, StringComparison.Ordinal))
            {
                // Its maker takes the lock right after it made the folder: a folder of this minute without a lock may have one in a moment.
                using SafeFileHandle? claim = DateTime.UtcNow - Directory.GetLastWriteTimeUtc(left) < TimeSpan.FromMinutes(1) && !File.Exists(Path.Combine(left, "change.lock"))
                    ? null
                    : new MachineFolder(left).TryChange(wait: false);
                if (claim is not null)
                {
                    Delete(left);
                }
            }
        }
    }

    private static void Delete(string path)
    {
        try
        {
            Directory.Delete(path, recursive: true);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            // Another command removes it too, or will.
        }
    }
}
