namespace Lodge.Machine.Devices.Serial.Uart16550;

/// <summary>Where a serial port lies. The four that every PC system knows are in <see cref="Standard"/>.</summary>
/// <param name="Name">Device name, also the key of its saved state.</param>
/// <param name="Port">First of eight I/O ports.</param>
/// <param name="Interrupt">Global system interrupt.</param>
public sealed record Uart16550Configuration(string Name, ushort Port, int Interrupt)
{
    /// <summary>COM1 to COM4.</summary>
    public static IReadOnlyList<Uart16550Configuration> Standard { get; } =
    [
        new("serial0", 0x3F8, InterruptMap.Serial0),
        new("serial1", 0x2F8, InterruptMap.Serial1),
        new("serial2", 0x3E8, InterruptMap.Serial0),
        new("serial3", 0x2E8, InterruptMap.Serial1),
    ];
}
