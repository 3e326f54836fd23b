using System.Text;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Management.Host;

/// <summary>Small files that are replaced whole: after a crash at any moment the old or the new contents are there.</summary>
public static class AtomicFile
{
    /// <summary>Writes <paramref name="contents"/> to <paramref name="path"/>, durable when it returns.</summary>
    /// <param name="path">The file.</param>
    /// <param name="contents">What it shall hold.</param>
    /// <param name="durable">Whether it must outlast a power failure; otherwise the host writes it when it likes.</param>
    /// <exception cref="IOException">The host refuses; the old file is untouched.</exception>
    public static void Write(string path, string contents, bool durable = true)
    {
        string temporary = $"{path}.{Environment.ProcessId}.new";
        try
        {
            using (SafeFileHandle handle = File.OpenHandle(temporary, FileMode.Create, FileAccess.Write))
            {
                RandomAccess.Write(handle, Encoding.UTF8.GetBytes(contents), 0);
                if (durable)
                {
                    RandomAccess.FlushToDisk(handle);
                }
            }
            File.Move(temporary, path, overwrite: true);
            if (durable)
            {
                SyncFolder(Path.GetDirectoryName(Path.GetFullPath(path))!);
            }
        }
        catch
        {
            File.Delete(temporary);
            throw;
        }
    }

    /// <summary>Makes the names in a folder durable.</summary>
    public static void SyncFolder(string folder) => HostSystemCalls.SyncFolder(folder);
}
