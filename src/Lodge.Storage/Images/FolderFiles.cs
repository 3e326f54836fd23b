using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Images;

/// <summary>The files beside an image in the host's file system, opened by the policy of <see cref="ImageOpenOptions"/>.</summary>
public sealed class FolderFiles(string imagePath, ImageOpenOptions options, int depth) : IImageFiles
{
    /// <inheritdoc/>
    public ValueTask<IStorageFile> OpenPartAsync(string name, bool writable, CancellationToken cancellation = default) =>
        ValueTask.FromResult<IStorageFile>(HostFile.Open(Resolve(name), new HostFileOptions(!writable, options.Cache, true, options.ForceShare)));

    /// <inheritdoc/>
    public ValueTask<IStorageFile> CreatePartAsync(string name, CancellationToken cancellation = default) =>
        ValueTask.FromResult<IStorageFile>(HostFile.Create(Resolve(name), new HostFileOptions(false)));

    /// <inheritdoc/>
    public async ValueTask<IDisk> OpenBackingAsync(string name, string? format, CancellationToken cancellation = default)
    {
        if (depth >= ImageOpener.MaximumDepth)
        {
            throw new DiskException(DiskError.Corrupt, $"{imagePath}: the chain of backing images is longer than {ImageOpener.MaximumDepth} or a loop");
        }

        if (format is null && !options.ProbeBacking)
        {
            throw new DiskException(DiskError.Denied, $"{imagePath} does not name the format of its backing file {name}; set it with: lodge image rebase -u -b {name} -F FORMAT {imagePath}");
        }

        return await ImageOpener.OpenAsync(Resolve(name), options with { ReadOnly = true, Format = format, Snapshot = null }, depth + 1, cancellation).ConfigureAwait(false);
    }

    /// <summary>The path of a file that the image names, if policy allows it.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Denied"/>: outside of the image's and the allowed folders.</exception>
    public string Resolve(string name)
    {
        var folder = Path.GetDirectoryName(Path.GetFullPath(imagePath))!;
        var path = Path.GetFullPath(Path.Combine(folder, name));
        foreach (var allowed in options.AllowedFolders.Prepend(folder))
        {
            var root = Path.GetFullPath(allowed).TrimEnd('/') + "/";
            if (path.StartsWith(root, StringComparison.Ordinal))
            {
                return path;
            }
        }

        throw new DiskException(DiskError.Denied, $"{imagePath} names {name}, which lies outside of {folder}; allow it with --allow {Path.GetDirectoryName(path)}");
    }
}
