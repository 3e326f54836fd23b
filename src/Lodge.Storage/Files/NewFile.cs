using Lodge.Storage.Disks;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Files;

/// <summary>
/// A file that is written to its end before it has its name, so that whoever opens it finds it whole: what had the name before stays until then, and nothing stays
/// behind of a file that was not finished, also after <c>kill -9</c> (where the file system knows O_TMPFILE; else a hidden file with the ending <c>.lodge</c>).
/// </summary>
public sealed class NewFile : IDisposable
{
    private readonly HostFolder _folder;
    private readonly UnpublishedFile _file;

    private NewFile(HostFolder folder, UnpublishedFile file) => (_folder, _file) = (folder, file);

    /// <summary>To write it; closed with this object.</summary>
    public SafeFileHandle Handle => _file.File.Handle;

    /// <summary>Makes one beside the place that it is to have.</summary>
    /// <param name="path">Its place.</param>
    /// <exception cref="DiskException">The folder is missing or cannot be written.</exception>
    public static NewFile Create(string path)
    {
        path = Path.GetFullPath(path);
        var folder = HostFolder.Open(Path.GetDirectoryName(path) ?? "/");
        try
        {
            return new NewFile(folder, UnpublishedFile.Create(folder, Path.GetFileName(path), path, new HostFileOptions(ReadOnly: false, Lock: false)));
        }
        catch
        {
            folder.Dispose();
            throw;
        }
    }

    /// <summary>Makes contents and name durable; a file that had the name is replaced.</summary>
    /// <exception cref="DiskException">The medium failed or is full.</exception>
    public void Publish()
    {
        try
        {
            RandomAccess.FlushToDisk(Handle);
        }
        catch (IOException failure)
        {
            throw new DiskException(DiskError.InputOutput, failure.Message, failure);
        }

        _file.Publish(replace: true);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _file.Dispose();
        _file.File.DisposeAsync().AsTask().GetAwaiter().GetResult();
        _folder.Dispose();
    }
}
