using Lodge.Cli.Templates;
using Lodge.Management;
using Lodge.Management.Host;
using Lodge.Management.Images;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Cli.Run;

/// <summary>
/// The disk of a machine that runs a stored image: an overlay on the image's disk, which itself never changes. The overlay goes with the process, however it
/// ends (its file has no name), or is kept under the machine's name.
/// </summary>
/// <param name="Image">The stored image.</param>
/// <param name="Bus">What it is connected to.</param>
/// <param name="KeptFolder">Folder of the machine whose disk is kept; null throws it away.</param>
internal sealed record SystemDisk(StoredImage Image, DiskBus Bus, string? KeptFolder)
{
    private const string OverlayFormat = "qcow2";
    private const string KeptFile = "disk.qcow2";

    /// <summary>Opens it where it has to do with a template; null: it has not.</summary>
    public Func<IDisk>? OpenTemplate { get; init; }

    /// <summary>Opens the disk for writing.</summary>
    /// <exception cref="DiskException">The message names the file.</exception>
    public IDisk Open() => OpenTemplate?.Invoke() ?? (KeptFolder is null ? OpenTemporaryAsync() : OpenKeptAsync(KeptFolder)).GetAwaiter().GetResult();

    private async Task<IDisk> OpenTemporaryAsync()
    {
        string folder = Path.Combine(HostFolders.Data, "overlays");
        string path = Path.Combine(folder, $"{Environment.ProcessId}-{Guid.NewGuid():n}.{OverlayFormat}");
        HostFile file;
        try
        {
            Directory.CreateDirectory(folder);
            file = HostFile.Create(path, new HostFileOptions(ReadOnly: false, CacheMode.Unsafe, Lock: false));
            File.Delete(path);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new DiskException(DiskError.InputOutput, $"the machine's overlay cannot be made in {folder}: {e.Message}", e);
        }
        try
        {
            IDiskFormat format = DiskFormats.Named(OverlayFormat);
            ImageContext context = new(ReadOnly: false, new FolderFiles(path, new ImageOpenOptions { AllowedFolders = [Image.Folder] }, depth: 0));
            await format.CreateAsync(file, Image.Manifest.VirtualSize, Backing(Image.DiskPath, Image.Manifest.Format), context);
            return await format.OpenAsync(file, context);
        }
        catch
        {
            await file.DisposeAsync();
            throw;
        }
    }

    /// <summary>The kept disk stands on a second name (hard link) of the stored disk, so that removing or rebuilding the image does not touch it.</summary>
    private async Task<IDisk> OpenKeptAsync(string folder)
    {
        await MakeKeptAsync(Image, folder);
        return await ImageOpener.OpenAsync(Path.Combine(folder, KeptFile), new ImageOpenOptions { Format = OverlayFormat });
    }

    /// <summary>Makes the disk of a machine that keeps it, when it is not there.</summary>
    /// <param name="image">The stored image.</param>
    /// <param name="folder">The machine's folder.</param>
    /// <exception cref="DiskException">The host refuses; nothing half made is left that is in the way of another try.</exception>
    public static async Task MakeKeptAsync(StoredImage image, string folder)
    {
        string overlay = Path.Combine(folder, KeptFile);
        string parent = "base." + image.Manifest.Format;
        if (!File.Exists(overlay))
        {
            try
            {
                Directory.CreateDirectory(folder);
                string linked = Path.Combine(folder, parent);
                File.Delete(linked); // left by a command that ended before it made the overlay
                HostLink.Create(image.DiskPath, linked);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new DiskException(DiskError.InputOutput, $"the machine's disk cannot be made in {folder}: {e.Message}", e);
            }
            await using NewImage made = await NewImage.CreateAsync(new NewImageOptions(overlay, OverlayFormat, image.Manifest.VirtualSize) { Options = Backing(parent, image.Manifest.Format) });
            await made.CompleteAsync();
        }
    }

    /// <summary>
    /// Makes the disk of a machine that keeps it and goes on where a template stands: an overlay on what the template's machine had written, which stands on the image's disk. Both are there under names (hard links)
    /// in the machine's folder.
    /// </summary>
    /// <param name="image">The stored image.</param>
    /// <param name="template">What the template's machine had written.</param>
    /// <param name="folder">The machine's folder, in which there is no disk yet.</param>
    /// <exception cref="IOException">The host refuses.</exception>
    /// <exception cref="DiskException">Likewise.</exception>
    public static async Task MakeKeptAsync(StoredImage image, SafeFileHandle template, string folder)
    {
        string between = $"base-{Guid.NewGuid():n}.{OverlayFormat}";
        HostLink.Create(image.DiskPath, Path.Combine(folder, TemplateDisk.BaseName(image)));
        HostLink.Create(template, Path.Combine(folder, between));
        await using NewImage made = await NewImage.CreateAsync(new NewImageOptions(Path.Combine(folder, KeptFile), OverlayFormat, image.Manifest.VirtualSize) { Options = Backing(between, OverlayFormat) });
        await made.CompleteAsync();
    }

    private static FormatOptions Backing(string path, string format) => FormatOptions.None.With("backing_file", path).With("backing_fmt", format);
}
