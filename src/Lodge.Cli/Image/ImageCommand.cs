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

    /// <summary>Builds the group.</summary>
    public static Command Create()
    {
        Command group = new("image", "Make, convert, examine and change disk images")
        {
            // Images as files
            CreateCommand.Create(),
            InfoCommand.Create(),
            CheckCommand.Create(),
            ConvertCommand.Create(),
            ResizeCommand.Create(),
            MapCommand.Create(),
            CompareCommand.Create(),
            MeasureCommand.Create(),
            SnapshotCommand.Create(),
            CommitCommand.Create(),
            RebaseCommand.Create(),
            DdCommand.Create(),
            BenchCommand.Create(),
            AmendCommand.Create(),
            ImportCommand.Create(),
            ExportCommand.Create(),

            // Over the network
            ServeCommand.Create(),

            // The local store
            ListCommand.Create(),
            PullCommand.Create(),
            BuildCommand.Create(),
            RemoveCommand.Create(),
        };
        ImageManual.AddTo(group, Manual);
        return group;
    }
}
