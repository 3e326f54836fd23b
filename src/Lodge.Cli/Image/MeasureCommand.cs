using System.CommandLine;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image measure</c>.</summary>
internal static class MeasureCommand
{
    private const string Manual = """

        Examples:
          lodge image measure -O qcow2 disk.img
          lodge image measure -O vhdx --size 100G --json

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string?> path = new("FILE") { Arity = ArgumentArity.ZeroOrOne };
        Option<string?> targetFormat = new("-O") { Description = "Format to measure for [default: raw]", HelpName = "FORMAT" };
        Option<string[]> options = TargetArguments.Create();
        Option<string?> size = new("--size") { Description = "Measure for an empty disk of this size", HelpName = "SIZE" };
        Option<string?> snapshot = new("-l") { Description = "Internal snapshot of the image", HelpName = "SNAPSHOT" };
        Command command = new("measure", "Tell how large a converted image would be") { path, targetFormat, options, size, snapshot };
        shared.AddTo(command, output: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            IDiskFormat format = DiskFormats.Named(parsed.GetValue(targetFormat) ?? "raw");
            if (TargetArguments.Help(format, parsed.GetValue(options)) is { } help)
            {
                return ImageSession.Print(help);
            }
            TargetOptions target = TargetArguments.Parse(format, parsed.GetValue(options));
            long? length = ImageArguments.ParseSizeOrNull(parsed.GetValue(size), "size") ?? target.Size;
            if (parsed.GetValue(path) is null == length is null)
            {
                throw new LodgeException("measure needs either an image or --size", ExitStatus.Usage);
            }
            ImageMeasure measure;
            if (parsed.GetValue(path) is { } file)
            {
                ImageLocation location = shared.Locate(parsed, file);
                ImageOpenOptions opening = location.Options with { Snapshot = ConvertCommand.SnapshotName(parsed.GetValue(snapshot)) };
                await using IImage image = await ImageOpener.OpenAsync(location.Path, opening, session.Cancellation).ConfigureAwait(false);
                measure = await format.MeasureAsync(image.Length, image, target.Options, session.Cancellation).ConfigureAwait(false);
            }
            else
            {
                measure = await format.MeasureAsync(length!.Value, null, target.Options, session.Cancellation).ConfigureAwait(false);
            }
            if (shared.Json(parsed))
            {
                return ImageSession.Print(ImageJson.Text(new MeasureReport(measure.Required, measure.FullyAllocated, measure.Bitmaps), ImageJson.Indented.MeasureReport));
            }
            string bitmaps = measure.Bitmaps is { } bytes ? $"bitmaps size: {bytes}\n" : "";
            return ImageSession.Print($"required size: {measure.Required}\nfully allocated size: {measure.FullyAllocated}\n{bitmaps}");
        }));
        return command;
    }
}
