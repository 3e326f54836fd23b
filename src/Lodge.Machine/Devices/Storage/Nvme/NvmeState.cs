using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Storage.Nvme;

/// <summary>Saved state of a queue; what it means depends on its kind.</summary>
/// <param name="Id">Queue identifier.</param>
/// <param name="Address">Guest physical address.</param>
/// <param name="Size">Entries.</param>
/// <param name="Head">Head.</param>
/// <param name="Tail">Completion queue: tail.</param>
/// <param name="Phase">Completion queue: phase tag of the next entry.</param>
/// <param name="Vector">Completion queue: interrupt vector. Submission queue: identifier of its completion queue.</param>
/// <param name="Interrupts">Completion queue: whether it interrupts.</param>
/// <param name="Doorbell">Value of the doorbell register.</param>
public sealed record NvmeQueueState(int Id, ulong Address, int Size, int Head, int Tail, bool Phase, int Vector, bool Interrupts, uint Doorbell) : ISavedState<NvmeQueueState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, (ulong)Id);
        writer.UInt64(2, Address);
        writer.UInt64(3, (ulong)Size);
        writer.UInt64(4, (ulong)Head);
        writer.UInt64(5, (ulong)Tail);
        writer.Bool(6, Phase);
        writer.UInt64(7, (ulong)Vector);
        writer.Bool(8, Interrupts);
        writer.UInt64(9, Doorbell);
    }

    /// <inheritdoc/>
    public static NvmeQueueState Read(StateReader reader)
    {
        int size = reader.Int32(3, 2, 4096);
        return size < 2
            ? throw new SavedStateException($"saved state has an NVMe queue of {size} entries")
            : new NvmeQueueState(
                reader.Int32(1, 0, NvmeRegisters.MaximumQueues),
                reader.UInt64(2),
                size,
                reader.Int32(4, 0, size - 1),
                reader.Int32(5, 0, size - 1),
                reader.Bool(6),
                reader.Int32(7, 0, NvmeRegisters.MaximumQueues),
                reader.Bool(8),
                reader.UInt32(9));
    }
}

/// <summary>Saved state of an NVMe controller; no command is in flight when it is taken but requests for events.</summary>
public sealed record NvmeState : ISavedState<NvmeState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <summary>CC.</summary>
    public uint Configuration { get; init; }

    /// <summary>CSTS.</summary>
    public uint Status { get; init; }

    /// <summary>AQA.</summary>
    public uint AdminQueueAttributes { get; init; }

    /// <summary>ASQ.</summary>
    public ulong AdminSubmissionQueue { get; init; }

    /// <summary>ACQ.</summary>
    public ulong AdminCompletionQueue { get; init; }

    /// <summary>INTMS.</summary>
    public uint InterruptMask { get; init; }

    /// <summary>Address of the shadow doorbells; 0: none.</summary>
    public ulong ShadowDoorbells { get; init; }

    /// <summary>Address of the shadow doorbells' event indices.</summary>
    public ulong ShadowEvents { get; init; }

    /// <summary>Feature values by identifier.</summary>
    public IReadOnlyList<ulong> Features { get; init; } = [];

    /// <summary>Command identifiers of outstanding asynchronous event requests.</summary>
    public IReadOnlyList<ulong> EventRequests { get; init; } = [];

    /// <summary>Pending events, told ones, whether I/O queues were created, whether the namespace changed; in bits 0, 8, 16 and 17.</summary>
    public uint Events { get; init; }

    /// <summary>Counters of the health log.</summary>
    public IReadOnlyList<ulong> Counters { get; init; } = [];

    /// <summary>Completion queues.</summary>
    public IReadOnlyList<NvmeQueueState> Completions { get; init; } = [];

    /// <summary>Submission queues.</summary>
    public IReadOnlyList<NvmeQueueState> Submissions { get; init; } = [];

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, Configuration);
        writer.UInt64(2, Status);
        writer.UInt64(3, AdminQueueAttributes);
        writer.UInt64(4, AdminSubmissionQueue);
        writer.UInt64(5, AdminCompletionQueue);
        writer.UInt64(6, InterruptMask);
        writer.UInt64(7, ShadowDoorbells);
        writer.UInt64(8, ShadowEvents);
        writer.UInt64Array(9, [.. Features]);
        writer.UInt64(10, (ulong)EventRequests.Count);
        writer.UInt64Array(11, [.. EventRequests]);
        writer.UInt64(12, Events);
        writer.UInt64Array(13, [.. Counters]);
        foreach (NvmeQueueState queue in Completions)
        {
            writer.Nested(14, queue);
        }
        foreach (NvmeQueueState queue in Submissions)
        {
            writer.Nested(15, queue);
        }
    }

    /// <inheritdoc/>
    public static NvmeState Read(StateReader reader) => new()
    {
        Configuration = reader.UInt32(1),
        Status = reader.UInt32(2, 0, 0xF),
        AdminQueueAttributes = reader.UInt32(3),
        AdminSubmissionQueue = reader.UInt64(4),
        AdminCompletionQueue = reader.UInt64(5),
        InterruptMask = reader.UInt32(6),
        ShadowDoorbells = reader.UInt64(7),
        ShadowEvents = reader.UInt64(8),
        Features = reader.UInt64Array(9, 16),
        EventRequests = reader.UInt64Array(11, reader.Int32(10, 0, NvmeRegisters.MaximumEventRequests)),
        Events = reader.UInt32(12),
        Counters = reader.UInt64Array(13, 6),
        Completions = reader.NestedList<NvmeQueueState>(14, NvmeRegisters.MaximumQueues + 1),
        Submissions = reader.NestedList<NvmeQueueState>(15, NvmeRegisters.MaximumQueues + 1),
    };
}
