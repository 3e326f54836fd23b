namespace Lodge.Machine.Devices.Virtio.Console;

/// <summary>Constants of the console device (virtio 1.2, 5.3).</summary>
internal static class VirtioConsoleRegisters
{
    /// <summary>VIRTIO_CONSOLE_F_SIZE.</summary>
    public const ulong FeatureSize = 1UL << 0;

    /// <summary>VIRTIO_CONSOLE_F_MULTIPORT.</summary>
    public const ulong FeatureMultiport = 1UL << 1;

    /// <summary>VIRTIO_CONSOLE_F_EMERG_WRITE.</summary>
    public const ulong FeatureEmergencyWrite = 1UL << 2;

    /// <summary>Configuration: cols, le16.</summary>
    public const int Columns = 0;

    /// <summary>Configuration: rows, le16.</summary>
    public const int Rows = 2;

    /// <summary>Configuration: max_nr_ports, le32.</summary>
    public const int MaximumPorts = 4;

    /// <summary>Configuration: emerg_wr, le32; a character in the low byte.</summary>
    public const int EmergencyWrite = 8;

    /// <summary>Bytes of configuration.</summary>
    public const int ConfigurationLength = 12;

    public const int ControlReceiveQueue = 2;
    public const int ControlTransmitQueue = 3;
    public const ushort QueueSize = 128;

    /// <summary>Bytes of struct virtio_console_control: id le32, event le16, value le16.</summary>
    public const int ControlLength = 8;

    /// <summary>receiveq of a port; its transmitq follows (5.3.2).</summary>
    public static int ReceiveQueue(int port) => port == 0 ? 0 : 2 + (2 * port);
}

/// <summary>Events of the control queues (5.3.6.2).</summary>
internal enum ConsoleEvent : ushort
{
    DeviceReady = 0,
    DeviceAdd = 1,
    DeviceRemove = 2,
    PortReady = 3,
    ConsolePort = 4,
    Resize = 5,
    PortOpen = 6,
    PortName = 7,
}

/// <summary>Messages that are still to be sent for a port. As there is at most one of each kind, nothing queues up without bound.</summary>
[Flags]
internal enum PendingMessages : byte
{
    None = 0,
    Add = 1,
    Console = 2,
    Resize = 4,
    Open = 8,       // before the name: who finds a port by its name may rely on it being open
    Name = 16,
    All = Add | Console | Resize | Name | Open,
}
