namespace Lodge.Machine.Virtio;

/// <summary>Device types (virtio 1.2, section 5).</summary>
public enum VirtioDeviceType : ushort
{
    /// <summary>Network card.</summary>
    Network = 1,

    /// <summary>Block device.</summary>
    Block = 2,

    /// <summary>Console.</summary>
    Console = 3,

    /// <summary>Entropy source.</summary>
    Entropy = 4,

    /// <summary>Memory balloon.</summary>
    Balloon = 5,

    /// <summary>SCSI host.</summary>
    ScsiHost = 8,

    /// <summary>Sockets between guest and host.</summary>
    Socket = 19,

    /// <summary>Shared folder.</summary>
    FileSystem = 26,
}

/// <summary>Bits of the device status field (virtio 1.2, 2.1).</summary>
[Flags]
public enum VirtioStatus : byte
{
    /// <summary>Reset.</summary>
    None = 0,

    /// <summary>The guest has noticed the device.</summary>
    Acknowledge = 1,

    /// <summary>The guest knows how to drive the device.</summary>
    Driver = 2,

    /// <summary>The driver is set up.</summary>
    DriverOk = 4,

    /// <summary>Feature negotiation is complete.</summary>
    FeaturesOk = 8,

    /// <summary>The device met an error that it recovers from only by a reset.</summary>
    DeviceNeedsReset = 64,

    /// <summary>The guest has given up on the device.</summary>
    Failed = 128,
}

/// <summary>Feature bits that do not depend on the device type (virtio 1.2, section 6).</summary>
public static class VirtioFeatures
{
    /// <summary>VIRTIO_F_INDIRECT_DESC.</summary>
    public const ulong IndirectDescriptors = 1UL << 28;

    /// <summary>VIRTIO_F_EVENT_IDX.</summary>
    public const ulong EventIndex = 1UL << 29;

    /// <summary>VIRTIO_F_VERSION_1.</summary>
    public const ulong Version1 = 1UL << 32;

    /// <summary>VIRTIO_F_RING_RESET.</summary>
    public const ulong RingReset = 1UL << 40;

    /// <summary>What every device offers.</summary>
    public const ulong Common = IndirectDescriptors | EventIndex | Version1 | RingReset;
}

/// <summary>Layout of the split virtqueue (virtio 1.2, 2.7).</summary>
internal static class SplitRing
{
    public const int DescriptorSize = 16;
    public const int DescriptorAlignment = 16;
    public const int AvailableAlignment = 2;
    public const int UsedAlignment = 4;

    /// <summary>Offset of <c>idx</c> in either ring; <c>flags</c> is at 0.</summary>
    public const int Index = 2;

    /// <summary>Offset of <c>ring</c> in either ring.</summary>
    public const int Entries = 4;

    public const int AvailableEntrySize = 2;
    public const int UsedEntrySize = 8;

    /// <summary>VIRTQ_AVAIL_F_NO_INTERRUPT.</summary>
    public const ushort NoInterrupt = 1;

    /// <summary>VIRTQ_USED_F_NO_NOTIFY.</summary>
    public const ushort NoNotify = 1;

    public static ulong DescriptorBytes(ushort size) => (ulong)size * DescriptorSize;

    public static ulong AvailableBytes(ushort size) => (ulong)Entries + ((ulong)size * AvailableEntrySize) + 2;

    public static ulong UsedBytes(ushort size) => (ulong)Entries + ((ulong)size * UsedEntrySize) + 2;
}

/// <summary>Flags of a descriptor (virtio 1.2, 2.7.5).</summary>
[Flags]
internal enum DescriptorFlags : ushort
{
    None = 0,
    Next = 1,
    Write = 2,
    Indirect = 4,
}

/// <summary>What a driver did wrong with a queue. The queue is then latched until reset.</summary>
public enum QueueViolation
{
    /// <summary>Nothing.</summary>
    None,

    /// <summary>Size or place of the rings is not acceptable.</summary>
    BadGeometry,

    /// <summary>The available index moved by more than the queue size.</summary>
    AvailableIndexJump,

    /// <summary>A head or next field is not below the table's size.</summary>
    DescriptorIndex,

    /// <summary>The chain is longer than the queue (also: it loops).</summary>
    ChainTooLong,

    /// <summary>The chain describes more than 2^32 - 1 bytes, or more than the device takes in one request.</summary>
    TooManyBytes,

    /// <summary>A buffer or an indirect table is not all in RAM.</summary>
    OutsideMemory,

    /// <summary>An indirect descriptor that was not negotiated, is nested, has a next, or has a bad length.</summary>
    BadIndirect,

    /// <summary>A device-readable buffer after a device-writable one.</summary>
    BufferOrder,

    /// <summary>A head was made available again while the device still owned it.</summary>
    HeadInFlight,

    /// <summary>The request as a whole has not the form that the device type requires.</summary>
    BadRequest,
}
