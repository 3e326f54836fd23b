using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Images;

/// <summary>What image is made and where.</summary>
/// <param name="Path">The main file; an existing one is replaced, unless another process holds it.</param>
/// <param name="Format">The format's name.</param>
/// <param name="Length">Size of the disk in bytes.</param>
public sealed record NewImageOptions(string Path, string Format, long Length)
{
    /// <summary>The format's options; a parent is among them as <c>backing_file</c> and <c>backing_fmt</c>.</summary>
    public FormatOptions Options { get; init; } = FormatOptions.None;

    /// <summary>Host caching of the files.</summary>
    public CacheMode Cache { get; init; } = CacheMode.WriteBack;

    /// <summary>The passphrase for an encrypted image.</summary>
    public string? Secret { get; init; }

    /// <summary>Folders, besides the image's own, in which its parent may lie.</summary>
    public IReadOnlyList<string> AllowedFolders { get; init; } = [];
}

/// <summary>An image in the making: unless <see cref="CompleteAsync"/> was called, disposing removes every file that was made for it.</summary>
public sealed class NewImage : IAsyncDisposable
{
    private readonly NewImageOptions _options;
    private readonly Parts _parts;
    private HostFile? _file;
    private IImage? _image;
    private bool _made;
    private bool _closed;
    private bool _kept;

    private NewImage(NewImageOptions options)
    {
        _options = options;
        _parts = new Parts(options);
    }

    /// <summary>Makes the files and writes an empty image into them.</summary>
    /// <exception cref="DiskException">As <see cref="IDiskFormat.CreateAsync"/>; no file is left behind.</exception>
    public static async ValueTask<NewImage> CreateAsync(NewImageOptions options, CancellationToken cancellation = default)
    {
        var format = DiskFormats.Named(options.Format);
        var made = new NewImage(options);
        try
        {
            await made.OpenFileAsync(cancellation).ConfigureAwait(false);
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
        await _parts.ReleaseAsync().ConfigureAwait(false);
        return _image ??= await DiskFormats.Named(_options.Format).OpenAsync(_file!, Context(withParent), cancellation).ConfigureAwait(false);
    }

    /// <summary>Closes the image; its files stay. If closing fails, they do not.</summary>
    public async ValueTask CompleteAsync()
    {
        await _parts.ReleaseAsync().ConfigureAwait(false);
        await ((IAsyncDisposable?)_image ?? _file!).DisposeAsync().ConfigureAwait(false);
        _closed = _kept = true;
    }

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        try
        {
            await _parts.ReleaseAsync().ConfigureAwait(false);
            if (!_closed && ((IAsyncDisposable?)_image ?? _file) is { } open)
            {
                await open.DisposeAsync().ConfigureAwait(false);
            }
        }
        catch (DiskException) when (!_kept)
        {
            // What it could not write is removed anyway.
        }
        finally
        {
            if (_made && !_kept)
            {
                _parts.Remove();
                File.Delete(_options.Path);
            }
        }
    }

    private async ValueTask OpenFileAsync(CancellationToken cancellation)
    {
        var host = new HostFileOptions(false, _options.Cache);
        try
        {
            _file = HostFile.Create(_options.Path, host);
            _made = true;
        }
        catch (DiskException) when (File.Exists(_options.Path))
        {
            // Opening takes the lock first: an image that is in use is not touched.
            _file = HostFile.Open(_options.Path, host);
            if (IsRegular(_options.Path))
            {
                _made = true;
                _parts.Replace = true;
                await _file.ResizeAsync(0, cancellation).ConfigureAwait(false);
            }
        }
    }

    /// <summary>A device's size and existence are not this program's to change.</summary>
    private static bool IsRegular(string path)
    {
        var target = (File.Exists(path) ? File.ResolveLinkTarget(path, returnFinalTarget: true) : null)?.FullName ?? Path.GetFullPath(path);
        return !target.StartsWith("/dev/", StringComparison.Ordinal) || target.StartsWith("/dev/shm/", StringComparison.Ordinal);
    }

    private ImageContext Context(bool openBacking) => new(false, _parts, _options.Secret, openBacking);

    /// <summary>Opens and makes the files beside the image, and remembers what was made.</summary>
    private sealed class Parts(NewImageOptions options) : IImageFiles
    {
        private readonly FolderFiles _files = new(options.Path, new ImageOpenOptions { Cache = options.Cache, AllowedFolders = options.AllowedFolders }, 0);
        private readonly List<IStorageFile> _made = [];
        private readonly List<string> _names = [];

        public bool Replace { get; set; }

        public ValueTask<IStorageFile> OpenPartAsync(string name, bool writable, CancellationToken cancellation) => _files.OpenPartAsync(name, writable, cancellation);

        public async ValueTask<IStorageFile> CreatePartAsync(string name, CancellationToken cancellation)
        {
            IStorageFile file;
            try
            {
                file = await _files.CreatePartAsync(name, cancellation).ConfigureAwait(false);
            }
            catch (DiskException) when (Replace)
            {
                file = await _files.OpenPartAsync(name, true, cancellation).ConfigureAwait(false);
                await file.ResizeAsync(0, cancellation).ConfigureAwait(false);
            }

            _names.Add(file.Name);
            _made.Add(file);
            return file;
        }

        public ValueTask<IDisk> OpenBackingAsync(string name, string? format, CancellationToken cancellation) => _files.OpenBackingAsync(name, format, cancellation);

        /// <summary>Closes what the format left open, so that opening the image does not meet its own locks.</summary>
        public async ValueTask ReleaseAsync()
        {
            foreach (var file in _made)
            {
                await file.DisposeAsync().ConfigureAwait(false);
            }

            _made.Clear();
        }

        public void Remove()
        {
            foreach (var name in _names)
            {
                File.Delete(name);
            }
        }
    }
}
