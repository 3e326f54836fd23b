using Lodge.Management.Host;

namespace Lodge.Management.CloudInit;

/// <summary>Writes a seed as an ISO 9660 file system with Rock Ridge and Joliet names, which NoCloud takes (as it takes VFAT).</summary>
public static class SeedImage
{
    // The same options in all of them: xorriso (kept up), genisoimage, and Schilling's mkisofs.
    private static readonly string[] Programs = ["xorrisofs", "genisoimage", "mkisofs"];

    /// <summary>Writes the file system to a new file.</summary>
    /// <exception cref="ManagementException">No program that writes it is there (the message names the package), or it fails, or the folder cannot be written.</exception>
    public static void Write(CloudInitSeed seed, string path)
    {
        string program = Programs.FirstOrDefault(HostProgram.Exists)
            ?? throw new ManagementException("a cloud-init seed needs the program 'xorrisofs'; install the package xorriso (apt-get install xorriso), or run without a seed: --cloud-init off");
        string folder = path + ".files";
        try
        {
            Directory.CreateDirectory(folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            foreach ((string name, byte[] contents) in seed.Files)
            {
                File.WriteAllBytes(Path.Combine(folder, name), contents);
            }
            (int status, string error) = HostProgram.Run(program, ["-quiet", "-volid", CloudInitSeed.Label, "-joliet", "-rational-rock", "-output", path, folder]);
            if (status != 0 || !File.Exists(path))
            {
                throw new ManagementException($"the cloud-init seed cannot be written: {program}: {error}");
            }
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new ManagementException($"the cloud-init seed cannot be written: {e.Message}", e);
        }
        finally
        {
            if (Directory.Exists(folder))
            {
                Directory.Delete(folder, recursive: true);
            }
        }
    }
}
