using Lodge.Storage.Disks;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Files;

/// <summary>
/// A new file that has its name only when it is complete. Till then it has none at all (O_TMPFILE), so that nothing stays behind when the process ends at any
/// point; where the file system cannot do that it has a hidden one.
/// </summary>
internal sealed class UnpublishedFile : IDisposable
{
    private readonly HostFolder _folder;
    private readonly string _name;
    private readonly string _path;
    private readonly string _temporaryName;
    private readonly SafeFileHandle _pinned;
    private bool _named;

    private UnpublishedFile(HostFolder folder, string name, string path, HostFile file, string temporaryName, bool named)
    {
        _folder = folder;
        _name = name;
        _path = path;
        _temporaryName = temporaryName;
        _named = named;

        // Keeps the nameless file alive while its users open and close it.
        _pinned = HostSystemCalls.Open(null, HostSystemCalls.PathOf(file.Handle), HostSystemCalls.OpenPath, 0, out var error) ?? throw HostErrors.From(path, error);
        File = file;
    }

    /// <summary>The file as it was made; its messages call it by the name that it is to have. It belongs to the caller.</summary>
    public HostFile File { get; }

    /// <summary>The path that it is to have.</summary>
    public string Path => _path;

    /// <summary>Makes a file.</summary>
    /// <param name="folder">Where; it stays the caller's.</param>
    /// <param name="name">Its name there, once it is published; may lead into folders below.</param>
    /// <param name="path">The same as a path for messages.</param>
    /// <param name="options">How it is opened.</param>
    public static UnpublishedFile Create(HostFolder folder, string name, string path, HostFileOptions options)
    {
        var below = System.IO.Path.GetDirectoryName(name) ?? "";
        var temporary = System.IO.Path.Combine(below, $".{Random.Shared.NextInt64():x16}{Random.Shared.NextInt64():x16}.lodge");
        HostFile file;
        var named = false;
        try
        {
            file = HostFile.Create(folder, below.Length == 0 ? "." : below, path, HostSystemCalls.OpenUnnamed, options);
        }
        catch (DiskException failure) when (failure.Error is DiskError.Unsupported or DiskError.InvalidOption or DiskError.WrongFormat or DiskError.InputOutput)
        {
            file = HostFile.Create(folder, temporary, path, HostSystemCalls.OpenCreate | HostSystemCalls.OpenExclusive, options);
            named = true;
        }

        try
        {
            return new UnpublishedFile(folder, name, path, file, temporary, named);
        }
        catch
        {
            _ = file.DisposeAsync().AsTask();
            throw;
        }
    }

    /// <summary>Opens it once more.</summary>
    public HostFile Open(HostFileOptions options) => HostFile.Open(_pinned, _path, options);

    /// <summary>Gives it its name, durably.</summary>
    /// <param name="replace">Whether a file that has the name loses it; else that is an error.</param>
    /// <exception cref="DiskException"><see cref="DiskError.Exists"/>.</exception>
    public void Publish(bool replace)
    {
        if (!_named)
        {
            var linked = HostSystemCalls.Link(_pinned, _folder.Handle, replace ? _temporaryName : _name);
            if (linked < 0)
            {
                throw HostErrors.From(_path, -linked, "naming it");
            }

            _named = replace;
        }

        if (_named)
        {
            var renamed = HostSystemCalls.Rename(_folder.Handle, _temporaryName, _name, replace);
            if (renamed < 0)
            {
                throw HostErrors.From(_path, -renamed, "naming it");
            }

            _named = false;
        }

        _folder.Flush();
    }

    /// <summary>Forgets it; what was not published is gone.</summary>
    public void Dispose()
    {
        if (_named)
        {
            HostSystemCalls.Unlink(_folder.Handle, _temporaryName);
        }

        _pinned.Dispose();
    }
}
