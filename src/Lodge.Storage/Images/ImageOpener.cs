using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Images;

/// <summary>How an image is opened by name.</summary>
public sealed record ImageOpenOptions
{
    /// <summary>No byte of any file changes.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>The format; null guesses it, which only commands on images do, never a machine.</summary>
    public string? Format { get; init; }

    /// <summary>Host caching of the files.</summary>
    public CacheMode Cache { get; init; } = CacheMode.WriteBack;

    /// <summary>Open although another process writes; for reading only.</summary>
    public bool ForceShare { get; init; }

    /// <summary>The passphrase of an encrypted image.</summary>
    public string? Secret { get; init; }

    /// <summary>Whether parents are opened.</summary>
    public bool OpenBacking { get; init; } = true;

    /// <summary>Whether it is opened to be checked or repaired.</summary>
    public bool Checking { get; init; }

    /// <summary>Whether discards free room in the files.</summary>
    public bool Discard { get; init; } = true;

    /// <summary>Internal snapshot to open, or null.</summary>
    public string? Snapshot { get; init; }

    /// <summary>Folders, besides the image's own, in which backing files and parts may lie; "/" allows all. An address allows a backing image there and below.</summary>
    public IReadOnlyList<string> AllowedFolders { get; init; } = [];

    /// <summary>Whether the format of a parent may be guessed when the image does not name it.</summary>
    public bool ProbeBacking { get; init; }
}

/// <summary>Opens images with their chains by path or address.</summary>
public static class ImageOpener
{
    /// <summary>Longest chain of images.</summary>
    public const int MaximumDepth = 200;

    /// <summary>Opens the image at <paramref name="path"/>.</summary>
    /// <exception cref="DiskException">The message names the file.</exception>
    public static ValueTask<IImage> OpenAsync(string path, ImageOpenOptions options, CancellationToken cancellation = default) =>
        OpenAsync(new FolderFiles(path, options, 0), cancellation);

    internal static async ValueTask<IImage> OpenAsync(FolderFiles files, CancellationToken cancellation, SafeFileHandle? found = null)
    {
        var file = await files.OpenImageAsync(found, cancellation).ConfigureAwait(false);
        try
        {
            var format = files.Options.Format is { } name ? DiskFormats.Named(name) : await DiskFormats.ProbeAsync(file, cancellation).ConfigureAwait(false);
            return await format.OpenAsync(file, files.Context, cancellation).ConfigureAwait(false);
        }
        catch
        {
            await file.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }
}
