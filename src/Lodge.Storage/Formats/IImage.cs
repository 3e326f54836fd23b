using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats;

/// <summary>An opened disk image.</summary>
public interface IImage : IDisk, IBlockStatus
{
    /// <summary>The format's name.</summary>
    string FormatName { get; }

    /// <summary>The main file.</summary>
    IStorageFile File { get; }

    /// <summary>Facts for <c>image info</c>.</summary>
    ImageInformation Describe();
}

/// <summary>Facts about an image.</summary>
public sealed record ImageInformation
{
    /// <summary>Size in bytes as a guest sees it.</summary>
    public required long VirtualSize { get; init; }

    /// <summary>Allocation unit in bytes, or null.</summary>
    public int? ClusterSize { get; init; }

    /// <summary>Whether the content is encrypted.</summary>
    public bool Encrypted { get; init; }

    /// <summary>Whether writes by default store compressed (streamOptimized) or the image has compressed units known from its header.</summary>
    public bool Compressed { get; init; }

    /// <summary>Whether it was not closed cleanly.</summary>
    public bool Dirty { get; init; }

    /// <summary>The parent's name as the image has it, or null.</summary>
    public string? BackingName { get; init; }

    /// <summary>The parent's format as the image has it, or null.</summary>
    public string? BackingFormat { get; init; }

    /// <summary>Internal snapshots.</summary>
    public IReadOnlyList<ImageSnapshot> Snapshots { get; init; } = [];

    /// <summary>Other facts of the format with qemu-img's names (<c>compat</c>, <c>lazy-refcounts</c>, <c>create-type</c>, ...) and printable values; nested names are joined by dots.</summary>
    public IReadOnlyList<KeyValuePair<string, string>> FormatSpecific { get; init; } = [];

    /// <summary>Further files that belong to the image (extents, external data), as it names them.</summary>
    public IReadOnlyList<string> Parts { get; init; } = [];
}

/// <summary>An internal snapshot.</summary>
/// <param name="Id">Its id, unique in the image.</param>
/// <param name="Name">Its name.</param>
/// <param name="VirtualMachineStateSize">Bytes of saved machine state, 0 if none.</param>
/// <param name="Taken">When it was made.</param>
/// <param name="MachineTime">Run time of the machine when it was made.</param>
/// <param name="VirtualSize">Size of the disk when it was made, in bytes.</param>
public sealed record ImageSnapshot(string Id, string Name, long VirtualMachineStateSize, DateTimeOffset Taken, TimeSpan MachineTime, long VirtualSize);

/// <summary>An image that keeps snapshots inside.</summary>
public interface ISnapshots
{
    /// <summary>The snapshots, oldest first.</summary>
    IReadOnlyList<ImageSnapshot> Snapshots { get; }

    /// <summary>Keeps the present content under a name.</summary>
    ValueTask CreateSnapshotAsync(string name, CancellationToken cancellation = default);

    /// <summary>Goes back to a snapshot, by id or name; what was written since is lost.</summary>
    ValueTask ApplySnapshotAsync(string idOrName, CancellationToken cancellation = default);

    /// <summary>Forgets a snapshot, by id or name.</summary>
    ValueTask DeleteSnapshotAsync(string idOrName, CancellationToken cancellation = default);
}

/// <summary>An image that may have a parent.</summary>
public interface IBackedImage : IImage
{
    /// <summary>The opened parent, or null.</summary>
    IDisk? Backing { get; }

    /// <summary>Whether the range is held by this image itself (data or zeroes), and for how many bytes, at most <paramref name="length"/>.</summary>
    ValueTask<(bool Own, long Length)> IsOwnAsync(long offset, long length, CancellationToken cancellation = default);

    /// <summary>Makes the image name another parent, or none; the content below is the caller's matter.</summary>
    ValueTask SetBackingAsync(string? name, string? format, CancellationToken cancellation = default);

    /// <summary>Forgets all that this image itself holds, so that the parent shows through.</summary>
    ValueTask MakeEmptyAsync(CancellationToken cancellation = default);
}

/// <summary>An image whose options can change after it was made.</summary>
public interface IAmend
{
    /// <summary>Changes options that the format marks as amendable.</summary>
    ValueTask AmendAsync(FormatOptions options, IProgress<double>? progress, CancellationToken cancellation = default);
}

/// <summary>What a check may change.</summary>
public enum CheckRepair
{
    /// <summary>Nothing.</summary>
    None,

    /// <summary>Leaked space is freed.</summary>
    Leaks,

    /// <summary>All that can be mended, with the risk of choosing wrongly.</summary>
    All,
}

/// <summary>What a check found; counts before repair, and what was mended.</summary>
public sealed record CheckResult
{
    /// <summary>Errors that make the content wrong.</summary>
    public long Corruptions { get; init; }

    /// <summary>Units that nothing uses.</summary>
    public long Leaks { get; init; }

    /// <summary>Structures that could not be checked (read errors).</summary>
    public long CheckErrors { get; init; }

    /// <summary>Corruptions that were mended.</summary>
    public long CorruptionsFixed { get; init; }

    /// <summary>Leaks that were mended.</summary>
    public long LeaksFixed { get; init; }

    /// <summary>Units in the disk.</summary>
    public long TotalClusters { get; init; }

    /// <summary>Units allocated.</summary>
    public long AllocatedClusters { get; init; }

    /// <summary>Units stored compressed.</summary>
    public long CompressedClusters { get; init; }

    /// <summary>Units that do not follow their predecessor.</summary>
    public long FragmentedClusters { get; init; }

    /// <summary>Where the used part of the file ends, in bytes.</summary>
    public long ImageEndOffset { get; init; }

    /// <summary>One line for each finding, at most a hundred.</summary>
    public IReadOnlyList<string> Messages { get; init; } = [];
}

/// <summary>An image that can be checked.</summary>
public interface ICheck
{
    /// <summary>Checks, and repairs what is asked.</summary>
    ValueTask<CheckResult> CheckAsync(CheckRepair repair, IProgress<double>? progress = null, CancellationToken cancellation = default);
}
