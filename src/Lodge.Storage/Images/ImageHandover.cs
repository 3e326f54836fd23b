using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Images;

/// <summary>One image of a chain that is handed over, as the one who takes it is told.</summary>
/// <param name="Name">How messages name it: its path.</param>
/// <param name="Format">Its format.</param>
/// <param name="Parts">Names of its parts (extents, external data), as the image has them.</param>
/// <param name="Backing">Name of its parent as the image has it; null for none.</param>
public sealed record HandedImage(string Name, string Format, IReadOnlyList<string> Parts, string? Backing);

/// <summary>
/// All files of an image and of its chain, opened and locked by one process for another that may not open files by their names. What they are is found by the policy of
/// <see cref="ImageOpenOptions"/>, as where an image is opened; who takes them reads the images' headers anew and gets by a name only what was opened for that name.
/// </summary>
public sealed class ImageHandover : IDisposable
{
    /// <summary>Most files that are handed over.</summary>
    public const int MaximumFiles = 512;

    private readonly List<HandedImage> _images = [];
    private readonly List<HostFile> _files = [];
    private readonly List<SafeFileHandle> _handles = [];
    private bool _taken;

    private ImageHandover()
    {
    }

    /// <summary>The chain, top first.</summary>
    public IReadOnlyList<HandedImage> Images => _images;

    /// <summary>For each image its file and its parts; a file that is written with direct I/O is there twice, the second time without.</summary>
    public IReadOnlyList<SafeFileHandle> Handles => _handles;

    /// <summary>Opens an image's files.</summary>
    /// <param name="path">The image.</param>
    /// <param name="options">How it is opened; its format is given.</param>
    /// <param name="cancellation">Ends the wait.</param>
    /// <exception cref="DiskException">The message names the file. Then nothing is open.</exception>
    public static async ValueTask<ImageHandover> OpenAsync(string path, ImageOpenOptions options, CancellationToken cancellation = default)
    {
        ImageHandover all = new();
        try
        {
            (FolderFiles? Files, SafeFileHandle? Found) next = (new FolderFiles(path, options, 0), null);
            while (next.Files is { } files)
            {
                using var found = next.Found;
                next = await all.AddAsync(files, found, cancellation).ConfigureAwait(false);
            }

            return all;
        }
        catch
        {
            all.Dispose();
            throw;
        }
    }

    /// <summary>The other process has the files now: what is closed here leaves their locks to it.</summary>
    public void Taken() => _taken = true;

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (var file in _files)
        {
            if (_taken)
            {
                file.CloseHanded();
            }
            else
            {
                file.DisposeAsync().AsTask().GetAwaiter().GetResult();
            }
        }

        _files.Clear();
        _handles.Clear();
    }

    /// <summary>Adds one image.</summary>
    /// <returns>Its parent.</returns>
    private async ValueTask<(FolderFiles? Parent, SafeFileHandle? Found)> AddAsync(FolderFiles files, SafeFileHandle? found, CancellationToken cancellation)
    {
        var options = files.Options;
        if (DiskAddresses.IsAddress(files.ImagePath) || await files.OpenImageAsync(found, cancellation).ConfigureAwait(false) is not HostFile file)
        {
            throw new DiskException(DiskError.Unsupported, $"{files.ImagePath} is an address and no file: it cannot be handed over");
        }

        Add(file, options);
        var format = DiskFormats.Named(options.Format ?? throw new DiskException(DiskError.WrongFormat, $"the format of {file.Name} is not given"));
        ImageInformation information;
        // Looked at, not opened for use: no byte changes.
        var image = await format.OpenAsync(file.View(), new ImageContext(ReadOnly: true, files, OpenBacking: false), cancellation).ConfigureAwait(false);
        await using (image.ConfigureAwait(false))
        {
            information = image.Describe();
        }

        _images.Add(new HandedImage(file.Name, format.Name, information.Parts, information.BackingName));
        foreach (var name in information.Parts)
        {
            Add(await files.OpenPartAsync(name, !options.ReadOnly, cancellation).ConfigureAwait(false) as HostFile ?? throw new DiskException(DiskError.Unsupported, $"{name} is no file: it cannot be handed over"), options);
        }

        return information.BackingName is { } backing ? (files.Parent(backing, information.BackingFormat, out var parent), parent) : (null, null);

    }

    private void Add(HostFile file, ImageOpenOptions options)
    {
        _files.Add(file);
        _handles.Add(file.Handle);
        if (HandedFiles.IsTwofold(options))
        {
            _handles.Add(file.OpenBuffered());
        }

        if (_handles.Count > MaximumFiles)
        {
            throw new DiskException(DiskError.Unsupported, $"{_files[0].Name} consists of more than {MaximumFiles} files: it cannot be handed over");
        }
    }
}
