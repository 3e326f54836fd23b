namespace Lodge.Storage.Formats.Vmdk;

/// <summary>What is known of a grain.</summary>
internal enum GrainState
{
    /// <summary>Its table must be loaded first.</summary>
    NotLoaded,

    /// <summary>The extent holds nothing.</summary>
    Unallocated,

    /// <summary>Zeroes that take no room.</summary>
    Zero,

    /// <summary>Data in the file.</summary>
    Data,
}

/// <summary>Neighbouring grains of one state; those with data follow each other in the file.</summary>
/// <param name="State">Of all.</param>
/// <param name="Sector">Where the first one's data is.</param>
/// <param name="Count">How many.</param>
internal readonly record struct GrainRun(GrainState State, long Sector, long Count);

/// <summary>Grains that get their place while their data is written.</summary>
internal sealed class GrainReservation(GrainTable table, long first, long count, long sector, bool wasZero)
{
    public GrainTable Table => table;

    public long First => first;

    public long Count => count;

    public long Sector => sector;

    /// <summary>Whether they read as zeroes before and not as the parent.</summary>
    public bool WasZero => wasZero;

    public TaskCompletionSource Done { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);
}

/// <summary>What a writer finds: a run that is there, a reservation to fill, or another writer's to wait for.</summary>
internal readonly record struct GrainWrite(GrainRun Run, GrainReservation? Reservation, Task? Wait);

/// <summary>A grain table in memory.</summary>
internal sealed class GrainTable(long index, uint[] entries)
{
    public long Index => index;

    public uint[] Entries => entries;

    /// <summary>Whether it changed since it was last written.</summary>
    public bool Dirty { get; set; }

    /// <summary>Whether the directory does not point to it yet.</summary>
    public bool Fresh { get; set; }

    /// <summary>Users besides the cache; it stays while there are any.</summary>
    public int Pins { get; set; }
}
