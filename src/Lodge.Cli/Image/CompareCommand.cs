using System.CommandLine;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image compare</c>.</summary>
internal static class CompareCommand
{
    private const int Differ = 1;
    private const int Failure = 2;
    private const int ReadFailure = 4;

    private const string Manual = """

        Images of different sizes are alike if what one has more is zero; with -s they are not.

        Exit status: 0 alike, 1 different, 2 an image could not be opened, 4 not read.

        Examples:
          lodge image compare disk.img disk.qcow2
          lodge image compare -f raw -F vmdk disk.img disk.vmdk

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        shared.Format.Description = "Format of the first [default: recognized from its content]";
        Argument<string> first = new("FILE1");
        Argument<string> second = new("FILE2");
        Option<string?> secondFormat = new("-F") { Description = "Format of the second", HelpName = "FORMAT" };
        Option<bool> strict = new("-s") { Description = "Strict: sizes and allocation, too" };
        Option<string?> cache = ImageArguments.Cache("-T", "images", "writeback");
        Command command = new("compare", "Compare the content of two images") { first, second, secondFormat, strict, cache };
        shared.AddTo(command, output: true, progress: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(
            async session =>
            {
                ImageLocation one = shared.Locate(parsed, parsed.GetValue(first)!, cache: parsed.GetValue(cache));
                ImageLocation other = shared.Locate(parsed, parsed.GetValue(second)!, format: parsed.GetValue(secondFormat), cache: parsed.GetValue(cache));
                if (parsed.GetValue(secondFormat) is null)
                {
                    other = other with { Options = other.Options with { Format = null } };
                }
                await using IImage left = await ImageOpener.OpenAsync(one.Path, one.Options, session.Cancellation).ConfigureAwait(false);
                await using IImage right = await ImageOpener.OpenAsync(other.Path, other.Options, session.Cancellation).ConfigureAwait(false);
                using ImageProgress progress = new("comparing", shared.ShowsProgress(parsed), shared.Quiet(parsed));
                DiskComparison found;
                try
                {
                    found = await new DiskCompare(left, right, parsed.GetValue(strict)).RunAsync(progress, session.Cancellation).ConfigureAwait(false);
                }
                catch (Lodge.Storage.Disks.DiskException e)
                {
                    throw new LodgeException(e.Message, ReadFailure);
                }
                progress.Complete();
                int status = found.Difference == DiskDifference.None ? 0 : Differ;
                if (shared.Json(parsed))
                {
                    string? difference = found.Difference == DiskDifference.None ? null : found.Difference.ToString().ToLowerInvariant();
                    CompareReport report = new(status == 0, difference, difference is null ? null : found.Offset, found.SizesDiffer);
                    return ImageSession.Print(ImageJson.Text(report, ImageJson.Indented.CompareReport), status);
                }
                return shared.Quiet(parsed) ? status : ImageSession.Print(Describe(found), status);
            },
            Failure));
        return command;
    }

    private static string Describe(DiskComparison found) => (found.SizesDiffer && found.Difference != DiskDifference.Size ? "Warning: Image size mismatch!\n" : "") + found.Difference switch
    {
        DiskDifference.Content => $"Content mismatch at offset {found.Offset}!",
        DiskDifference.Size => "Strict mode: Image size mismatch!",
        DiskDifference.Status => $"Strict mode: Offset {found.Offset} block status mismatch!",
        _ => "Images are identical.",
    };
}
