using Lodge.Management.Host;
using Lodge.Management.Images;
using Lodge.Management.Templates;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Microsoft.Win32.SafeHandles;
using HostFile = Lodge.Storage.Files.HostFile;

namespace Lodge.Cli.Templates;

/// <summary>
/// The disk of a machine of a stored image that may become a template, or is a clone of one: an overlay without a name, which goes with the process. It stands on the image's disk, or on what the template's
/// machine had written when it became the template, which stands on that.
/// </summary>
/// <param name="image">The stored image.</param>
/// <param name="isImage">Whether the image is the one still that the template is of.</param>
internal sealed class TemplateDisk(StoredImage image, Func<bool> isImage) : IDisposable
{
    private const string Format = "qcow2", AboveTemplate = "template." + Format;
    private SafeFileHandle? _overlay;

    /// <summary>Name of the image's disk in the overlay of a template: a kept machine that stands on one has it beside, under this name.</summary>
    public static string BaseName(StoredImage image) => "base." + image.Manifest.Format;

    /// <summary>Opens the disk for writing.</summary>
    /// <param name="saved">The template, which stays open until this returns; null: the machine boots.</param>
    /// <exception cref="DiskException">The message names the file.</exception>
    public async Task<IDisk> OpenAsync(SavedTemplate? saved)
    {
        string folder = Path.Combine(HostFolders.Data, "overlays");
        string path = Path.Combine(folder, $"{Environment.ProcessId}-{Guid.NewGuid():n}.{Format}");
        HostFile file;
        try
        {
            Directory.CreateDirectory(folder);
            file = HostFile.Create(path, new HostFileOptions(ReadOnly: false, CacheMode.Unsafe, Lock: false));
            try
            {
                _overlay = saved is null ? File.OpenHandle(path, share: FileShare.ReadWrite | FileShare.Delete) : null;
            }
            finally
            {
                File.Delete(path);
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new DiskException(DiskError.InputOutput, $"the machine's overlay cannot be made in {folder}: {e.Message}", e);
        }
        try
        {
            (string below, string belowFormat) = saved is null ? (BaseName(image), image.Manifest.Format) : (AboveTemplate, Format);
            ImageContext context = new(ReadOnly: false, new Below(image, isImage, saved?.Disk));
            await DiskFormats.Named(Format).CreateAsync(file, image.Manifest.VirtualSize, FormatOptions.None.With("backing_file", below).With("backing_fmt", belowFormat), context).ConfigureAwait(false);
            return await DiskFormats.Named(Format).OpenAsync(file, context).ConfigureAwait(false);
        }
        catch
        {
            await file.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Copies what the machine has written; it stands still, and its disks were flushed.</summary>
    /// <param name="copy">An empty file.</param>
    /// <returns>Bytes that are not in holes, about.</returns>
    /// <exception cref="IOException">The host refuses, or the image was replaced meanwhile.</exception>
    public long CopyTo(SafeFileHandle copy)
    {
        if (_overlay is null || !isImage())
        {
            throw new IOException($"image {image.Name} was replaced meanwhile");
        }
        HostCopy.Copy(_overlay, copy);
        return RandomAccess.GetLength(copy);
    }

    /// <inheritdoc/>
    public void Dispose() => _overlay?.Dispose();

    /// <summary>What is below an overlay: no name in a file leads to it.</summary>
    private sealed class Below(StoredImage image, Func<bool> isImage, SafeFileHandle? template) : IImageFiles
    {
        public ValueTask<IStorageFile> OpenPartAsync(string name, bool writable, CancellationToken cancellation = default) => throw None(name);

        public ValueTask<IStorageFile> CreatePartAsync(string name, CancellationToken cancellation = default) => throw None(name);

        public async ValueTask<IDisk> OpenBackingAsync(string name, string? format, CancellationToken cancellation = default)
        {
            if (template is not null)
            {
                HostFile file = HostFile.Open($"/proc/self/fd/{template.DangerousGetHandle()}", new HostFileOptions(ReadOnly: true, Lock: false));
                try
                {
                    return await DiskFormats.Named(Format).OpenAsync(file, new ImageContext(ReadOnly: true, new Below(image, isImage, null)), cancellation).ConfigureAwait(false);
                }
                catch
                {
                    await file.DisposeAsync().ConfigureAwait(false);
                    throw;
                }
            }
            IImage disk = await ImageOpener.OpenAsync(image.DiskPath, new ImageOpenOptions { ReadOnly = true, Format = image.Manifest.Format }, cancellation).ConfigureAwait(false);
            if (!isImage())
            {
                await disk.DisposeAsync().ConfigureAwait(false);
                throw new DiskException(DiskError.InUse, $"image {image.Name} has just been replaced; try again");
            }
            return disk;
        }

        private static DiskException None(string name) => new(DiskError.Unsupported, $"a machine's overlay has no part '{name}'");
    }
}
