namespace Lodge.Machine.Devices.Virtio.Balloon;

/// <summary>How a balloon is set up.</summary>
/// <param name="Name">Name of the device.</param>
/// <param name="DeflateOnOutOfMemory">Whether the guest may take pages back on its own when it runs out of memory.</param>
/// <param name="FreePageReporting">Whether the guest reports free pages, whose memory goes back to the host at once.</param>
/// <param name="StatisticsInterval">Time between requests for statistics; zero: only when asked.</param>
public sealed record VirtioBalloonConfiguration(
    string Name = "balloon0",
    bool DeflateOnOutOfMemory = true,
    bool FreePageReporting = true,
    TimeSpan StatisticsInterval = default);

/// <summary>Memory statistics as the guest last gave them (virtio 1.2, 5.5.6.3); null where it gave none.</summary>
public sealed record BalloonStatistics
{
    /// <summary>Bytes swapped in.</summary>
    public ulong? SwapIn { get; init; }

    /// <summary>Bytes swapped out.</summary>
    public ulong? SwapOut { get; init; }

    /// <summary>Page faults that needed I/O.</summary>
    public ulong? MajorFaults { get; init; }

    /// <summary>Page faults that did not.</summary>
    public ulong? MinorFaults { get; init; }

    /// <summary>Bytes not used at all.</summary>
    public ulong? Free { get; init; }

    /// <summary>Bytes of memory.</summary>
    public ulong? Total { get; init; }

    /// <summary>Bytes that a new program could get.</summary>
    public ulong? Available { get; init; }

    /// <summary>Bytes of caches that can be given up quickly.</summary>
    public ulong? Caches { get; init; }

    /// <summary>Huge pages allocated.</summary>
    public ulong? HugePageAllocations { get; init; }

    /// <summary>Huge pages that could not be allocated.</summary>
    public ulong? HugePageFailures { get; init; }

    /// <summary>Number of times that the guest gave statistics since reset.</summary>
    public ulong Updates { get; init; }
}
