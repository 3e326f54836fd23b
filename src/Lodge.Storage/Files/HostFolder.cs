using Lodge.Storage.Disks;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Files;

/// <summary>A folder of the host, held open, so that names are resolved in it and not in what its path has become.</summary>
internal sealed class HostFolder : IDisposable
{
    private HostFolder(string path, SafeFileHandle handle)
    {
        Path = path;
        Handle = handle;
    }

    /// <summary>The path that it was opened by.</summary>
    public string Path { get; }

    /// <summary>The open folder.</summary>
    public SafeFileHandle Handle { get; }

    /// <summary>Where it is now, without symbolic links.</summary>
    public string RealPath => RealPathOf(Handle);

    /// <summary>Opens a folder.</summary>
    public static HostFolder Open(string path) => new(
        path, HostSystemCalls.Open(null, path, HostSystemCalls.OpenReadOnly | HostSystemCalls.OpenDirectory | HostSystemCalls.OpenPath, 0, out var error) ?? throw HostErrors.From(path, error));

    /// <summary>A folder that is open already; it belongs to the result.</summary>
    public static HostFolder Of(string path, SafeFileHandle handle) => new(path, handle);

    /// <summary>The path of what is open, without symbolic links.</summary>
    public static string RealPathOf(SafeFileHandle handle) =>
        System.IO.File.ResolveLinkTarget(HostSystemCalls.PathOf(handle), returnFinalTarget: false)?.FullName
        ?? throw new DiskException(DiskError.Unsupported, "the host has no /proc");

    /// <summary>Finds a file at a path below this folder, whose symbolic links may not lead out of it.</summary>
    /// <returns>A handle that only says which file it is; or null with the error number.</returns>
    public SafeFileHandle? FindBeneath(string relative, out int error) => HostSystemCalls.Open(
        Handle, relative, HostSystemCalls.OpenPath, HostSystemCalls.ResolveBeneath | HostSystemCalls.ResolveNoMagicLinks, out error);

    /// <summary>Makes the names in the folder durable.</summary>
    public void Flush()
    {
        using var readable = HostSystemCalls.Open(Handle, ".", HostSystemCalls.OpenReadOnly | HostSystemCalls.OpenDirectory, 0, out var error) ?? throw HostErrors.From(Path, error);
        var result = HostSystemCalls.Synchronize(readable);
        if (result < 0 && -result is not (HostErrors.Invalid or HostErrors.NotSupported))
        {
            throw HostErrors.From(Path, -result, "flushing the folder");
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Handle.Dispose();
}
