using Lodge.Storage.Disks;
using Lodge.Storage.Files;
using Lodge.Storage.Formats.Luks;
using Lodge.Storage.Formats.Qcow2;
using Lodge.Storage.Formats.Raw;
using Lodge.Storage.Formats.Vmdk;
using Lodge.Storage.Formats.Vdi;
using Lodge.Storage.Formats.Vhd;
using Lodge.Storage.Formats.Vhdx;

namespace Lodge.Storage.Formats;

/// <summary>The formats that Lodge knows.</summary>
public static class DiskFormats
{
    /// <summary>How much of a file's beginning <see cref="IDiskFormat.Probe"/> sees, in bytes.</summary>
    public const int ProbeLength = 64 * 1024;

    /// <summary>All formats, raw last.</summary>
    public static IReadOnlyList<IDiskFormat> All { get; } =
    [
        new LuksFormat(),
        new Qcow2Format(),
        new VmdkFormat(),
        new VhdFormat(),
        new VhdxFormat(),
        new VdiFormat(),
        new RawFormat(),
    ];

    /// <summary>The format of a name.</summary>
    /// <exception cref="DiskException"><see cref="DiskError.InvalidOption"/>: there is none; the message lists all.</exception>
    public static IDiskFormat Named(string name) =>
        All.FirstOrDefault(format => format.Name == name || format.OtherNames.Contains(name))
        ?? throw new DiskException(DiskError.InvalidOption, $"unknown image format '{name}'; the formats are {string.Join(", ", All.Select(format => format.Name))}");

    /// <summary>Guesses the format of a file from its content. Never done for a machine's disk unless asked, because a guest that writes a raw disk can make it look like any format.</summary>
    public static async ValueTask<IDiskFormat> ProbeAsync(IStorageFile file, CancellationToken cancellation = default)
    {
        var head = await file.ReadBytesAsync(0, ProbeLength, cancellation).ConfigureAwait(false);
        var tail = file.Length >= 512 ? await file.ReadBytesAsync(file.Length - 512, 512, cancellation).ConfigureAwait(false) : [];
        return All.MaxBy(format => format.Probe(head, tail, file.Length))!;
    }
}
