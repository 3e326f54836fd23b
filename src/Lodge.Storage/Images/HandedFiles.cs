using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Images;

/// <summary>The files of an image that another process has opened (<see cref="ImageHandover"/>). A name that the image has leads to what was opened for it, once, and to nothing else.</summary>
public sealed class HandedFiles : IImageFiles
{
    private readonly IReadOnlyList<HandedImage> _images;
    private readonly int _index;
    private readonly Queue<SafeFileHandle> _handles;
    private readonly ImageOpenOptions _options;
    private readonly Dictionary<string, HostFile> _parts = new(StringComparer.Ordinal);

    private HandedFiles(IReadOnlyList<HandedImage> images, int index, Queue<SafeFileHandle> handles, ImageOpenOptions options)
    {
        _images = images;
        _index = index;
        _handles = handles;
        _options = options with { Format = images[index].Format, ReadOnly = options.ReadOnly || index != 0 };
    }

    /// <summary>Opens an image of files that were handed over.</summary>
    /// <param name="images">The chain, top first.</param>
    /// <param name="handles">Its files in the order of <see cref="ImageHandover.Handles"/>. They belong to the image; when this fails they are closed.</param>
    /// <param name="options">How it is opened.</param>
    /// <param name="cancellation">Ends the wait.</param>
    /// <exception cref="DiskException">Files are missing, or are not of an image that can be opened.</exception>
    public static async ValueTask<IImage> OpenAsync(IReadOnlyList<HandedImage> images, IReadOnlyList<SafeFileHandle> handles, ImageOpenOptions options, CancellationToken cancellation = default)
    {
        var queue = new Queue<SafeFileHandle>(handles);
        try
        {
            if (images.Count is 0 or > ImageOpener.MaximumDepth + 1 || images[0].Format != options.Format)
            {
                throw new DiskException(DiskError.WrongFormat, "what was handed over is not the image that was asked for");
            }

            var image = await new HandedFiles(images, 0, queue, options).OpenAsync(cancellation).ConfigureAwait(false);
            if (queue.Count != 0)
            {
                await image.DisposeAsync().ConfigureAwait(false);
                throw new DiskException(DiskError.WrongFormat, $"{queue.Count} files were handed over that do not belong to {images[0].Name}");
            }

            return image;
        }
        finally
        {
            while (queue.TryDequeue(out var rest))
            {
                rest.Dispose();
            }
        }
    }

    /// <inheritdoc/>
    public ValueTask<IStorageFile> OpenPartAsync(string name, bool writable, CancellationToken cancellation = default) =>
        _parts.Remove(name, out var part)
            ? ValueTask.FromResult<IStorageFile>(part)
            : ValueTask.FromException<IStorageFile>(new DiskException(DiskError.Denied, $"{_images[_index].Name} names {name} as one of its parts, which was not handed over with it"));

    /// <inheritdoc/>
    public ValueTask<IStorageFile> CreatePartAsync(string name, CancellationToken cancellation = default) =>
        ValueTask.FromException<IStorageFile>(new DiskException(DiskError.Denied, $"{_images[_index].Name} cannot get a new part {name} here"));

    /// <inheritdoc/>
    public async ValueTask<IDisk> OpenBackingAsync(string name, string? format, CancellationToken cancellation = default) =>
        _images[_index].Backing == name && _index + 1 < _images.Count && format is not null && _images[_index + 1].Format == DiskFormats.Named(format).Name
            ? await new HandedFiles(_images, _index + 1, _handles, _options).OpenAsync(cancellation).ConfigureAwait(false)
            : throw new DiskException(DiskError.Denied, $"{_images[_index].Name} names {name}, which was not handed over with it");

    /// <summary>Whether a file is handed over a second time, without direct I/O.</summary>
    internal static bool IsTwofold(ImageOpenOptions options) => !options.ReadOnly && options.Cache is CacheMode.None or CacheMode.DirectSync;

    private async ValueTask<IImage> OpenAsync(CancellationToken cancellation)
    {
        var image = _images[_index];
        var file = Next(image.Name);
        try
        {
            foreach (var name in image.Parts)
            {
                _parts[name] = Next(name);
            }

            var context = new ImageContext(_options.ReadOnly, this, DiscardToFile: _options.Discard);
            return await DiskFormats.Named(image.Format).OpenAsync(file, context, cancellation).ConfigureAwait(false);
        }
        catch
        {
            await file.DisposeAsync().ConfigureAwait(false);
            throw;
        }
        finally
        {
            foreach (var unused in _parts.Values)
            {
                await unused.DisposeAsync().ConfigureAwait(false);
            }

            _parts.Clear();
        }
    }

    private HostFile Next(string name)
    {
        var handle = Dequeue();
        var buffered = IsTwofold(_options) ? Dequeue() : null;
        return HostFile.Take(handle, buffered, name, new HostFileOptions(_options.ReadOnly, _options.Cache));

        SafeFileHandle Dequeue() => _handles.TryDequeue(out var next) ? next : throw new DiskException(DiskError.WrongFormat, $"the file of {name} was not handed over");
    }
}
