using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Storage.Images;

/// <summary>
/// The files beside an image in the host's file system, opened by the policy of <see cref="ImageOpenOptions"/>. Names come from the image and are hostile: each is
/// resolved by the kernel below an open folder (openat2 with RESOLVE_BENEATH), so that neither <c>..</c> nor symbolic links, nor somebody who exchanges them in
/// the meantime, lead elsewhere.
/// </summary>
public sealed class FolderFiles : IImageFiles
{
    private readonly string _imagePath;
    private readonly ImageOpenOptions _options;
    private readonly int _depth;
    private readonly IReadOnlyList<HostFileIdentity> _above;
    private HostFolder? _folder;
    private HostFileIdentity? _identity;

    /// <summary>The files beside the image at <paramref name="imagePath"/>.</summary>
    /// <param name="imagePath">Path or address of the image; at an address there are no files beside it.</param>
    /// <param name="options">The policy.</param>
    /// <param name="depth">Images above in the chain.</param>
    public FolderFiles(string imagePath, ImageOpenOptions options, int depth)
        : this(imagePath, options, depth, [], null)
    {
    }

    private FolderFiles(string imagePath, ImageOpenOptions options, int depth, IReadOnlyList<HostFileIdentity> above, HostFolder? folder)
    {
        _imagePath = imagePath;
        _options = options;
        _depth = depth;
        _above = above;
        _folder = folder;
    }

    private string FolderPath => Path.GetDirectoryName(Path.GetFullPath(_imagePath)) ?? "/";

    /// <inheritdoc/>
    public ValueTask<IStorageFile> OpenPartAsync(string name, bool writable, CancellationToken cancellation = default)
    {
        using var found = Find(name, out var path, out var folder);
        folder?.Dispose();
        var identity = HostFile.IdentityOf(HostFile.StatusOf(found, path));
        if (identity == _identity || _above.Contains(identity))
        {
            throw new DiskException(DiskError.Corrupt, $"{_imagePath} names {name} as one of its parts, which is the image itself or one above it");
        }

        return ValueTask.FromResult<IStorageFile>(HostFile.Open(found, path, Host(!writable)));
    }

    /// <inheritdoc/>
    public ValueTask<IStorageFile> CreatePartAsync(string name, CancellationToken cancellation = default)
    {
        var (folder, relative, path) = Place(name);
        return ValueTask.FromResult<IStorageFile>(HostFile.Create(folder, relative, path, HostSystemCalls.OpenCreate | HostSystemCalls.OpenExclusive, Host(false)));
    }

    /// <inheritdoc/>
    public async ValueTask<IDisk> OpenBackingAsync(string name, string? format, CancellationToken cancellation = default)
    {
        var parent = Parent(name, format, out var found);
        using (found)
        {
            return await ImageOpener.OpenAsync(parent, cancellation, found).ConfigureAwait(false);
        }
    }

    /// <summary>Finds the parent (backing) image that the image names, by the policy.</summary>
    /// <param name="name">As the image names it.</param>
    /// <param name="format">Its format, if the image says so.</param>
    /// <param name="found">The file; null at an address.</param>
    /// <exception cref="DiskException">Policy refuses it, or it is not there.</exception>
    internal FolderFiles Parent(string name, string? format, out SafeFileHandle? found)
    {
        found = null;
        if (_depth >= ImageOpener.MaximumDepth)
        {
            throw new DiskException(DiskError.Corrupt, $"{_imagePath}: the chain of backing images is longer than {ImageOpener.MaximumDepth} or a loop");
        }

        if (format is null && !_options.ProbeBacking)
        {
            throw new DiskException(DiskError.Denied, $"{_imagePath} does not name the format of its backing file {name}; set it with: lodge image rebase -u -b {name} -F FORMAT {_imagePath}");
        }

        var options = _options with { ReadOnly = true, Format = format, Snapshot = null };
        IReadOnlyList<HostFileIdentity> above = _identity is { } identity ? [.. _above, identity] : _above;
        if (DiskAddresses.IsAddress(name))
        {
            CheckAddress(name);
            return new FolderFiles(name, options, _depth + 1, above, null);
        }

        found = Find(name, out var path, out var folder);
        return new FolderFiles(path, options, _depth + 1, above, folder);
    }

    /// <summary>The path of a file that the image names, if policy allows it as far as names tell; symbolic links are judged when it is opened.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Denied"/>: outside of the image's and the allowed folders.</exception>
    public string Resolve(string name)
    {
        var path = FullPath(name);
        return Roots().Any(root => Below(root, path) is not null) ? path : throw Denied(name, path);
    }

    /// <summary>The real path, or the address, of the parent that the image names, after the judgement that opening it would make.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Denied"/>, <see cref="DiskError.NotFound"/>.</exception>
    public string ResolveParent(string name)
    {
        if (DiskAddresses.IsAddress(name))
        {
            CheckAddress(name);
            return name;
        }

        using var found = Find(name, out _, out var folder);
        folder?.Dispose();
        return HostFolder.RealPathOf(found);
    }

    /// <summary>Opens the image itself.</summary>
    /// <param name="found">The file, if it is found already.</param>
    /// <param name="cancellation">Ends the wait.</param>
    internal async ValueTask<IStorageFile> OpenImageAsync(SafeFileHandle? found, CancellationToken cancellation)
    {
        if (DiskAddresses.IsAddress(_imagePath))
        {
            return await DiskAddresses.OpenAsync(_imagePath, Host(_options.ReadOnly), cancellation).ConfigureAwait(false);
        }

        // The image's name is the user's and may lead anywhere, but the folder that it is in is the one in which its parts are looked for afterwards.
        var name = Path.GetFileName(_imagePath);
        using var own = found is null && name.Length > 0
            ? HostSystemCalls.Open(OwnFolder().Handle, name, HostSystemCalls.OpenPath, 0, out var error) ?? throw HostErrors.From(_imagePath, error)
            : null;
        var file = (found ?? own) is { } handle ? HostFile.Open(handle, _imagePath, Host(_options.ReadOnly)) : HostFile.Open(_imagePath, Host(_options.ReadOnly));
        _identity = file.Identity;
        if (_above.Contains(file.Identity))
        {
            await file.DisposeAsync().ConfigureAwait(false);
            throw new DiskException(DiskError.Corrupt, $"{_imagePath} is among its own backing images: the chain is a loop");
        }

        return file;
    }

    /// <summary>What a format needs to open the image.</summary>
    internal ImageContext Context => new(
        _options.ReadOnly, this, _options.Secret, _options.OpenBacking, _options.Checking, _options.Discard, _options.Snapshot);

    internal ImageOpenOptions Options => _options;

    /// <summary>Path or address of the image.</summary>
    internal string ImagePath => _imagePath;

    /// <summary>Where a new part goes: below the image's own folder.</summary>
    internal (HostFolder Folder, string Relative, string Path) Place(string name)
    {
        var path = FullPath(name);
        return Below(FolderPath, path) is { } relative ? (OwnFolder(), relative, path) : throw Denied(name, path);
    }

    private static string? Below(string root, string path)
    {
        root = Path.GetFullPath(root).TrimEnd('/') + "/";
        return path.StartsWith(root, StringComparison.Ordinal) && path.Length > root.Length ? path[root.Length..] : null;
    }

    private HostFileOptions Host(bool readOnly) => new(readOnly, _options.Cache, true, _options.ForceShare);

    private IEnumerable<string> Roots() =>
        (DiskAddresses.IsAddress(_imagePath) ? Enumerable.Empty<string>() : [FolderPath]).Concat(_options.AllowedFolders.Where(folder => !DiskAddresses.IsAddress(folder)));

    private HostFolder OwnFolder() => _folder ??= HostFolder.Open(FolderPath);

    private string FullPath(string name)
    {
        if (name.StartsWith("json:", StringComparison.Ordinal) || DiskAddresses.IsAddress(name))
        {
            throw new DiskException(DiskError.Unsupported, $"{_imagePath} names {name}; only paths and addresses such as nbd:// can be opened there");
        }

        name = name.StartsWith("file:", StringComparison.Ordinal) ? name[5..] : name;
        return name.Length == 0 || name.Contains('\0') || (DiskAddresses.IsAddress(_imagePath) && !Path.IsPathRooted(name))
            ? throw new DiskException(DiskError.Corrupt, $"{_imagePath} names a file without a usable name")
            : Path.GetFullPath(Path.Combine(DiskAddresses.IsAddress(_imagePath) ? "/" : FolderPath, name));
    }

    private DiskException Denied(string name, string path) =>
        new(DiskError.Denied, $"{_imagePath} names {name}, which lies outside of its folder; allow it with --allow {Path.GetDirectoryName(path)}");

    private void CheckAddress(string address)
    {
        foreach (var allowed in _options.AllowedFolders)
        {
            if (DiskAddresses.IsAddress(allowed) && (address == allowed || address.StartsWith(allowed.EndsWith('/') ? allowed : allowed + "/", StringComparison.Ordinal)))
            {
                return;
            }
        }

        throw new DiskException(DiskError.Denied, $"{_imagePath} names the address {address}; allow it with --allow {address}");
    }

    /// <summary>Finds a file that the image names. The handle says which file it is, and stays with it whatever happens to the name.</summary>
    private SafeFileHandle Find(string name, out string path, out HostFolder? folder)
    {
        path = FullPath(name);
        folder = null;
        foreach (var root in Roots())
        {
            if (Below(root, path) is not { } relative)
            {
                continue;
            }

            if (Path.GetFullPath(root) == "/")
            {
                return HostSystemCalls.Open(null, path, HostSystemCalls.OpenPath, HostSystemCalls.ResolveNoMagicLinks, out var failure) ?? throw HostErrors.From(path, failure);
            }

            var own = root == FolderPath;
            var opened = own ? OwnFolder() : HostFolder.Open(root);
            using var foreign = own ? null : opened;
            if (opened.FindBeneath(relative, out var error) is { } found)
            {
                var parent = Path.GetDirectoryName(relative);
                var parentHandle = string.IsNullOrEmpty(parent) ? opened.FindBeneath(".", out _) : opened.FindBeneath(parent, out _);
                folder = parentHandle is null ? null : HostFolder.Of(Path.GetDirectoryName(path)!, parentHandle);
                return found;
            }

            if (error != HostErrors.CrossDevice)
            {
                throw HostErrors.From(path, error);
            }
        }

        return FindThroughLinks(name, path, out folder);
    }

    /// <summary>A path that leaves a folder by a symbolic link, or comes in by one, is good if it ends in an allowed folder.</summary>
    private SafeFileHandle FindThroughLinks(string name, string path, out HostFolder? folder)
    {
        folder = null;
        var found = HostSystemCalls.Open(null, path, HostSystemCalls.OpenPath, HostSystemCalls.ResolveNoMagicLinks, out _) ?? throw Denied(name, path);
        try
        {
            var real = HostFolder.RealPathOf(found);
            foreach (var root in Roots())
            {
                using var opened = HostFolder.Open(root);
                if (Below(opened.RealPath, real) is { } relative)
                {
                    var parent = Path.GetDirectoryName(relative);
                    var parentHandle = opened.FindBeneath(string.IsNullOrEmpty(parent) ? "." : parent, out _);
                    folder = parentHandle is null ? null : HostFolder.Of(Path.GetDirectoryName(path)!, parentHandle);
                    return found;
                }
            }

            throw Denied(name, real);
        }
        catch
        {
            found.Dispose();
            throw;
        }
    }
}
