using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats;
using Lodge.Storage.Images;

namespace Lodge.Storage.Tests.Kill;

/// <summary>A kind of image whose writers are killed.</summary>
/// <param name="Name">How it is called in tables.</param>
/// <param name="Format">The format's name.</param>
/// <param name="Options">Its options.</param>
public sealed record KillCase(string Name, string Format, string Options = "")
{
    /// <summary>The passphrase of those that are encrypted.</summary>
    public const string Secret = "correct horse";

    /// <summary>Size of the disk in bytes.</summary>
    public int Length { get; init; } = 8 << 20;

    /// <summary>Whether it lies over a parent of the same format that has content.</summary>
    public bool Parent { get; init; }

    /// <summary>Whether it is written by one at a time, who makes, applies and deletes snapshots.</summary>
    public bool Snapshots { get; init; }

    /// <summary>Whether it is written by one at a time, who changes the size as well.</summary>
    public bool Resizes { get; init; }

    /// <summary>Whether units are written compressed, too.</summary>
    public bool Compresses { get; init; }

    /// <summary>Whether qemu-img can check it, and how the check is to be told the file.</summary>
    public bool QemuChecks { get; init; } = true;

    /// <summary>Whether a killed writer may leave a header that counts one block too many: of a VDI whose map is longer than a page.</summary>
    public bool MayOvercount => Format == "vdi" && Length > 896 << 20;

    /// <summary>Whether refcounts may be behind until it is opened for writing (the dirty bit tells).</summary>
    public bool Lazy => Options.Contains("lazy", StringComparison.Ordinal);

    /// <summary>Whether it has a passphrase.</summary>
    public bool Encrypted => Format == "luks" || Options.Contains("encrypt", StringComparison.Ordinal);

    public static IReadOnlyList<KillCase> All { get; } =
    [
        new("raw", "raw") { QemuChecks = false, Length = 4 << 20 },
        new("raw, resized", "raw") { QemuChecks = false, Length = 4 << 20, Resizes = true },
        new("qcow2 v2, 4k clusters", "qcow2", "compat=0.10,cluster_size=4k"),
        new("qcow2 v3, 64k clusters", "qcow2"),
        new("qcow2 v3, 512 byte clusters", "qcow2", "cluster_size=512,refcount_bits=64") { Length = 2 << 20 },
        new("qcow2 v3, refcounts of 1 bit", "qcow2", "cluster_size=1k,refcount_bits=1") { Length = 2 << 20 },
        new("qcow2 v3, resized", "qcow2", "cluster_size=4k") { Resizes = true },
        new("qcow2 lazy refcounts", "qcow2", "cluster_size=4k,lazy_refcounts=on"),
        new("qcow2 lazy refcounts, snapshots", "qcow2", "lazy_refcounts=on") { Snapshots = true },
        new("qcow2 extended L2", "qcow2", "cluster_size=16k,extended_l2=on"),
        new("qcow2 extended L2, overlay", "qcow2", "cluster_size=128k,extended_l2=on") { Parent = true },
        new("qcow2 extended L2, snapshots", "qcow2", "cluster_size=32k,extended_l2=on") { Snapshots = true },
        new("qcow2 compressed, zlib", "qcow2", "cluster_size=16k") { Compresses = true },
        new("qcow2 compressed, zstd, snapshots", "qcow2", "cluster_size=8k,compression_type=zstd") { Compresses = true, Snapshots = true },
        new("qcow2 overlay", "qcow2") { Parent = true },
        new("qcow2 overlay, v2", "qcow2", "compat=0.10,cluster_size=4k") { Parent = true },
        new("qcow2 overlay, resized", "qcow2", "cluster_size=16k") { Parent = true, Resizes = true },
        new("qcow2 snapshots", "qcow2", "cluster_size=4k") { Snapshots = true },
        new("qcow2 snapshots, v2", "qcow2", "compat=0.10") { Snapshots = true },
        new("qcow2 snapshots, overlay, resized", "qcow2", "cluster_size=8k,refcount_bits=8") { Snapshots = true, Parent = true, Resizes = true },
        new("qcow2 external data file", "qcow2", "data_file=data"),
        new("qcow2 external data file, raw", "qcow2", "data_file=data,data_file_raw=on,cluster_size=4k"),
        new("qcow2 LUKS", "qcow2", "encrypt.format=luks,encrypt.iter-time=1,cluster_size=8k"),
        new("qcow2 LUKS, overlay, snapshots", "qcow2", "encrypt.format=luks,encrypt.iter-time=1") { Snapshots = true },
        new("luks", "luks", "iter-time=1") { QemuChecks = false, Length = 4 << 20 },
        new("vhd dynamic", "vpc", "force_size=on") { QemuChecks = false, Length = 24 << 20 },
        new("vhd dynamic, 64k blocks", "vpc", "force_size=on,block_size=64k") { QemuChecks = false },
        new("vhd dynamic, resized", "vpc", "force_size=on,block_size=512k") { QemuChecks = false, Resizes = true },
        new("vhd differencing", "vpc", "force_size=on,block_size=512k") { QemuChecks = false, Parent = true },
        new("vhdx dynamic", "vhdx", "block_size=1M") { Length = 16 << 20 },
        new("vhdx dynamic, no zero blocks", "vhdx", "block_size=1M,block_state_zero=off") { Length = 16 << 20 },
        new("vhdx dynamic, resized", "vhdx", "block_size=1M") { Length = 12 << 20, Resizes = true },
        new("vhdx differencing", "vhdx", "block_size=1M") { QemuChecks = false, Parent = true },
        new("vdi", "vdi") { Length = 24 << 20 },
        new("vdi, map of several pages", "vdi") { Length = int.MaxValue / 2 / 512 * 512 },
        new("vdi, resized", "vdi") { QemuChecks = false, Resizes = true },
        new("vdi static", "vdi", "static=on"),
        new("vmdk monolithicSparse", "vmdk") { Length = 6 << 20 },
        new("vmdk monolithicSparse, overlay", "vmdk") { Length = 6 << 20, Parent = true },
        new("vmdk twoGbMaxExtentSparse", "vmdk", "subformat=twoGbMaxExtentSparse") { Length = 6 << 20 },
        new("vmdk monolithicFlat", "vmdk", "subformat=monolithicFlat") { Length = 6 << 20 },
    ];

    /// <summary>Makes the image <c>disk</c> in <paramref name="folder"/>, and what the disk holds: the parent's content or zeroes.</summary>
    public async Task<byte[]> CreateAsync(string folder, Random random)
    {
        var content = new byte[Math.Min(Length, 64 << 20)];
        var options = Options.Split(',', StringSplitOptions.RemoveEmptyEntries).Select(option => option.Split('=')).Select(pair => KeyValuePair.Create(pair[0], pair[1])).ToList();
        if (Parent)
        {
            await MakeAsync(Path.Combine(folder, "parent"), options);
            await using var parent = await OpenAsync(Path.Combine(folder, "parent"), false);
            for (var count = 0; count < 12; count++)
            {
                var bytes = new byte[random.Next(1, 400) * 512];
                random.NextBytes(bytes);
                var at = random.Next((content.Length - bytes.Length) / 512) * 512;
                bytes.CopyTo(content, at);
                await parent.WriteAsync(at, bytes);
            }

            options.AddRange([KeyValuePair.Create("backing_file", "parent"), KeyValuePair.Create("backing_fmt", Format)]);
        }

        await MakeAsync(Path.Combine(folder, "disk"), options);
        if (Format == "luks")
        {
            // What was never written is noise.
            await using var image = await OpenAsync(Path.Combine(folder, "disk"), false);
            await image.WriteAsync(0, content);
        }

        return content;
    }

    /// <summary>Opens an image of this kind.</summary>
    public async Task<IImage> OpenAsync(string path, bool readOnly, CacheMode cache = CacheMode.WriteBack, string? snapshot = null, bool checking = false) => await ImageOpener.OpenAsync(
        path,
        new ImageOpenOptions { Format = Format, ReadOnly = readOnly, Cache = cache, Secret = Encrypted ? Secret : null, Snapshot = snapshot, Checking = checking });

    private async Task MakeAsync(string path, List<KeyValuePair<string, string>> options)
    {
        var format = DiskFormats.Named(Format);
        await using var made = await NewImage.CreateAsync(new NewImageOptions(path, Format, Length) { Options = FormatOptions.Parse(format, options), Secret = Encrypted ? Secret : null, Cache = CacheMode.Unsafe });
        await made.CompleteAsync();
    }
}
