namespace Lodge.Machine.Saving;

/// <summary>How a machine is saved.</summary>
public sealed record SaveOptions
{
    /// <summary>Name for the metadata.</summary>
    public string Name { get; init; } = "";

    /// <summary>Version of Lodge for the metadata.</summary>
    public string Version { get; init; } = "";

    /// <summary>Notes for the metadata.</summary>
    public IReadOnlyDictionary<string, string> Notes { get; init; } = new Dictionary<string, string>();

    /// <summary>Threads that compress, 1 to 64. By default as many as the host has CPUs, at most 8.</summary>
    public int Threads { get; init; } = Math.Min(Environment.ProcessorCount, 8);

    /// <summary>Level of zstd, from negative (fastest) to 19.</summary>
    public int Level { get; init; } = 1;

    /// <summary>Called now and then, on any thread, with the bytes of touched RAM that are done and their sum. Must return at once.</summary>
    public Action<ulong, ulong>? Progress { get; init; }
}

/// <summary>What became of a save.</summary>
/// <param name="FileLength">Bytes of the file.</param>
/// <param name="MemoryBytes">Bytes of RAM in chunks that were not zero.</param>
/// <param name="FrameBytes">Bytes that they became.</param>
/// <param name="Duration">How long it took to write and to make durable.</param>
public sealed record SaveResult(long FileLength, long MemoryBytes, long FrameBytes, TimeSpan Duration);
