using System.CommandLine;
using Lodge.Cli.Image.Store;

namespace Lodge.Cli.Image;

/// <summary>The group <c>lodge image</c>: qemu-img's verbs with its option letters, meanings, JSON names and exit statuses.</summary>
internal static class ImageCommand
{
    private const string Manual = """

        Formats: raw, qcow2, vpc (VHD), vhdx, vmdk, vdi and what '-o help' and error messages list. SIZE is bytes or a number with k, M, G, T, P, E.

        Examples:
          lodge image create -f qcow2 disk.qcow2 20G
          lodge image create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2
          lodge image convert -O vmdk disk.qcow2 disk.vmdk
          lodge image info --json disk.qcow2
          lodge image build debian:bookworm

        Each verb has its own: lodge image convert --help

        """;

    private static readonly (string Name, Func<Command> Create)[] Verbs =
    [
        // Images as files
        ("create", CreateCommand.Create),
        ("info", InfoCommand.Create),
        ("check", CheckCommand.Create),
        ("convert", ConvertCommand.Create),
        ("resize", ResizeCommand.Create),
        ("map", MapCommand.Create),
        ("compare", CompareCommand.Create),
        ("measure", MeasureCommand.Create),
        ("snapshot", SnapshotCommand.Create),
        ("commit", CommitCommand.Create),
        ("rebase", RebaseCommand.Create),
        ("dd", DdCommand.Create),
        ("bench", BenchCommand.Create),
        ("amend", AmendCommand.Create),
        ("import", ImportCommand.Create),
        ("export", ExportCommand.Create),

        // Over the network
        ("serve", ServeCommand.Create),

        // The local store
        ("list", ListCommand.Create),
        ("pull", PullCommand.Create),
        ("build", BuildCommand.Create),
        ("remove", RemoveCommand.Create),
    ];

    /// <summary>Builds the group.</summary>
    /// <param name="verb">The only verb that will be parsed, if it is known: making the others takes longer than many an image operation.</param>
    public static Command Create(string? verb = null)
    {
        Command group = new("image", "Make, convert, examine and change disk images");
        bool only = Verbs.Any(known => known.Name == verb);
        foreach ((string name, Func<Command> create) in Verbs)
        {
            if (!only || name == verb)
            {
                group.Add(create());
            }
        }
        ImageManual.AddTo(group, Manual);
        return group;
    }
}
