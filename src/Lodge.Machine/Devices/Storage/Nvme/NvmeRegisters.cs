namespace Lodge.Machine.Devices.Storage.Nvme;

/// <summary>Controller registers (NVM Express 1.4, 3.1) and the limits that this controller has.</summary>
internal static class NvmeRegisters
{
    /// <summary>CAP, controller capabilities, 8 bytes.</summary>
    public const int Capabilities = 0x00;

    /// <summary>VS, version, 4 bytes.</summary>
    public const int Version = 0x08;

    /// <summary>INTMS, interrupt mask set, 4 bytes.</summary>
    public const int InterruptMaskSet = 0x0C;

    /// <summary>INTMC, interrupt mask clear, 4 bytes.</summary>
    public const int InterruptMaskClear = 0x10;

    /// <summary>CC, controller configuration, 4 bytes.</summary>
    public const int Configuration = 0x14;

    /// <summary>CSTS, controller status, 4 bytes.</summary>
    public const int Status = 0x1C;

    /// <summary>AQA, admin queue attributes, 4 bytes.</summary>
    public const int AdminQueueAttributes = 0x24;

    /// <summary>ASQ, admin submission queue base address, 8 bytes.</summary>
    public const int AdminSubmissionQueue = 0x28;

    /// <summary>ACQ, admin completion queue base address, 8 bytes.</summary>
    public const int AdminCompletionQueue = 0x30;

    /// <summary>Where the registers end.</summary>
    public const int End = 0x38;

    /// <summary>First doorbell; for each queue the submission queue's tail, then the completion queue's head, 4 bytes each (DSTRD 0).</summary>
    public const int Doorbells = 0x1000;

    /// <summary>MSI-X table.</summary>
    public const int MsixTable = 0x2000;

    /// <summary>MSI-X pending bits.</summary>
    public const int MsixPending = 0x3000;

    /// <summary>Bytes of BAR 0.</summary>
    public const int BarLength = 0x4000;

    /// <summary>VS: 1.4.</summary>
    public const uint Version14 = 0x0001_0400;

    /// <summary>CC.EN.</summary>
    public const uint Enable = 1;

    /// <summary>CC.SHN.</summary>
    public const uint ShutdownMask = 3 << 14;

    /// <summary>CSTS.RDY.</summary>
    public const uint Ready = 1;

    /// <summary>CSTS.CFS, controller fatal status.</summary>
    public const uint Fatal = 1 << 1;

    /// <summary>CSTS.SHST.</summary>
    public const uint ShutdownStatusMask = 3 << 2;

    /// <summary>CSTS.SHST: shutdown is in progress.</summary>
    public const uint ShutdownInProgress = 1 << 2;

    /// <summary>CSTS.SHST: shutdown is complete.</summary>
    public const uint ShutdownComplete = 2 << 2;

    /// <summary>Largest I/O queue, in entries.</summary>
    public const int MaximumQueueEntries = 1024;

    /// <summary>Most pairs of I/O queues.</summary>
    public const int MaximumQueues = 32;

    /// <summary>Bytes of a page; the only one that CAP allows.</summary>
    public const uint PageSize = 4096;

    /// <summary>MDTS: the largest transfer is this power of two of pages (1 MiB).</summary>
    public const byte MaximumTransferExponent = 8;

    /// <summary>Bytes of the largest transfer.</summary>
    public const uint MaximumTransfer = PageSize << MaximumTransferExponent;

    /// <summary>Bytes in flight from which no further command is fetched: disks that must buffer do so within bounds.</summary>
    public const long MaximumBytesInFlight = 256 << 20;

    /// <summary>Bytes of a submission queue entry.</summary>
    public const int SubmissionEntry = 64;

    /// <summary>Bytes of a completion queue entry.</summary>
    public const int CompletionEntry = 16;

    /// <summary>Asynchronous event requests that may be outstanding (AERL + 1).</summary>
    public const int MaximumEventRequests = 4;

    /// <summary>CAP: MQES, contiguous queues required, time-out of 30 s, NVM command set, pages of 4 KiB only.</summary>
    public const ulong CapabilitiesValue = (MaximumQueueEntries - 1) | (1UL << 16) | (60UL << 24) | (1UL << 37);
}

/// <summary>Opcodes of admin commands (5, figure 139).</summary>
internal enum NvmeAdminOpcode : byte
{
    DeleteSubmissionQueue = 0x00,
    CreateSubmissionQueue = 0x01,
    GetLogPage = 0x02,
    DeleteCompletionQueue = 0x04,
    CreateCompletionQueue = 0x05,
    Identify = 0x06,
    Abort = 0x08,
    SetFeatures = 0x09,
    GetFeatures = 0x0A,
    AsynchronousEventRequest = 0x0C,
    DoorbellBufferConfig = 0x7C,
}

/// <summary>Opcodes of the NVM command set (6, figure 346).</summary>
internal enum NvmeOpcode : byte
{
    Flush = 0x00,
    Write = 0x01,
    Read = 0x02,
    WriteZeroes = 0x08,
    DatasetManagement = 0x09,
}

/// <summary>Status field without phase and more bits: code in bits 7:0, code type in 10:8 (4.6.1).</summary>
internal enum NvmeStatus : ushort
{
    Success = 0x000,
    InvalidOpcode = 0x001,
    InvalidField = 0x002,
    DataTransferError = 0x004,
    InternalError = 0x006,
    InvalidNamespace = 0x00B,
    CommandSequenceError = 0x00C,
    PrpOffsetInvalid = 0x013,
    LbaOutOfRange = 0x080,
    CapacityExceeded = 0x081,
    CompletionQueueInvalid = 0x100,
    InvalidQueueIdentifier = 0x101,
    InvalidQueueSize = 0x102,
    EventRequestLimitExceeded = 0x105,
    InvalidInterruptVector = 0x108,
    InvalidLogPage = 0x109,
    InvalidQueueDeletion = 0x10C,
    FeatureNotSaveable = 0x10D,
    FeatureNotChangeable = 0x10E,
    ReadOnlyRange = 0x182,
    WriteFault = 0x280,
    UnrecoveredReadError = 0x281,

    /// <summary>DNR: the command will fail again.</summary>
    DoNotRetry = 0x4000,
}

/// <summary>Feature identifiers (5.21.1).</summary>
internal enum NvmeFeature : byte
{
    Arbitration = 0x01,
    PowerManagement = 0x02,
    TemperatureThreshold = 0x04,
    ErrorRecovery = 0x05,
    VolatileWriteCache = 0x06,
    NumberOfQueues = 0x07,
    InterruptCoalescing = 0x08,
    InterruptVectorConfiguration = 0x09,
    WriteAtomicity = 0x0A,
    AsynchronousEventConfiguration = 0x0B,
}

/// <summary>Log identifiers (5.14.1).</summary>
internal enum NvmeLog : byte
{
    ErrorInformation = 1,
    Health = 2,
    FirmwareSlot = 3,
    ChangedNamespaces = 4,
    CommandsSupported = 5,
}
