using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Virtio.Console;

/// <summary>Saved state of a console device beside its queues.</summary>
/// <param name="Ports">Each port.</param>
public sealed record VirtioConsoleState(IReadOnlyList<ConsolePortState> Ports) : ISavedState<VirtioConsoleState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        foreach (ConsolePortState port in Ports)
        {
            writer.Nested(1, port);
        }
    }

    /// <inheritdoc/>
    public static VirtioConsoleState Read(StateReader reader) =>
        new(reader.NestedList<ConsolePortState>(1, VirtioConsoleConfiguration.MaximumPorts));
}

/// <summary>Saved state of a port.</summary>
/// <param name="Ready">The guest has announced that it has the port.</param>
/// <param name="GuestOpen">The guest has the port open.</param>
/// <param name="Pending">Messages to be sent.</param>
/// <param name="Columns">Columns of its terminal.</param>
/// <param name="Rows">Rows of its terminal.</param>
/// <param name="Input">Input not yet given to the guest.</param>
/// <param name="OutputOffset">Bytes of the transmit queue's next chain that the host already has.</param>
/// <param name="Told">What the guest was last told of the host side: 0 nothing (also in states from before this was kept), 1 that it is not there, 2 that it is.</param>
public sealed record ConsolePortState(
    bool Ready,
    bool GuestOpen,
    byte Pending,
    ushort Columns,
    ushort Rows,
    byte[] Input,
    uint OutputOffset,
    byte Told = 0) : ISavedState<ConsolePortState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.Bool(1, Ready);
        writer.Bool(2, GuestOpen);
        writer.UInt64(3, Pending);
        writer.UInt64(4, Columns);
        writer.UInt64(5, Rows);
        writer.Bytes(6, Input);
        writer.UInt64(7, OutputOffset);
        writer.UInt64(8, Told);
    }

    /// <inheritdoc/>
    public static ConsolePortState Read(StateReader reader) => new(
        reader.Bool(1),
        reader.Bool(2),
        reader.UInt8(3, maximum: (byte)PendingMessages.All),
        reader.UInt16(4),
        reader.UInt16(5),
        reader.Bytes(6, ConsolePort.InputCapacity),
        reader.UInt32(7),
        reader.UInt8(8, maximum: 2));
}
