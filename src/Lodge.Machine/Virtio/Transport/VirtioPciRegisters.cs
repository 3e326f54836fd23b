namespace Lodge.Machine.Virtio.Transport;

/// <summary>Layout of virtio over PCI (virtio 1.2, 4.1).</summary>
internal static class VirtioPciRegisters
{
    public const ushort Vendor = 0x1AF4;

    /// <summary>PCI device ID of a modern device is this plus the device type.</summary>
    public const ushort DeviceBase = 0x1040;

    /// <summary>Revision ID of a device that is not transitional (4.1.2.1: 1 or higher).</summary>
    public const byte Revision = 1;

    /// <summary>NO_VECTOR: the event has no MSI-X vector.</summary>
    public const ushort NoVector = 0xFFFF;

    /// <summary>The BAR that holds every structure.</summary>
    public const int Bar = 4;

    public const uint BarLength = 0x8000;
    public const uint CommonOffset = 0x0000;
    public const uint CommonLength = 0x40;
    public const uint IsrOffset = 0x1000;
    public const uint IsrLength = 1;
    public const uint DeviceOffset = 0x2000;
    public const uint NotifyOffset = 0x3000;
    public const uint NotifyMultiplier = 4;
    public const uint MsixTableOffset = 0x4000;
    public const uint MsixPendingOffset = 0x6000;
    public const uint MsixPendingEnd = 0x7000;

    /// <summary>Queue interrupt bit of the ISR status.</summary>
    public const byte IsrQueue = 1;

    /// <summary>Device configuration interrupt bit of the ISR status.</summary>
    public const byte IsrConfiguration = 2;
}

/// <summary>cfg_type of the vendor capabilities (4.1.4).</summary>
internal enum VirtioPciCapability : byte
{
    Common = 1,
    Notify = 2,
    Isr = 3,
    Device = 4,
    PciAccess = 5,
}

/// <summary>Offsets in the common configuration structure (4.1.4.3) with their widths in bytes.</summary>
internal enum CommonRegister
{
    DeviceFeatureSelect = 0x00,     // 4
    DeviceFeature = 0x04,           // 4
    DriverFeatureSelect = 0x08,     // 4
    DriverFeature = 0x0C,           // 4
    ConfigMsixVector = 0x10,        // 2
    NumQueues = 0x12,               // 2
    DeviceStatus = 0x14,            // 1
    ConfigGeneration = 0x15,        // 1
    QueueSelect = 0x16,             // 2
    QueueSize = 0x18,               // 2
    QueueMsixVector = 0x1A,         // 2
    QueueEnable = 0x1C,             // 2
    QueueNotifyOff = 0x1E,          // 2
    QueueDescLow = 0x20,            // 4
    QueueDescHigh = 0x24,           // 4
    QueueDriverLow = 0x28,          // 4
    QueueDriverHigh = 0x2C,         // 4
    QueueDeviceLow = 0x30,          // 4
    QueueDeviceHigh = 0x34,         // 4
    QueueNotifyData = 0x38,         // 2, VIRTIO_F_NOTIF_CONFIG_DATA is not offered
    QueueReset = 0x3A,              // 2
}
