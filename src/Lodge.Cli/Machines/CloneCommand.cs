using System.CommandLine;
using Lodge.Cli.Console;
using Lodge.Cli.Image;
using Lodge.Management.Host;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>clone</c>.</summary>
internal static class CloneCommand
{
    private const string Manual = """

        NEW has the options of NAME, which must not run, and its disk as it stands, and is another machine: identity, addresses of its network cards, CMOS, and in a guest of a stored image machine ID and SSH host keys are its own,
        the latter when its guest agent first answers. It does not start with the host until 'lodge edit NEW --autostart on'. Not cloned: snapshots, and what 'lodge save' kept: the clone of a saved machine boots, from a disk as
        after a power failure.

        Without --linked NEW gets a copy of the disk. With it the disk stands still from now on, and both machines keep what they change in overlays on it: that takes no time and no room. Either may be removed. It is not for a
        machine with snapshots.

        Disks given by --disk are in both machines, so they must be readonly.

        Examples:
          lodge clone web web2
          lodge clone --linked web try && lodge start try

        """;

    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> name = MachineCommands.Name();
        Argument<string> newName = new("NEW") { Description = "Name of the new machine" };
        Option<bool> linked = new("--linked") { Description = "Let both stand on one disk that never changes again, in place of a copy" };
        Command command = new("clone", "Make another machine like one that does not run") { name, newName, linked };
        command.SetAction(parsed =>
        {
            Clone(MachineStore.ForUser(), parsed.GetValue(name)!, parsed.GetValue(newName)!, parsed.GetValue(linked));
            return 0;
        });
        ImageManual.AddTo(command, Manual);
        return command;
    }

    private static void Clone(MachineStore store, string name, string newName, bool linked)
    {
        IReadOnlyList<string> exclusive = [];
        bool saved = false;
        store.Clone(
            name,
            newName,
            definition =>
            {
                _ = DefinitionOptions.Read(definition, store.Get(name)); // from here on all options are understood
                exclusive = CloneDefinition.Exclusive(definition);
                return CloneDefinition.Make(definition, name);
            },
            (source, clone) =>
            {
                saved = File.Exists(source.Saved);
                if (!File.Exists(source.Disk))
                {
                    return; // it runs the default system or a kernel of the user's, which have none
                }
                SnapshotCommands.RemoveUnfinished(source); // they would be in the way of a link and are nobody's
                if (linked)
                {
                    MachineDiskClone.LinkAsync(source, clone).GetAwaiter().GetResult();
                }
                else
                {
                    using ImageProgress progress = new($"Copying the disk of {name}", asked: false, quiet: false);
                    MachineDiskClone.CopyAsync(source, clone, progress).GetAwaiter().GetResult();
                }
                AtomicFile.Write(clone.FreshIdentity, "");
            });
        if (saved)
        {
            HostFile.Error($"lodge: what is saved of '{name}' is not cloned: '{newName}' boots, from a disk as after a power failure");
        }
        if (exclusive.Count != 0)
        {
            HostFile.Error($"lodge: '{newName}' has {string.Join(", ", exclusive)} as '{name}' has, and only one of them at a time can; to change it: lodge edit {newName}");
        }
    }
}
