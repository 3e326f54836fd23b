namespace Lodge.Engine.Memory;

/// <summary>Pages of the host that back guest RAM.</summary>
public enum HugePages
{
    /// <summary>4 KiB pages.</summary>
    None,

    /// <summary>4 KiB pages that the host's kernel may join to huge ones (Linux Documentation/admin-guide/mm/transhuge.rst).</summary>
    Transparent,

    /// <summary>2 MiB pages of the host's pool (Documentation/admin-guide/mm/hugetlbpage.rst).</summary>
    Pool2M,

    /// <summary>1 GiB pages of the host's pool.</summary>
    Pool1G,
}

/// <summary>How the host backs guest RAM.</summary>
/// <remarks>
/// Normally and with pool pages RAM is a memory file that other processes can map. The kernel merges (KSM) private anonymous memory only, and for shared memory
/// transparent huge pages are off on most hosts, so with <see cref="Mergeable"/> and <see cref="HugePages.Transparent"/> it is private and anonymous.
/// </remarks>
/// <param name="HugePages">Page size.</param>
/// <param name="Mergeable">The kernel may merge pages of equal content (Documentation/admin-guide/mm/ksm.rst).</param>
/// <param name="Locked">All of it is in the host's memory from the beginning and stays there (mlock(2)).</param>
public sealed record MemoryBacking(HugePages HugePages = HugePages.None, bool Mergeable = false, bool Locked = false)
{
    /// <summary>A memory file of 4 KiB pages, backed as it is touched.</summary>
    public static MemoryBacking Default { get; } = new();

    /// <summary>
    /// File with what RAM holds at first, of exactly its size; null: RAM is zero at first. The file is mapped copy-on-write: it is read as the guest touches it, never
    /// written, and pages that no guest has written are in the host's memory once for all that map it. It must stand still while it is mapped; it may be deleted.
    /// </summary>
    public string? CopyOf { get; init; }

    /// <summary>Whether RAM is a memory file of its own, which other processes can map.</summary>
    public bool IsFile => CopyOf is null && !Mergeable && HugePages != HugePages.Transparent;

    /// <summary>Bytes of a page of the pool; 0 without a pool.</summary>
    public ulong PoolPageSize => HugePages switch
    {
        HugePages.Pool2M => 2UL << 20,
        HugePages.Pool1G => 1UL << 30,
        _ => 0,
    };

    /// <summary>Why this cannot be had for RAM of <paramref name="size"/> bytes whatever the host is; null when it can.</summary>
    public string? Contradiction(ulong size) => this switch
    {
        { CopyOf: not null, HugePages: not HugePages.None } => "memory that begins as a copy of a file cannot be made of huge pages",
        { Mergeable: true, Locked: true } => "memory cannot be both mergeable and locked: a merged page is copied when it is written, for which there may be no memory",
        { Mergeable: true, HugePages: not HugePages.None } => "memory cannot be both mergeable and made of huge pages: the kernel merges 4 KiB pages only",
        _ when PoolPageSize != 0 && size % PoolPageSize != 0 =>
            $"memory of {size >> 20} MiB is not a multiple of its huge pages of {(PoolPageSize == 1UL << 30 ? "1 GiB" : "2 MiB")}",
        _ => null,
    };
}
