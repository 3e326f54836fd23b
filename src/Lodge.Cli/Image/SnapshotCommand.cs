using System.CommandLine;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image snapshot</c>.</summary>
internal static class SnapshotCommand
{
    private const string Manual = """

        Examples:
          lodge image snapshot -c before-upgrade disk.qcow2
          lodge image snapshot -l disk.qcow2
          lodge image snapshot -a before-upgrade disk.qcow2       what was written since is lost
          lodge image snapshot -d before-upgrade disk.qcow2

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string> path = new("FILE");
        Option<bool> list = new("-l") { Description = "List the snapshots [default]" };
        Option<string?> create = new("-c") { Description = "Keep the present content under a name", HelpName = "NAME" };
        Option<string?> apply = new("-a") { Description = "Go back to a snapshot", HelpName = "SNAPSHOT" };
        Option<string?> delete = new("-d") { Description = "Forget a snapshot", HelpName = "SNAPSHOT" };
        Command command = new("snapshot", "Internal snapshots of an image") { path, list, create, apply, delete };
        shared.AddTo(command, output: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            string?[] changes = [parsed.GetValue(create), parsed.GetValue(apply), parsed.GetValue(delete)];
            int asked = changes.Count(change => change is not null) + (parsed.GetValue(list) ? 1 : 0);
            if (asked > 1)
            {
                throw new LodgeException("give one of -l, -c, -a and -d", ExitStatus.Usage);
            }
            bool writes = changes.Any(change => change is not null);
            ImageLocation location = shared.Locate(parsed, parsed.GetValue(path)!, writable: writes);
            await using IImage image = await ImageOpener.OpenAsync(location.Path, location.Options with { OpenBacking = writes }, session.Cancellation).ConfigureAwait(false);
            if (!writes)
            {
                IReadOnlyList<ImageSnapshot> snapshots = image is ISnapshots some ? some.Snapshots : [];
                return shared.Json(parsed) ? ImageSession.Print(ImageJson.Text(InfoCommand.Reports(snapshots), ImageJson.Indented.ListSnapshotReport))
                    : ImageSession.Print(snapshots.Count == 0 ? "" : InfoCommand.Table(snapshots));
            }
            if (image is not ISnapshots keeper)
            {
                throw new LodgeException($"images of the format {image.FormatName} keep no snapshots");
            }
            // A half done change of snapshots helps nobody: it is not cancelled.
            await (changes switch
            {
                [{ } name, _, _] => keeper.CreateSnapshotAsync(name),
                [_, { } name, _] => keeper.ApplySnapshotAsync(name),
                [_, _, { } name] => keeper.DeleteSnapshotAsync(name),
                _ => default,
            }).ConfigureAwait(false);
            await image.FlushAsync().ConfigureAwait(false);
            return 0;
        }));
        return command;
    }
}
