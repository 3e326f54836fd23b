using System.CommandLine;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Lodge.Storage.Operations;

namespace Lodge.Cli.Image;

/// <summary>The verb <c>image commit</c>.</summary>
internal static class CommitCommand
{
    private const string Manual = """

        The parent then has the content of the image. Without -b and -d the image is emptied. Other images with the same parent are spoiled by it.

        Examples:
          lodge image commit overlay.qcow2
          lodge image commit -d overlay.qcow2                  leaves the image as it is, to be removed
          lodge image commit -b base.qcow2 top.qcow2           through all layers between, into base.qcow2

        """;

    public static Command Create()
    {
        ImageArguments shared = new();
        Argument<string> path = new("FILE");
        Option<string?> target = new("-b") { Description = "The image of the chain to write into [default: the parent]", HelpName = "FILE" };
        Option<bool> keep = new("-d") { Description = "Do not empty the image" };
        Option<string?> rate = new("-r") { Description = "Most bytes a second", HelpName = "SIZE" };
        Option<string?> cache = ImageArguments.Cache("-t", "images", "writeback");
        Command command = new("commit", "Write what an image holds into its parent") { path, target, keep, rate, cache };
        shared.AddTo(command, share: false, progress: true);
        ImageManual.AddTo(command, Manual);
        command.SetAction(parsed => ImageSession.Run(async session =>
        {
            ImageLocation location = shared.Locate(parsed, parsed.GetValue(path)!, writable: true, cache: parsed.GetValue(cache));
            ImageOpenOptions alone = location.Options with { OpenBacking = false };
            IReadOnlyList<ChainLink> chain = await ImageChain.ListAsync(location.Path, location.Options with { ReadOnly = true }, true, session.Cancellation).ConfigureAwait(false);
            int below = Find(location.Path, chain, parsed.GetValue(target));
            List<IBackedImage> layers = [];
            try
            {
                for (int index = 0; index < below; index++)
                {
                    bool top = index == 0;
                    IImage layer = await ImageOpener.OpenAsync(
                        chain[index].Path, alone with { Format = chain[index].Format, ReadOnly = !top, Secret = top ? alone.Secret : null }, session.Cancellation).ConfigureAwait(false);
                    layers.Add((IBackedImage)layer);
                }
                await using IImage bottom = await ImageOpener.OpenAsync(
                    chain[below].Path, location.Options with { Format = chain[below].Format, Secret = null }, session.Cancellation).ConfigureAwait(false);
                using (ImageProgress progress = new($"committing {location.Path}", shared.ShowsProgress(parsed), shared.Quiet(parsed)))
                {
                    long bytes = ImageArguments.ParseSizeOrNull(parsed.GetValue(rate), "rate") ?? 0;
                    await new ImageCommit(layers, bottom).RunAsync(progress, bytes, cancellation: session.Cancellation).ConfigureAwait(false);
                    progress.Complete();
                }
                if (below == 1 && !parsed.GetValue(keep))
                {
                    await layers[0].MakeEmptyAsync().ConfigureAwait(false);
                    await layers[0].FlushAsync().ConfigureAwait(false);
                }
            }
            finally
            {
                foreach (IBackedImage layer in layers)
                {
                    await layer.DisposeAsync().ConfigureAwait(false);
                }
            }
            await RenewLinkAsync(chain[below - 1], alone, session.Cancellation).ConfigureAwait(false);
            return shared.Quiet(parsed) ? 0 : ImageSession.Print("Image committed.");
        }));
        return command;
    }

    /// <summary>
    /// An image that remembers its parent's identity is told the new one that writing gave it: the parent is what it should be, having been written from this very image.
    /// </summary>
    private static async Task RenewLinkAsync(ChainLink link, ImageOpenOptions alone, CancellationToken cancellation)
    {
        if (link.Format is "vmdk" or "vhdx" && link.Information.BackingName is { } parent)
        {
            IImage image = await ImageOpener.OpenAsync(link.Path, alone with { Format = link.Format, ReadOnly = false, Secret = null }, cancellation).ConfigureAwait(false);
            await using (image.ConfigureAwait(false))
            {
                await ((IBackedImage)image).SetBackingAsync(parent, link.Information.BackingFormat, cancellation).ConfigureAwait(false);
                await image.FlushAsync(cancellation).ConfigureAwait(false);
            }
        }
    }

    private static int Find(string path, IReadOnlyList<ChainLink> chain, string? target)
    {
        if (chain.Count == 1)
        {
            throw new LodgeException($"{path} has no parent to commit to");
        }
        if (target is null)
        {
            return 1;
        }
        for (int index = 1; index < chain.Count; index++)
        {
            if (chain[index].Path == target || chain[index - 1].Information.BackingName == target || Path.GetFullPath(chain[index].Path) == Path.GetFullPath(target))
            {
                return index;
            }
        }
        throw new LodgeException($"{target} is not among the parents of {path}");
    }
}
