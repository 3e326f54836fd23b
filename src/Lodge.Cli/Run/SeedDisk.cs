using Lodge.Management.CloudInit;
using Lodge.Management.Host;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Cli.Run;

/// <summary>The read-only disk with a machine's cloud-init seed, which goes with the process, however it ends (its file has no name).</summary>
/// <param name="Seed">What is on it.</param>
/// <param name="Bus">What it is connected to: what the system disk is, whose driver is there when cloud-init looks.</param>
/// <param name="Folder">Where it is made; null: where the overlays of runs are.</param>
internal sealed record SeedDisk(CloudInitSeed Seed, DiskBus Bus, string? Folder)
{
    /// <summary>Serial number that the guest sees.</summary>
    public const string Serial = "LODGE-SEED";

    /// <summary>Makes and opens it.</summary>
    /// <exception cref="DiskException">The message names the file.</exception>
    /// <exception cref="Lodge.Management.ManagementException">The seed cannot be written.</exception>
    public IDisk Open()
    {
        string folder = Folder ?? Path.Combine(HostFolders.Data, "overlays");
        string path = Path.Combine(folder, $"{Environment.ProcessId}-{Guid.NewGuid():n}.iso");
        try
        {
            Directory.CreateDirectory(folder);
            SeedImage.Write(Seed, path);
            HostFile file = HostFile.Open(path, new HostFileOptions(ReadOnly: true, Lock: false));
            ImageContext context = new(ReadOnly: true, new FolderFiles(path, new ImageOpenOptions(), depth: 0));
            return DiskFormats.Named("raw").OpenAsync(file, context).AsTask().GetAwaiter().GetResult();
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new DiskException(DiskError.InputOutput, $"the machine's cloud-init seed cannot be made in {folder}: {e.Message}", e);
        }
        finally
        {
            File.Delete(path);
        }
    }
}
