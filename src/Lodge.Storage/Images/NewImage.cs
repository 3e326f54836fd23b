using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Images;

/// <summary>What image is made and where.</summary>
/// <param name="Path">The main file; an existing one is replaced (see Replace), unless another process holds it.</param>
/// <param name="Format">The format's name.</param>
/// <param name="Length">Size of the disk in bytes.</param>
public sealed record NewImageOptions(string Path, string Format, long Length)
{
    /// <summary>The format's options; a parent is among them as <c>backing_file</c> and <c>backing_fmt</c>.</summary>
    public FormatOptions Options { get; init; } = FormatOptions.None;

    /// <summary>Whether an existing image is replaced; else it is an error.</summary>
    public bool Replace { get; init; } = true;

    /// <summary>Host caching of the files.</summary>
    public CacheMode Cache { get; init; } = CacheMode.WriteBack;

    /// <summary>The passphrase for an encrypted image.</summary>
    public string? Secret { get; init; }

    /// <summary>Folders, besides the image's own, in which its parent may lie.</summary>
    public IReadOnlyList<string> AllowedFolders { get; init; } = [];
}

/// <summary>
/// An image in the making. Its files have no names until <see cref="CompleteAsync"/>: whatever ends the work before, be it kill -9, leaves nothing behind, and an
/// image that is to be replaced is as it was.
/// </summary>
public sealed class NewImage : IAsyncDisposable
{
    private readonly NewImageOptions _options;
    private readonly NewParts _parts;
    private UnpublishedFile? _unpublished;
    private HostFolder? _folder;
    private HostFile? _replaced;
    private HostFile? _file;
    private IImage? _image;
    private bool _closed;

    private NewImage(NewImageOptions options)
    {
        _options = options;
        _parts = new NewParts(options);
    }

    /// <summary>Makes the files and writes an empty image into them.</summary>
    /// <exception cref="DiskException">As <see cref="IDiskFormat.CreateAsync"/>; no file is left behind. <see cref="DiskError.InUse"/>: another process holds the image that is to be replaced.</exception>
    public static async ValueTask<NewImage> CreateAsync(NewImageOptions options, CancellationToken cancellation = default)
    {
        var format = DiskFormats.Named(options.Format);
        var made = new NewImage(options);
        try
        {
            made.OpenFile();
            await format.CreateAsync(made._file!, options.Length, options.Options, made.Context(openBacking: false), cancellation).ConfigureAwait(false);
            return made;
        }
        catch
        {
            await made.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Opens the new image for writing; it belongs to this object.</summary>
    /// <param name="withParent">Whether its parent is opened, too.</param>
    /// <param name="cancellation">Ends the wait.</param>
    public async ValueTask<IImage> OpenAsync(bool withParent = false, CancellationToken cancellation = default)
    {
        await _parts.CloseAsync().ConfigureAwait(false);
        return _image ??= await DiskFormats.Named(_options.Format).OpenAsync(_file!, Context(withParent), cancellation).ConfigureAwait(false);
    }

    /// <summary>Closes the image and gives its files their names, the main file last.</summary>
    public async ValueTask CompleteAsync()
    {
        await CloseAsync().ConfigureAwait(false);
        _parts.Publish();
        _unpublished?.Publish(_options.Replace);
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        try
        {
            await CloseAsync().ConfigureAwait(false);
        }
        catch (DiskException)
        {
            // Only of an image that was not completed: what it could not write is forgotten anyway.
        }
        finally
        {
            _parts.Dispose();
            _unpublished?.Dispose();
            _folder?.Dispose();
            await (_replaced?.DisposeAsync() ?? ValueTask.CompletedTask).ConfigureAwait(false);
        }
    }

    private async ValueTask CloseAsync()
    {
        await _parts.CloseAsync().ConfigureAwait(false);
        if (!_closed)
        {
            _closed = true;
            await (((IAsyncDisposable?)_image ?? _file)?.DisposeAsync() ?? ValueTask.CompletedTask).ConfigureAwait(false);
        }
    }

    private void OpenFile()
    {
        var host = new HostFileOptions(false, _options.Cache);
        var path = Path.GetFullPath(_options.Path);
        FileSystemInfo? existing = Path.Exists(path) ? new FileInfo(path) : null;
        if (existing is not null)
        {
            if (!_options.Replace)
            {
                throw new DiskException(DiskError.Exists, $"{_options.Path} exists");
            }

            // A link stays one, and what it leads to is replaced.
            path = existing.ResolveLinkTarget(returnFinalTarget: true)?.FullName ?? path;

            // Held, and with it its lock, until the new image has taken its place: an image in use is not touched.
            _replaced = HostFile.Open(path, host);
            if (_replaced.IsDevice)
            {
                (_file, _replaced) = (_replaced, null);
                return;
            }
        }

        _folder = HostFolder.Open(Path.GetDirectoryName(path) ?? throw new DiskException(DiskError.WrongFormat, $"{_options.Path} is a folder, not a disk image"));
        _unpublished = UnpublishedFile.Create(_folder, Path.GetFileName(path), _options.Path, host);
        _file = _unpublished.File;
        if (_replaced is not null)
        {
            File.SetUnixFileMode(_file.Handle, File.GetUnixFileMode(_replaced.Handle));
        }
    }

    private ImageContext Context(bool openBacking) => new(false, _parts, _options.Secret, openBacking);
}
