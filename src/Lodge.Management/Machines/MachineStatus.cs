namespace Lodge.Management.Machines;

/// <summary>How a machine stands. There is no state "unknown": what a dead process left says nothing, its lock does.</summary>
public static class MachineStates
{
    /// <summary>It does not run, and begins with its firmware or kernel.</summary>
    public const string Stopped = "stopped";

    /// <summary>It does not run, and goes on where it was saved.</summary>
    public const string Saved = "saved";

    /// <summary>Its process is there, its guest not yet.</summary>
    public const string Starting = "starting";

    /// <summary>The guest runs.</summary>
    public const string Running = "running";

    /// <summary>Held; time stands still in it.</summary>
    public const string Paused = "paused";

    /// <summary>Its process ends.</summary>
    public const string Stopping = "stopping";
}

/// <summary>What a machine's process says of itself, <c>status.json</c>: true while it holds the machine's lock, and how it ended afterwards.</summary>
public sealed record MachineStatus
{
    /// <summary>One of <see cref="MachineStates"/>.</summary>
    public required string State { get; init; }

    /// <summary>Since when.</summary>
    public required DateTimeOffset Since { get; init; }

    /// <summary>When the process began.</summary>
    public DateTimeOffset? Started { get; init; }

    /// <summary>Number of the process.</summary>
    public int? Process { get; init; }

    /// <summary>What executes the guest: <c>kvm</c> or <c>translate</c>.</summary>
    public string? Engine { get; init; }

    /// <summary>How it ended, when it has.</summary>
    public MachineEnd? End { get; init; }
}

/// <summary>The end of a machine's process.</summary>
/// <param name="Status">Exit status as of <c>lodge run</c>.</param>
/// <param name="Reason">What happened, in a few words.</param>
/// <param name="Time">When.</param>
public sealed record MachineEnd(int Status, string Reason, DateTimeOffset Time);

/// <summary>A machine as <c>lodge list</c> and <c>lodge show</c> tell of it.</summary>
public sealed record MachineReport
{
    /// <summary>Its name.</summary>
    public required string Name { get; init; }

    /// <summary>One of <see cref="MachineStates"/>; for a folder whose definition cannot be read <c>damaged</c>.</summary>
    public required string State { get; init; }

    /// <summary>Since when, if known.</summary>
    public DateTimeOffset? Since { get; init; }

    /// <summary>Number of its process.</summary>
    public int? Process { get; init; }

    /// <summary>What executes its guest.</summary>
    public string? Engine { get; init; }

    /// <summary>How it last ended.</summary>
    public MachineEnd? End { get; init; }

    /// <summary>Its definition.</summary>
    public MachineDefinition? Definition { get; init; }

    /// <summary>Its folder.</summary>
    public required string Folder { get; init; }

    /// <summary>What is wrong with it.</summary>
    public string? Problem { get; init; }

    /// <summary>Its disks and network cards; told for one machine, not in lists.</summary>
    public IReadOnlyList<MachineDevice>? Devices { get; init; }
}

/// <summary>A disk or network card of a machine.</summary>
/// <param name="Name">Its name.</param>
/// <param name="Kind"><c>disk</c> or <c>card</c>.</param>
/// <param name="What">What it is connected to: a path, an image, a network.</param>
/// <param name="Slot">Its PCI slot, where that is known.</param>
/// <param name="State"><c>attached</c>, where the machine does not run or has it; <c>after restart</c>, where the definition has it and the machine that runs has not; <c>until restart</c> the other way round.</param>
public sealed record MachineDevice(string Name, string Kind, string What, int? Slot, string State);

/// <summary>Something that happened to a machine; a line of the journal.</summary>
/// <param name="Time">When.</param>
/// <param name="Machine">Its name.</param>
/// <param name="Id">Its identity.</param>
/// <param name="Event">What: created, started, paused, ...</param>
/// <param name="Detail">More, for people.</param>
public sealed record MachineEvent(DateTimeOffset Time, string Machine, Guid Id, string Event, string? Detail = null);
