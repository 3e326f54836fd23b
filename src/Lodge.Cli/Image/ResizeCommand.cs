using System.CommandLine;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image resize</c>.</summary>
internal static class ResizeCommand
{
    private const string Manual = """

        Shrink the partitions and file systems inside before the image; after growing it, grow them.

        Examples:
          lodge image resize disk.qcow2 40G
          lodge image resize disk.qcow2 +10G
          lodge image resize --shrink disk.qcow2 -5G
          lodge image resize -f raw --preallocation=full disk.img +1G

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string> path = new("FILE");
        Argument<string> size = new("SIZE") { Description = "The new size, or + or - and what is added or taken" };
        Option<bool> shrink = new("--shrink") { Description = "Allow a smaller size: data behind it is lost" };
        Option<string?> preallocation = new("--preallocation") { Description = "What is added is allocated: off, falloc (raw) or full [default: off]", HelpName = "MODE" };
        Command command = new("resize", "Change the size of an image") { path, size, shrink, preallocation };
        shared.AddTo(command, share: false, progress: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            string text = parsed.GetValue(size)!;
            string mode = parsed.GetValue(preallocation) ?? "off";
            if (mode is not ("off" or "falloc" or "full"))
            {
                throw new LodgeException($"'--preallocation={mode}' is not known; give off, falloc or full", ExitStatus.Usage);
            }
            ImageLocation location = shared.Locate(parsed, parsed.GetValue(path)!, writable: true);
            await using IImage image = await ImageOpener.OpenAsync(location.Path, location.Options, session.Cancellation).ConfigureAwait(false);
            long amount = ImageArguments.ParseSize(text.TrimStart('+', '-'), "size");
            long length = text[0] switch { '+' => checked(image.Length + amount), '-' => image.Length - amount, _ => amount };
            if (length <= 0)
            {
                throw new LodgeException($"the image of {image.Length} bytes cannot become {length} bytes long");
            }
            using (ImageProgress progress = new($"resizing {location.Path}", shared.ShowsProgress(parsed), shared.Quiet(parsed)))
            {
                await ImageResize.RunAsync(image, length, parsed.GetValue(shrink), mode, progress, session.Cancellation).ConfigureAwait(false);
            }
            return shared.Quiet(parsed) ? 0 : ImageSession.Print("Image resized.");
        }));
        return command;
    }
}
