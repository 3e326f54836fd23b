using Lodge.Cli.Run;
using Lodge.Engine.State;
using Lodge.Machine;
using Lodge.Machine.Saving;
using Lodge.Management;
using Lodge.Management.Machines;
using Lodge.Storage.Disks;

namespace Lodge.Cli.Machines;

/// <summary>Makes and removes snapshots of a machine whose disks this process has open.</summary>
/// <param name="folder">The machine's files.</param>
/// <param name="disks">Its disks.</param>
/// <param name="machine">The machine when it is there; null when it does not run.</param>
/// <param name="devices">Names of its disks and network cards when it is there.</param>
internal sealed class SnapshotMaker(MachineFolder folder, RunDisks disks, VirtualMachine? machine, IReadOnlyList<string>? devices = null)
{
    private readonly SnapshotStore _store = new(folder);

    /// <summary>Makes one; returns when it is whole and durable.</summary>
    /// <exception cref="ManagementException">It cannot be made; nothing is left of it.</exception>
    public SnapshotRecord Create(SnapshotRequest wanted) => Try("made", () =>
    {
        _store.RequireWhole();
        disks.RequireSnapshots();
        disks.Flush(); // the most of it while the guest goes on
        RemoveUnfinished();
        SnapshotRecord snapshot = _store.Begin(wanted);
        string tag = SnapshotStore.Tag(snapshot.Id), memory = _store.MemoryOf(snapshot.Id);
        bool kept = false;
        try
        {
            if (machine is not null && wanted.Memory)
            {
                MachineSnapshot live = MachineImage.BeginSnapshot(
                    machine,
                    memory,
                    () =>
                    {
                        disks.CreateSnapshot(tag);
                        kept = true;
                    },
                    new SaveOptions { Name = folder.Name, Version = Program.Version });
                SaveResult written = live.Written.GetAwaiter().GetResult();
                snapshot = snapshot with { Memory = true, MemoryBytes = written.FileLength, Devices = devices, Pause = Math.Round(live.Pause.TotalMilliseconds, 1) };
            }
            else
            {
                TimeSpan pause = Held(() => disks.CreateSnapshot(tag));
                kept = true;
                if (machine is null && wanted.Memory && new FileInfo(folder.Saved) is { Exists: true, LinkTarget: null })
                {
                    File.Copy(folder.Saved, memory);
                    snapshot = snapshot with { Memory = true, MemoryBytes = new FileInfo(memory).Length };
                }
                snapshot = snapshot with { Pause = Math.Round(pause.TotalMilliseconds, 1) };
            }
            _store.Finish(snapshot);
            return snapshot;
        }
        catch
        {
            if (kept)
            {
                Held(() => disks.DeleteSnapshot(tag));
            }
            _store.RemoveFolder(snapshot.Id);
            throw;
        }
    });

    /// <summary>Removes one.</summary>
    /// <exception cref="ManagementException">It is not there, or cannot be removed.</exception>
    public void Remove(string nameOrId) => Try("removed", () =>
    {
        _store.RequireWhole();
        _store.Forget(_store.Find(nameOrId));
        RemoveUnfinished();
        return true;
    });

    /// <summary>Removes what is left of snapshots that were not finished, or not quite removed.</summary>
    public void RemoveUnfinished()
    {
        foreach (string id in _store.Unfinished())
        {
            Held(() => disks.DeleteSnapshot(SnapshotStore.Tag(id)));
            _store.RemoveFolder(id);
        }
    }

    private TimeSpan Held(Action action)
    {
        if (machine is not null)
        {
            return machine.Hold(action);
        }
        action();
        return TimeSpan.Zero;
    }

    private static T Try<T>(string done, Func<T> action)
    {
        try
        {
            return action();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or DiskException or NotSupportedException or InvalidOperationException or LodgeException or SavedStateException)
        {
            throw new ManagementException($"the snapshot cannot be {done}: {e.Message}", e);
        }
    }
}
