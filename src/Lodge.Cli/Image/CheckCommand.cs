using System.CommandLine;
using System.Globalization;
using System.Text;
using Lodge.Cli.Console;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image check</c>.</summary>
internal static class CheckCommand
{
    private const int NotCompleted = 1;
    private const int Corrupt = 2;
    private const int Leaked = 3;
    private const int Unsupported = 63;

    private const string Manual = """

        Exit status: 0 no errors, 1 the check could not be made, 2 the image is corrupt, 3 there is leaked space, 63 the format has no check.

        Examples:
          lodge image check disk.qcow2
          lodge image check -r leaks disk.qcow2      frees space that nothing uses
          lodge image check -r all disk.qcow2        mends what can be mended; make a copy first

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string> path = new("FILE");
        Option<string?> repair = new("-r", "--repair") { Description = "Mend leaks or all", HelpName = "leaks|all" };
        Option<string?> cache = ImageArguments.Cache("-T", "image", "writeback");
        Command command = new("check", "Check an image, and mend it") { path, repair, cache };
        shared.AddTo(command, output: true, progress: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(session => RunAsync(
            session,
            shared,
            parsed,
            parsed.GetValue(path)!,
            parsed.GetValue(repair) switch
            {
                null => CheckRepair.None,
                "leaks" => CheckRepair.Leaks,
                "all" => CheckRepair.All,
                { } other => throw new LodgeException($"'-r {other}' is not known; give leaks or all", ExitStatus.Usage),
            },
            parsed.GetValue(cache)), NotCompleted));
        return command;
    }

    private static async Task<int> RunAsync(ImageSession session, ImageArguments shared, ParseResult parsed, string path, CheckRepair repair, string? cache)
    {
        ImageLocation location = shared.Locate(parsed, path, writable: repair != CheckRepair.None, cache: cache);
        await using IImage image = await ImageOpener.OpenAsync(location.Path, location.Options with { OpenBacking = false, Checking = true }, session.Cancellation).ConfigureAwait(false);
        if (image is not ICheck checkable)
        {
            HostFile.Error($"lodge: the format {image.FormatName} has no check");
            return Unsupported;
        }
        CheckResult first = await CheckAsync(repair).ConfigureAwait(false);
        CheckResult result = first;
        if (first.CorruptionsFixed + first.LeaksFixed > 0)
        {
            result = await CheckAsync(CheckRepair.None).ConfigureAwait(false);
        }
        int status = result.CheckErrors > 0 ? NotCompleted : result.Corruptions > 0 ? Corrupt : result.Leaks > 0 ? Leaked : 0;
        if (shared.Json(parsed))
        {
            return ImageSession.Print(ImageJson.Text(Report(location.Path, image.FormatName, first, result), ImageJson.Indented.CheckReport), status);
        }
        return shared.Quiet(parsed) ? status : ImageSession.Print(Describe(first, result), status);

        async Task<CheckResult> CheckAsync(CheckRepair mode)
        {
            using ImageProgress progress = new($"checking {location.Path}", shared.ShowsProgress(parsed), shared.Quiet(parsed));
            CheckResult found = await checkable.CheckAsync(mode, progress, session.Cancellation).ConfigureAwait(false);
            progress.Complete();
            return found;
        }
    }

    private static CheckReport Report(string path, string format, CheckResult first, CheckResult result) => new()
    {
        ImageEndOffset = NotZero(result.ImageEndOffset),
        TotalClusters = NotZero(result.TotalClusters),
        CheckErrors = result.CheckErrors,
        Corruptions = NotZero(result.Corruptions),
        CorruptionsFixed = NotZero(first.CorruptionsFixed),
        Leaks = NotZero(result.Leaks),
        LeaksFixed = NotZero(first.LeaksFixed),
        AllocatedClusters = NotZero(result.AllocatedClusters),
        FragmentedClusters = NotZero(result.FragmentedClusters),
        CompressedClusters = NotZero(result.CompressedClusters),
        Filename = path,
        Format = format,
    };

    private static long? NotZero(long count) => count == 0 ? null : count;

    private static string Describe(CheckResult first, CheckResult result)
    {
        StringBuilder text = new();
        foreach (string message in first.Messages)
        {
            text.Append(message).Append('\n');
        }
        if (first.CorruptionsFixed + first.LeaksFixed > 0)
        {
            text.Append(CultureInfo.InvariantCulture, $"The following inconsistencies were found and repaired:\n\n    {first.LeaksFixed} leaked clusters\n    {first.CorruptionsFixed} corruptions\n\n");
        }
        text.Append((result.Corruptions, result.Leaks, result.CheckErrors) switch
        {
            (0, 0, 0) => "No errors were found on the image.\n",
            (0, var leaks, 0) => $"\n{leaks} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n",
            (0, _, var errors) => $"\n{errors} internal errors have occurred during the check.\n",
            (var corruptions, var leaks, _) =>
                $"\n{corruptions} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n" +
                (leaks == 0 ? "" : $"\n{leaks} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n"),
        });
        if (result.TotalClusters > 0)
        {
            double allocated = Math.Max(result.AllocatedClusters, 1);
            text.Append(CultureInfo.InvariantCulture, $"{result.AllocatedClusters}/{result.TotalClusters} = {100.0 * result.AllocatedClusters / result.TotalClusters:F2}% allocated, ")
                .Append(CultureInfo.InvariantCulture, $"{100 * result.FragmentedClusters / allocated:F2}% fragmented, {100 * result.CompressedClusters / allocated:F2}% compressed clusters\n");
        }
        if (result.ImageEndOffset > 0)
        {
            text.Append(CultureInfo.InvariantCulture, $"Image end offset: {result.ImageEndOffset}\n");
        }
        return text.ToString();
    }
}
