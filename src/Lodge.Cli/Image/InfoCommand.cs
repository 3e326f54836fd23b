using System.CommandLine;
using System.Globalization;
using System.Text;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image info</c>.</summary>
internal static class InfoCommand
{
    private const string Manual = """

        Examples:
          lodge image info disk.qcow2
          lodge image info --json disk.qcow2 | jq '."virtual-size"'
          lodge image info --backing-chain overlay.qcow2

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string> path = new("FILE");
        Option<bool> chain = new("--backing-chain") { Description = "Also all parents" };
        Command command = new("info", "Tell what an image is") { path, chain };
        shared.AddTo(command, output: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            ImageLocation location = shared.Locate(parsed, parsed.GetValue(path)!);
            IReadOnlyList<ChainLink> links = await ImageChain.ListAsync(location.Path, location.Options, parsed.GetValue(chain), session.Cancellation).ConfigureAwait(false);
            if (!shared.Json(parsed))
            {
                return ImageSession.Print(string.Join('\n', links.Select(Describe)));
            }
            List<InfoReport> reports = [.. links.Select(Report)];
            return ImageSession.Print(parsed.GetValue(chain)
                ? ImageJson.Text(reports, ImageJson.Indented.ListInfoReport)
                : ImageJson.Text(reports[0], ImageJson.Indented.InfoReport));
        }));
        return command;
    }

    /// <summary>The snapshots as qemu-img lists them.</summary>
    public static string Table(IEnumerable<ImageSnapshot> snapshots)
    {
        StringBuilder text = new("Snapshot list:\nID        TAG               VM SIZE                DATE     VM CLOCK\n");
        foreach (ImageSnapshot snapshot in snapshots)
        {
            TimeSpan clock = snapshot.MachineTime;
            text.Append(CultureInfo.InvariantCulture, $"{snapshot.Id,-9} {snapshot.Name,-16} {SizeText.Of(snapshot.VirtualMachineStateSize),8}")
                .Append(CultureInfo.InvariantCulture, $" {snapshot.Taken.ToLocalTime():yyyy-MM-dd HH:mm:ss} {(long)clock.TotalHours:00}:{clock:mm\\:ss\\.fff}\n");
        }
        return text.ToString();
    }

    /// <summary>The snapshots for JSON.</summary>
    public static List<SnapshotReport> Reports(IEnumerable<ImageSnapshot> snapshots) =>
    [
        .. snapshots.Select(snapshot => new SnapshotReport(
            snapshot.Id,
            snapshot.Name,
            snapshot.VirtualMachineStateSize,
            snapshot.Taken.ToUnixTimeSeconds(),
            snapshot.Taken.Ticks % TimeSpan.TicksPerSecond * 100,
            snapshot.MachineTime.Ticks / TimeSpan.TicksPerSecond,
            snapshot.MachineTime.Ticks % TimeSpan.TicksPerSecond * 100)),
    ];

    private static InfoReport Report(ChainLink link)
    {
        ImageInformation facts = link.Information;
        return new InfoReport
        {
            VirtualSize = facts.VirtualSize,
            Filename = link.Path,
            ClusterSize = facts.ClusterSize,
            Format = link.Format,
            ActualSize = link.ActualSize,
            FormatSpecific = facts.FormatSpecific.Count == 0 ? null : new FormatSpecificReport(link.Format, FormatFacts.ToJson(facts.FormatSpecific)),
            BackingFilename = facts.BackingName,
            FullBackingFilename = link.ParentPath,
            BackingFilenameFormat = facts.BackingFormat,
            DirtyFlag = facts.Dirty,
            Encrypted = facts.Encrypted ? true : null,
            Compressed = facts.Compressed ? true : null,
            Snapshots = facts.Snapshots.Count == 0 ? null : Reports(facts.Snapshots),
        };
    }

    private static string Describe(ChainLink link)
    {
        ImageInformation facts = link.Information;
        StringBuilder text = new();
        text.Append(CultureInfo.InvariantCulture, $"image: {link.Path}\nfile format: {link.Format}\n");
        text.Append(CultureInfo.InvariantCulture, $"virtual size: {SizeText.Of(facts.VirtualSize)} ({facts.VirtualSize} bytes)\ndisk size: {SizeText.Of(link.ActualSize)}\n");
        text.Append(facts.Encrypted ? "encrypted: yes\n" : "");
        if (facts.ClusterSize is { } cluster)
        {
            text.Append(CultureInfo.InvariantCulture, $"cluster_size: {cluster}\n");
        }
        text.Append(facts.Dirty ? "cleanly shut down: no\n" : "");
        if (facts.BackingName is { } parent)
        {
            string full = link.ParentPath is null || link.ParentPath == parent ? "" : $" (actual path: {link.ParentPath})";
            text.Append(CultureInfo.InvariantCulture, $"backing file: {parent}{full}\n");
            text.Append(facts.BackingFormat is null ? "" : $"backing file format: {facts.BackingFormat}\n");
        }
        if (facts.Snapshots.Count != 0)
        {
            text.Append(Table(facts.Snapshots));
        }
        if (facts.FormatSpecific.Count != 0)
        {
            text.Append("Format specific information:\n");
            FormatFacts.Print(text, FormatFacts.ToJson(facts.FormatSpecific), 4);
        }
        return text.ToString();
    }
}
