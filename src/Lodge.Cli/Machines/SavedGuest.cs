using Lodge.Engine.State;
using Lodge.Machine;
using Lodge.Machine.Saving;
using Lodge.Management.Host;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The saved machine that a start goes on with. It is forgotten before its guest runs: from then on the disks are no longer those that it knew.</summary>
internal sealed class SavedGuest : IDisposable
{
    private readonly MachineFolder _folder;
    private readonly SavedMachine _saved;
    private readonly bool _stays;

    private SavedGuest(MachineFolder folder, SavedMachine saved, bool stays) => (_folder, _saved, _stays) = (folder, saved, stays);

    /// <summary>Opens what a machine goes on with: a snapshot that was asked for, or what is saved of it; null when there is nothing.</summary>
    /// <param name="folder">The machine's files.</param>
    /// <param name="arguments">Arguments of its process.</param>
    /// <exception cref="LodgeException">It cannot be read.</exception>
    public static SavedGuest? Open(MachineFolder folder, IReadOnlyList<string> arguments)
    {
        try
        {
            if (arguments.FirstOrDefault(static word => word.StartsWith(SnapshotCommands.FromArgument, StringComparison.Ordinal)) is { } word)
            {
                return new SavedGuest(folder, SavedMachine.Open(new SnapshotStore(folder).MemoryOf(word[SnapshotCommands.FromArgument.Length..])), stays: true);
            }
            return File.Exists(folder.Saved) ? new SavedGuest(folder, SavedMachine.Open(folder.Saved), stays: false) : null;
        }
        catch (Exception e) when (e is IOException or SavedStateException)
        {
            throw Failure(folder, e);
        }
    }

    /// <summary>Bytes of RAM that it has: the definition may ask for less since, which is the balloon's affair until the machine boots.</summary>
    public ulong MemorySize => _saved.MemorySize;

    /// <summary>Puts it into a machine.</summary>
    /// <exception cref="LodgeException">It is damaged, or of a machine that was another one.</exception>
    public void RestoreInto(VirtualMachine machine)
    {
        try
        {
            _saved.RestoreInto(machine);
            if (_stays)
            {
                machine.NewGeneration(Guid.NewGuid()); // the guest's past is lived again: it must not draw the random numbers that it drew then
            }
        }
        catch (Exception e) when (e is IOException or SavedStateException or NotSupportedException)
        {
            throw Failure(_folder, e);
        }
    }

    /// <summary>Removes the file if it is not a snapshot's, for good when it returns; memory that is not read yet still comes from it.</summary>
    /// <exception cref="LodgeException">The host refuses.</exception>
    public void Forget()
    {
        if (!_stays)
        {
            Forget(_folder);
        }
    }

    /// <summary>Removes what is saved of a machine, or given by a template, if anything is.</summary>
    /// <exception cref="LodgeException">The host refuses.</exception>
    public static void Forget(MachineFolder folder)
    {
        try
        {
            folder.ForgetTemplate();
            if (File.Exists(folder.Saved))
            {
                File.Delete(folder.Saved);
                AtomicFile.SyncFolder(folder.Work);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LodgeException($"what is saved of machine '{folder.Name}' cannot be removed: {e.Message}");
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _saved.Dispose();

    private static LodgeException Failure(MachineFolder folder, Exception e) =>
        new($"machine '{folder.Name}' cannot go on where it was saved: {e.Message}; to let it boot instead: lodge start --fresh {folder.Name}");
}
