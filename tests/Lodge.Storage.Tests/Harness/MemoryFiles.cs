using System.Collections.Concurrent;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;

namespace Lodge.Storage.Tests.Harness;

/// <summary>A folder of files in memory for images with parents and parts.</summary>
public sealed class MemoryFiles : IImageFiles
{
    public ConcurrentDictionary<string, MemoryFile> Files { get; } = new();

    public MemoryFile this[string name] => Files.GetOrAdd(name, key => new MemoryFile(key));

    public ValueTask<IStorageFile> OpenPartAsync(string name, bool writable, CancellationToken cancellation = default) =>
        Files.TryGetValue(name, out var file) ? ValueTask.FromResult<IStorageFile>(file) : throw new DiskException(DiskError.NotFound, $"{name} does not exist");

    public ValueTask<IStorageFile> CreatePartAsync(string name, CancellationToken cancellation = default) =>
        Files.TryAdd(name, new MemoryFile(name)) ? ValueTask.FromResult<IStorageFile>(Files[name]) : throw new DiskException(DiskError.Exists, $"{name} exists");

    public async ValueTask<IDisk> OpenBackingAsync(string name, string? format, CancellationToken cancellation = default)
    {
        var file = await OpenPartAsync(name, false, cancellation);
        return await (format is null ? await DiskFormats.ProbeAsync(file, cancellation) : DiskFormats.Named(format)).OpenAsync(file, new ImageContext(true, this), cancellation);
    }

    /// <summary>Opens an image of this folder.</summary>
    public async Task<IImage> OpenAsync(string name, string format, bool readOnly = false, string? secret = null) =>
        await DiskFormats.Named(format).OpenAsync(this[name], new ImageContext(readOnly, this, secret));

    /// <summary>Makes an image in this folder.</summary>
    public async Task CreateAsync(string name, string format, long length, params (string Name, string Value)[] options)
    {
        var known = DiskFormats.Named(format);
        var given = FormatOptions.Parse(known, options.Select(option => KeyValuePair.Create(option.Name, option.Value)));
        await known.CreateAsync(this[name], length, given, new ImageContext(false, this));
    }
}
