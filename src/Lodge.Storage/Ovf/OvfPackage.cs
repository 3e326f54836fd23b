using System.Formats.Tar;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Storage.Ovf;

/// <summary>An OVF package to import: an archive (.ova), or a descriptor (.ovf) with its files beside it. Nothing of it is trusted, and nothing is unpacked.</summary>
public sealed class OvfPackage : IAsyncDisposable
{
    private const int MostMembers = 4096;
    private readonly string _path;
    private readonly HostFile? _archive;
    private readonly FolderFiles? _folder;
    private readonly Dictionary<string, OvaMember> _members = new(StringComparer.Ordinal);
    private string _descriptorName = "";
    private OvfManifest? _manifest;

    private OvfPackage(string path, HostFile? archive, FolderFiles? folder)
    {
        _path = path;
        _archive = archive;
        _folder = folder;
    }

    /// <summary>What the descriptor says.</summary>
    public OvfDescriptor Descriptor { get; private set; } = null!;

    /// <summary>Whether there is a manifest to verify.</summary>
    public bool HasManifest => _manifest is not null;

    /// <summary>Whether there is a certificate, which is not verified.</summary>
    public bool HasCertificate { get; private set; }

    /// <summary>Opens a package and reads its descriptor and manifest.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Corrupt"/>: also of names that lead out of the package.</exception>
    public static async ValueTask<OvfPackage> OpenAsync(string path, CancellationToken cancellation = default)
    {
        var isDescriptor = path.EndsWith(".ovf", StringComparison.OrdinalIgnoreCase);
        var file = HostFile.Open(path, new HostFileOptions(true));
        var package = isDescriptor ? new OvfPackage(path, null, new FolderFiles(path, new ImageOpenOptions { ReadOnly = true }, 0)) : new OvfPackage(path, file, null);
        try
        {
            if (isDescriptor)
            {
                package._descriptorName = Path.GetFileName(path);
                package.Descriptor = OvfDescriptor.Parse(await ReadAsync(file, OvfDescriptor.MostBytes, cancellation).ConfigureAwait(false), path);
                await package.FindManifestAsync(cancellation).ConfigureAwait(false);
            }
            else
            {
                package.List();
                await package.ReadArchiveAsync(cancellation).ConfigureAwait(false);
            }

            return package;
        }
        catch
        {
            await package.DisposeAsync().ConfigureAwait(false);
            throw;
        }
        finally
        {
            if (isDescriptor)
            {
                await file.DisposeAsync().ConfigureAwait(false);
            }
        }
    }

    /// <summary>Compares all files of the package with the manifest, if there is one.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.Corrupt"/>: a file differs, is missing, or is not in the manifest.</exception>
    public async ValueTask VerifyAsync(IProgress<double>? progress = null, CancellationToken cancellation = default)
    {
        if (_manifest is null)
        {
            return;
        }

        List<string> names = [.. _manifest.Names.Union([_descriptorName, .. Descriptor.Disks.Where(disk => disk.FileName is not null).Select(disk => disk.FileName!)])];
        for (var index = 0; index < names.Count; index++)
        {
            var file = await OpenFileAsync(names[index], cancellation).ConfigureAwait(false);
            await using (file.ConfigureAwait(false))
            {
                await _manifest.VerifyAsync(names[index], file, cancellation).ConfigureAwait(false);
            }

            progress?.Report((index + 1.0) / names.Count);
        }
    }

    /// <summary>Opens a disk for reading.</summary>
    public async ValueTask<IDisk> OpenDiskAsync(OvfDisk disk, CancellationToken cancellation = default)
    {
        if (disk.FileName is null)
        {
            return new Operations.ZeroDisk(disk.Capacity);
        }

        var file = await OpenFileAsync(disk.FileName, cancellation).ConfigureAwait(false);
        try
        {
            return await DiskFormats.Named(disk.FormatName).OpenAsync(file, new ImageContext(true, (IImageFiles?)_folder ?? new OvaFiles(_path)), cancellation).ConfigureAwait(false);
        }
        catch
        {
            await file.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <inheritdoc/>
    public ValueTask DisposeAsync() => _archive?.DisposeAsync() ?? ValueTask.CompletedTask;

    private static async ValueTask<byte[]> ReadAsync(IStorageFile file, int most, CancellationToken cancellation) => file.Length <= most
        ? await file.ReadBytesAsync(0, (int)file.Length, cancellation).ConfigureAwait(false)
        : throw new DiskException(DiskError.Corrupt, $"{file.Name}: {file.Length} bytes are too many");

    private ValueTask<IStorageFile> OpenFileAsync(string name, CancellationToken cancellation)
    {
        if (_folder is not null)
        {
            return _folder.OpenPartAsync(name, false, cancellation);
        }

        return _members.TryGetValue(name, out var member)
            ? ValueTask.FromResult<IStorageFile>(member)
            : throw new DiskException(DiskError.Corrupt, $"{_path}: the file {name} is not in the archive");
    }

    private async ValueTask FindManifestAsync(CancellationToken cancellation)
    {
        var stem = Path.ChangeExtension(_path, null);
        HasCertificate = File.Exists(stem + ".cert");
        if (File.Exists(stem + ".mf"))
        {
            var file = HostFile.Open(stem + ".mf", new HostFileOptions(true));
            await using (file.ConfigureAwait(false))
            {
                _manifest = OvfManifest.Parse(await ReadAsync(file, OvfManifest.MostBytes, cancellation).ConfigureAwait(false), stem + ".mf");
            }
        }
    }

    /// <summary>Finds where the archive's files stand.</summary>
    private void List()
    {
        try
        {
            using var stream = File.OpenRead(_path);
            using var reader = new TarReader(stream);
            while (reader.GetNextEntry() is { } entry)
            {
                if (entry.EntryType is TarEntryType.GlobalExtendedAttributes)
                {
                    continue;
                }

                var name = entry.Name.StartsWith("./", StringComparison.Ordinal) ? entry.Name[2..] : entry.Name;
                if (name.Length == 0 && entry.EntryType == TarEntryType.Directory)
                {
                    continue;
                }

                if (entry.EntryType is not (TarEntryType.RegularFile or TarEntryType.V7RegularFile or TarEntryType.ContiguousFile)
                    || name.Length == 0 || name is "." or ".." || name.AsSpan().IndexOfAny("/\\\0") >= 0)
                {
                    throw new DiskException(DiskError.Corrupt, $"{_path}: the archive has an entry '{name}' that is no plain file of an OVF package");
                }

                var start = entry.Length == 0 ? 0 : entry.DataOffset;
                if (start < 0 || entry.Length < 0 || start > stream.Length - entry.Length || _members.Count == MostMembers || !_members.TryAdd(name, new OvaMember(_archive!, name, start, entry.Length)))
                {
                    throw new DiskException(DiskError.Corrupt, $"{_path}: the archive is cut off at {name}, has it twice, or has more than {MostMembers} files");
                }

                _descriptorName = _descriptorName.Length == 0 && name.EndsWith(".ovf", StringComparison.OrdinalIgnoreCase) ? name : _descriptorName;
            }
        }
        catch (Exception e) when (e is InvalidDataException or EndOfStreamException or FormatException or ArgumentException or OverflowException)
        {
            throw new DiskException(DiskError.Corrupt, $"{_path} is no sound tar archive: {e.Message}", e);
        }
    }

    private async ValueTask ReadArchiveAsync(CancellationToken cancellation)
    {
        if (_descriptorName.Length == 0)
        {
            throw new DiskException(DiskError.WrongFormat, $"{_path} is not an OVA: it has no descriptor (.ovf)");
        }

        Descriptor = OvfDescriptor.Parse(await ReadAsync(_members[_descriptorName], OvfDescriptor.MostBytes, cancellation).ConfigureAwait(false), _members[_descriptorName].Name);
        var stem = Path.ChangeExtension(_descriptorName, null);
        HasCertificate = _members.ContainsKey(stem + ".cert");
        if (_members.TryGetValue(stem + ".mf", out var manifest))
        {
            _manifest = OvfManifest.Parse(await ReadAsync(manifest, OvfManifest.MostBytes, cancellation).ConfigureAwait(false), manifest.Name);
        }
    }
}
