using Lodge.Storage.Disks;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Images;

/// <summary>An image of a chain, looked at by itself.</summary>
/// <param name="Path">Its path or address.</param>
/// <param name="Format">Its format's name.</param>
/// <param name="Information">What it says of itself.</param>
/// <param name="ActualSize">Bytes that its files take.</param>
/// <param name="ParentPath">The parent's path or address, resolved; null if it has none.</param>
public sealed record ChainLink(string Path, string Format, ImageInformation Information, long ActualSize, string? ParentPath);

/// <summary>Walks the chain of an image's parents without opening them as one disk.</summary>
public static class ImageChain
{
    /// <summary>The image at <paramref name="path"/> and, with <paramref name="parents"/>, all below it, top first.</summary>
    /// <exception cref="DiskException">A link could not be opened, policy forbids it, or the chain is a loop.</exception>
    public static async ValueTask<IReadOnlyList<ChainLink>> ListAsync(string path, ImageOpenOptions options, bool parents, CancellationToken cancellation = default)
    {
        var links = new List<ChainLink>();
        var next = options with { OpenBacking = false, ReadOnly = true };
        for (var at = path; ;)
        {
            if (links.Exists(link => link.Path == at) || links.Count > ImageOpener.MaximumDepth)
            {
                throw new DiskException(DiskError.Corrupt, $"{path}: the chain of backing images is longer than {ImageOpener.MaximumDepth} or a loop");
            }

            var link = await ReadAsync(at, next, cancellation).ConfigureAwait(false);
            links.Add(link);
            if (!parents || link.Information.BackingName is not { } name)
            {
                return links;
            }

            if (link.Information.BackingFormat is null && !options.ProbeBacking)
            {
                throw new DiskException(DiskError.Denied, $"{at} does not name the format of its backing file {name}; set it with: lodge image rebase -u -b {name} -F FORMAT {at}");
            }

            next = next with { Format = link.Information.BackingFormat, Snapshot = null };
            at = ResolveParent(at, name, options, strict: true);
        }
    }

    /// <summary>Where the parent lies that the image at <paramref name="path"/> calls <paramref name="name"/>.</summary>
    /// <param name="path">The image.</param>
    /// <param name="name">The parent as the image names it.</param>
    /// <param name="options">The policy.</param>
    /// <param name="strict">Whether what policy forbids fails; else it is only named.</param>
    public static string ResolveParent(string path, string name, ImageOpenOptions options, bool strict)
    {
        if (strict)
        {
            return new FolderFiles(path, options, 0).ResolveParent(name);
        }

        // As qemu-img says it: relative to the image as it was named.
        return DiskAddresses.IsAddress(name) ? name : Path.Combine(Path.GetDirectoryName(path) ?? "", name);
    }

    private static async ValueTask<ChainLink> ReadAsync(string path, ImageOpenOptions options, CancellationToken cancellation)
    {
        var image = await ImageOpener.OpenAsync(path, options, cancellation).ConfigureAwait(false);
        await using (image.ConfigureAwait(false))
        {
            var information = image.Describe();
            var size = image.File.AllocatedLength;
            var files = new FolderFiles(path, options, 0);
            foreach (var part in information.Parts)
            {
                try
                {
                    var file = await files.OpenPartAsync(part, false, cancellation).ConfigureAwait(false);
                    await using (file.ConfigureAwait(false))
                    {
                        size += file.AllocatedLength;
                    }
                }
                catch (DiskException)
                {
                    // A size that cannot be known is left out.
                }
            }

            var parent = information.BackingName is { } name ? ResolveParent(path, name, options, strict: false) : null;
            return new ChainLink(path, image.FormatName, information, size, parent);
        }
    }
}
