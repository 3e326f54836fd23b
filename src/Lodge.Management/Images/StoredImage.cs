using System.Text.Json;
using System.Text.Json.Serialization;

namespace Lodge.Management.Images;

/// <summary>The manifest of a stored image, <c>image.json</c> in its folder.</summary>
public sealed record ImageManifest
{
    /// <summary>The version of this form.</summary>
    public const int CurrentVersion = 1;

    /// <summary>Version of the form; a higher one than <see cref="CurrentVersion"/> is refused.</summary>
    public int Version { get; init; } = CurrentVersion;

    /// <summary>For example <c>debian</c>.</summary>
    public required string Name { get; init; }

    /// <summary>For example <c>bookworm</c>.</summary>
    public required string Tag { get; init; }

    /// <summary>One line on what it is, for people.</summary>
    public string Description { get; init; } = "";

    /// <summary>Where it came from: an address, or how it was built.</summary>
    public string Source { get; init; } = "";

    /// <summary>When it was made or fetched.</summary>
    public DateTimeOffset Created { get; init; }

    /// <summary>The disk's file in the folder.</summary>
    public required string Disk { get; init; }

    /// <summary>The disk's format.</summary>
    public required string Format { get; init; }

    /// <summary>SHA-256 of the disk's file when it was stored, in hexadecimal; empty when it was not computed.</summary>
    public string Sha256 { get; init; } = "";

    /// <summary>Size of the disk in bytes.</summary>
    public long VirtualSize { get; init; }

    /// <summary>Kernel to boot (a file in the folder).</summary>
    public string? Kernel { get; init; }

    /// <summary>Initial RAM disk (a file in the folder), or null.</summary>
    public string? Initrd { get; init; }

    /// <summary>Root device as the kernel names it, with <c>{disk}</c> for the disk that it is attached as, for example <c>{disk}</c> or <c>UUID=...</c>.</summary>
    public string Root { get; init; } = "{disk}";

    /// <summary>More words for the kernel's command line.</summary>
    public string CommandLine { get; init; } = "";

    /// <summary>Whether the kernel reaches an NVMe disk with this root file system without an initial RAM disk.</summary>
    public bool BootsWithoutInitrd { get; init; }

    /// <summary>Whether the guest runs <c>lodge run IMAGE -- CMD</c> by the service that Lodge put into it.</summary>
    public bool HasCommandService { get; init; }

    /// <summary>Whether cloud-init is in it: <c>lodge run</c> then gives it a seed.</summary>
    public bool HasCloudInit { get; init; }
}

/// <summary>An image in the store.</summary>
/// <param name="Folder">Its folder.</param>
/// <param name="Manifest">What it is.</param>
public sealed record StoredImage(string Folder, ImageManifest Manifest)
{
    /// <summary>The disk's path.</summary>
    public string DiskPath => Path.Combine(Folder, Manifest.Disk);

    /// <summary>The kernel's path, or null.</summary>
    public string? KernelPath => Manifest.Kernel is { } kernel ? Path.Combine(Folder, kernel) : null;

    /// <summary>The initial RAM disk's path, or null.</summary>
    public string? InitrdPath => Manifest.Initrd is { } initrd ? Path.Combine(Folder, initrd) : null;

    /// <summary>The name.</summary>
    public ImageName Name => new(Manifest.Name, Manifest.Tag);
}

/// <summary>Source-generated JSON of the manifests.</summary>
[JsonSourceGenerationOptions(JsonSerializerDefaults.Web, WriteIndented = true)]
[JsonSerializable(typeof(ImageManifest))]
[JsonSerializable(typeof(List<ImageManifest>))]
public sealed partial class ManifestJson : JsonSerializerContext;
