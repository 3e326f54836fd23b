using System.CommandLine;
using Lodge.Storage.Disks;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image rebase</c>.</summary>
internal static class RebaseCommand
{
    private const string Manual = """

        The content stays the same: what differs between the old and the new parent is copied into the image first. With -u only the name is
        changed, for a parent that was moved or renamed; a wrong one then spoils the content.

        Examples:
          lodge image rebase -b new-base.qcow2 -F qcow2 overlay.qcow2
          lodge image rebase -b "" overlay.qcow2                              no parent any more: all is copied into the image
          lodge image rebase -u -b /images/base.qcow2 -F qcow2 overlay.qcow2

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string> path = new("FILE");
        Option<string?> backing = new("-b") { Description = "The new parent, relative to the image; empty for none", HelpName = "FILE", Required = true };
        Option<string?> backingFormat = new("-F", "-B") { Description = "Format of the new parent", HelpName = "FORMAT" };
        Option<bool> unsafe_ = new("-u") { Description = "Change the name only" };
        Option<string?> cache = ImageArguments.Cache("-t", "image", "writeback");
        Option<string?> sourceCache = ImageArguments.Cache("-T", "parents", "writeback");
        Command command = new("rebase", "Give an image another parent") { path, backing, backingFormat, unsafe_, cache, sourceCache };
        shared.AddTo(command, share: false, progress: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            string? name = parsed.GetValue(backing) is { Length: > 0 } given ? given : null;
            string? format = parsed.GetValue(backingFormat) is { } text ? DiskFormats.Named(text).Name : null;
            if (name is not null && format is null)
            {
                throw new LodgeException($"the format of the backing file {name} is not given; add -F FORMAT", ExitStatus.Usage);
            }
            bool namesOnly = parsed.GetValue(unsafe_);
            ImageLocation location = shared.Locate(parsed, parsed.GetValue(path)!, writable: true, cache: parsed.GetValue(cache));
            await using IImage opened = await ImageOpener.OpenAsync(location.Path, location.Options with { OpenBacking = !namesOnly }, session.Cancellation).ConfigureAwait(false);
            if (opened is not IBackedImage image)
            {
                throw new LodgeException($"images of the format {opened.FormatName} have no parent (backing file)");
            }
            if (namesOnly)
            {
                await image.SetBackingAsync(name, format).ConfigureAwait(false);
                await image.FlushAsync().ConfigureAwait(false);
                return 0;
            }
            ImageLocation? parent = name is null ? null : TargetArguments.Parent(location.Path, name, format, location.Options with
            {
                OpenBacking = true,
                Secret = null,
                Cache = ImageArguments.ParseCache(parsed.GetValue(sourceCache), Lodge.Storage.Files.CacheMode.WriteBack),
            });
            if (parent is not null)
            {
                ConvertCommand.Guard(parent.Path, location.Path);
            }
            IDisk? next = parent is null ? null : await ImageOpener.OpenAsync(parent.Path, parent.Options, session.Cancellation).ConfigureAwait(false);
            try
            {
                using ImageProgress progress = new($"rebasing {location.Path}", shared.ShowsProgress(parsed), shared.Quiet(parsed));
                await new ImageRebase(image, next).RunAsync(name, format, progress, cancellation: session.Cancellation).ConfigureAwait(false);
                progress.Complete();
            }
            finally
            {
                if (next is not null)
                {
                    await next.DisposeAsync().ConfigureAwait(false);
                }
            }
            return 0;
        }));
        return command;
    }
}
