using Lodge.Storage.Disks;

namespace Lodge.Storage.Nbd;

/// <summary>A disk under a name, as a server offers it. The disk stays the caller's and outlives the server.</summary>
/// <param name="Name">UTF-8 of at most 4096 bytes without NUL; the empty name is the default export.</param>
/// <param name="Disk">What clients read and write.</param>
public sealed record NbdExport(string Name, IDisk Disk)
{
    /// <summary>Text for people, or empty.</summary>
    public string Description { get; init; } = "";

    /// <summary>Whether clients may only read.</summary>
    public bool ReadOnly { get; init; }

    /// <summary>Names of the disk's dirty bitmaps that clients may see; the disk must be an <see cref="IDirtyBitmaps"/> that has them.</summary>
    public IReadOnlyList<string> Bitmaps { get; init; } = [];

    /// <summary>Whether clients may ask which layer of a chain holds a range (qemu:allocation-depth).</summary>
    public bool AllocationDepth { get; init; }

    /// <summary>Whether clients may change the size (NBD_CMD_RESIZE, extension).</summary>
    public bool AllowResize { get; init; }

    /// <summary>Whether writes are refused.</summary>
    internal bool IsReadOnly => ReadOnly || Disk.IsReadOnly;

    /// <summary>Preferred block size in bytes.</summary>
    internal int PreferredBlock => Math.Clamp(Disk.RequestAlignment, 4096, 1 << 16);

    /// <summary>The transmission flags for a client.</summary>
    internal NbdTransmissionFlags Flags(NbdHeaderStyle style, bool multiConnection, bool contexts)
    {
        var flags = NbdTransmissionFlags.HasFlags | NbdTransmissionFlags.SendFlush | NbdTransmissionFlags.SendFua | NbdTransmissionFlags.SendCache;
        flags |= IsReadOnly
            ? NbdTransmissionFlags.ReadOnly
            : NbdTransmissionFlags.SendTrim | NbdTransmissionFlags.SendWriteZeroes | NbdTransmissionFlags.SendFastZero;
        flags |= multiConnection ? NbdTransmissionFlags.CanMultiConn : 0;
        flags |= style != NbdHeaderStyle.Simple ? NbdTransmissionFlags.SendDf : 0;
        flags |= style == NbdHeaderStyle.Extended && contexts ? NbdTransmissionFlags.BlockStatusPayload : 0;
        flags |= AllowResize && !IsReadOnly && Disk is IResize ? NbdTransmissionFlags.SendResize : 0;
        return flags;
    }

    /// <summary>Names of all metadata contexts that match a query.</summary>
    /// <param name="query">What the client sent, or null for all.</param>
    /// <param name="wildcards">Whether an empty leaf name means all of its namespace (NBD_OPT_LIST_META_CONTEXT).</param>
    internal IEnumerable<string> Match(string? query, bool wildcards)
    {
        foreach (var context in AllContexts())
        {
            if (query is null || query == context || (wildcards && (query is "base:" or "qemu:" or NbdProtocol.QemuDirtyBitmap) && context.StartsWith(query, StringComparison.Ordinal)))
            {
                yield return context;
            }
        }
    }

    private IEnumerable<string> AllContexts()
    {
        yield return NbdProtocol.BaseAllocation;
        foreach (var bitmap in Bitmaps)
        {
            yield return NbdProtocol.QemuDirtyBitmap + bitmap;
        }

        if (AllocationDepth)
        {
            yield return NbdProtocol.QemuAllocationDepth;
        }
    }
}
