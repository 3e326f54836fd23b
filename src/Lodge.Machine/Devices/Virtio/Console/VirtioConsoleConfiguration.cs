namespace Lodge.Machine.Devices.Virtio.Console;

/// <summary>A port of a console device.</summary>
/// <param name="Name">Name by which the guest finds it (/dev/virtio-ports/NAME in Linux), at most 64 bytes of UTF-8; empty for none.</param>
/// <param name="IsConsole">Whether it is a terminal (hvcN in Linux) as opposed to a plain channel.</param>
/// <param name="Backend">The host side; output is dropped when null.</param>
public sealed record ConsolePortConfiguration(string Name, bool IsConsole, ICharacterBackend? Backend);

/// <summary>Order of the fields in the resize message.</summary>
public enum ResizeOrder
{
    /// <summary>Rows, then columns: what Linux up to 6.14 expects, and with it every Debian release so far.</summary>
    RowsFirst,

    /// <summary>Columns, then rows, as in virtio 1.2, 5.3.6.2.</summary>
    Specification,
}

/// <summary>How a console device is set up.</summary>
/// <param name="Ports">1 to 31 ports. With one console port the device is a plain console, else it is multiport.</param>
/// <param name="Name">Name of the device.</param>
/// <param name="Columns">Columns of the terminals at first.</param>
/// <param name="Rows">Rows of the terminals at first.</param>
/// <param name="ResizeOrder">Order of the fields in the resize message.</param>
public sealed record VirtioConsoleConfiguration(
    IReadOnlyList<ConsolePortConfiguration> Ports,
    string Name = "console0",
    ushort Columns = 80,
    ushort Rows = 25,
    ResizeOrder ResizeOrder = ResizeOrder.RowsFirst)
{
    /// <summary>Most ports: each has two queues beside the two control queues.</summary>
    public const int MaximumPorts = 31;
}
