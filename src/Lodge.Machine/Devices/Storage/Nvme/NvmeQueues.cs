namespace Lodge.Machine.Devices.Storage.Nvme;

/// <summary>A submission queue as the controller sees it; its worker's only.</summary>
/// <param name="id">0 is the admin queue.</param>
/// <param name="address">Guest physical address, a multiple of 4 KiB; all entries lie in RAM.</param>
/// <param name="size">Entries, at least 2.</param>
/// <param name="completion">Where its commands complete.</param>
internal sealed class NvmeSubmissionQueue(int id, ulong address, int size, NvmeCompletionQueue completion)
{
    public int Id => id;

    public ulong Address => address;

    public int Size => size;

    public NvmeCompletionQueue Completion => completion;

    /// <summary>Entry that is fetched next.</summary>
    public int Head { get; set; }

    /// <summary>Commands fetched and not completed, asynchronous event requests excepted.</summary>
    public int InFlight { get; set; }

    /// <summary>Command identifier of the Delete command that waits until nothing is in flight.</summary>
    public ushort? Deletion { get; set; }

    public ulong NextEntry => address + ((ulong)Head * NvmeRegisters.SubmissionEntry);

    public void Advance() => Head = (Head + 1) % size;
}

/// <summary>A completion queue as the controller sees it; its worker's only.</summary>
/// <param name="id">0 is the admin queue.</param>
/// <param name="address">Guest physical address, a multiple of 4 KiB; all entries lie in RAM.</param>
/// <param name="size">Entries, at least 2.</param>
/// <param name="vector">Interrupt vector.</param>
/// <param name="interrupts">Whether it interrupts.</param>
internal sealed class NvmeCompletionQueue(int id, ulong address, int size, int vector, bool interrupts)
{
    public int Id => id;

    public ulong Address => address;

    public int Size => size;

    public int Vector => vector;

    public bool Interrupts => interrupts;

    /// <summary>Entry that is written next.</summary>
    public int Tail { get; set; }

    /// <summary>Phase tag of the entry that is written next.</summary>
    public bool Phase { get; set; } = true;

    /// <summary>Entry that the host reads next, as last seen.</summary>
    public int Head { get; set; }

    /// <summary>Entries kept free for commands in flight, so that each finds a place when it completes.</summary>
    public int Reserved { get; set; }

    /// <summary>Submission queues that use it.</summary>
    public int Users { get; set; }

    /// <summary>Something was posted since the last interrupt.</summary>
    public bool Posted { get; set; }

    public int Used => (Tail - Head + size) % size;

    /// <summary>Entries that are neither unread nor reserved. A host that moves its head back may make it negative, to its own harm only.</summary>
    public int Free => size - 1 - Used - Reserved;

    public ulong NextEntry => address + ((ulong)Tail * NvmeRegisters.CompletionEntry);

    public void Advance()
    {
        Tail++;
        if (Tail == size)
        {
            Tail = 0;
            Phase = !Phase;
        }
        Posted = true;
    }
}
