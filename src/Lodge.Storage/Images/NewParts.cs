using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Images;

/// <summary>The files beside an image in the making: those that are made for it, nameless as itself, and those that are there already.</summary>
internal sealed class NewParts(NewImageOptions options) : IImageFiles, IDisposable
{
    private readonly FolderFiles _there = new(options.Path, new ImageOpenOptions { Cache = options.Cache, AllowedFolders = options.AllowedFolders }, 0);
    private readonly List<UnpublishedFile> _made = [];
    private readonly List<IStorageFile> _open = [];

    public ValueTask<IStorageFile> OpenPartAsync(string name, bool writable, CancellationToken cancellation = default)
    {
        var path = _there.Resolve(name);
        return _made.Find(part => part.Path == path) is { } made
            ? ValueTask.FromResult<IStorageFile>(made.Open(new HostFileOptions(!writable, options.Cache)))
            : _there.OpenPartAsync(name, writable, cancellation);
    }

    public ValueTask<IStorageFile> CreatePartAsync(string name, CancellationToken cancellation = default)
    {
        var (folder, relative, path) = _there.Place(name);
        if (path == Path.GetFullPath(options.Path) || _made.Exists(part => part.Path == path) || (!options.Replace && Path.Exists(path)))
        {
            throw new DiskException(DiskError.Exists, $"{path} exists");
        }

        if (Path.Exists(path))
        {
            // An image in use is not replaced: opening finds its lock.
            var old = HostFile.Open(path, new HostFileOptions(false));
            _open.Add(old);
        }

        var part = UnpublishedFile.Create(folder, relative, path, new HostFileOptions(false, options.Cache));
        _made.Add(part);
        _open.Add(part.File);
        return ValueTask.FromResult<IStorageFile>(part.File);
    }

    public ValueTask<IDisk> OpenBackingAsync(string name, string? format, CancellationToken cancellation = default) => _there.OpenBackingAsync(name, format, cancellation);

    /// <summary>Closes what the format left open, so that opening the image does not meet its own locks.</summary>
    public async ValueTask CloseAsync()
    {
        foreach (var file in _open)
        {
            await file.DisposeAsync().ConfigureAwait(false);
        }

        _open.Clear();
    }

    /// <summary>Gives the files their names.</summary>
    public void Publish()
    {
        foreach (var part in _made)
        {
            part.Publish(options.Replace);
        }
    }

    public void Dispose()
    {
        foreach (var part in _made)
        {
            part.Dispose();
        }
    }
}
