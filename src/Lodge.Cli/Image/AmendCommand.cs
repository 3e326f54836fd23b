using System.CommandLine;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image amend</c>.</summary>
internal static class AmendCommand
{
    private const string Manual = """

        Examples:
          lodge image amend -o compat=1.1,lazy_refcounts=on disk.qcow2
          lodge image amend -f qcow2 -o help

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string?> path = new("FILE") { Arity = ArgumentArity.ZeroOrOne };
        Option<string[]> options = TargetArguments.Create();
        Option<string?> cache = ImageArguments.Cache("-t", "image", "writeback");
        Command command = new("amend", "Change options of an existing image") { path, options, cache };
        shared.AddTo(command, share: false, progress: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            string[]? lists = parsed.GetValue(options);
            if (parsed.GetValue(shared.Format) is { } known && TargetArguments.Help(DiskFormats.Named(known), lists, amend: true) is { } early)
            {
                return ImageSession.Print(early);
            }
            string file = parsed.GetValue(path) ?? throw new LodgeException("the image is missing, as in: lodge image amend -o compat=1.1 disk.qcow2", ExitStatus.Usage);
            if (lists is null)
            {
                throw new LodgeException("amend needs -o NAME=VALUE; -o help lists what can be changed", ExitStatus.Usage);
            }
            ImageLocation location = shared.Locate(parsed, file, writable: true, cache: parsed.GetValue(cache));
            await using IImage image = await ImageOpener.OpenAsync(location.Path, location.Options, session.Cancellation).ConfigureAwait(false);
            IDiskFormat format = DiskFormats.Named(image.FormatName);
            if (TargetArguments.Help(format, lists, amend: true) is { } help)
            {
                return ImageSession.Print(help);
            }
            FormatOptions wanted = TargetArguments.Parse(format, lists).Options;
            if (format.Options.FirstOrDefault(option => !option.Amendable && wanted.Names.Contains(option.Name)) is { } fixedOption)
            {
                throw new LodgeException($"the option '{fixedOption.Name}' of {format.Name} cannot be changed on an existing image; convert it instead");
            }
            if (image is not IAmend changeable)
            {
                throw new LodgeException($"images of the format {format.Name} have no options that can be changed");
            }
            using ImageProgress progress = new($"changing {location.Path}", shared.ShowsProgress(parsed), shared.Quiet(parsed));
            await changeable.AmendAsync(wanted, progress, session.Cancellation).ConfigureAwait(false);
            await image.FlushAsync(session.Cancellation).ConfigureAwait(false);
            progress.Complete();
            return 0;
        }));
        return command;
    }
}
