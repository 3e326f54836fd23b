using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Power.AcpiPowerManagement;

/// <summary>Saved state of <see cref="AcpiPowerManagement"/>.</summary>
public sealed record AcpiPowerManagementState : ISavedState<AcpiPowerManagementState>
{
    /// <summary>PM1 status.</summary>
    public ushort Status { get; init; }

    /// <summary>PM1 enable.</summary>
    public ushort Enable { get; init; }

    /// <summary>PM1 control.</summary>
    public ushort Control { get; init; }

    /// <summary>GPE0 status.</summary>
    public ushort GpeStatus { get; init; }

    /// <summary>GPE0 enable.</summary>
    public ushort GpeEnable { get; init; }

    /// <summary>Reset control register.</summary>
    public byte ResetControl { get; init; }

    /// <summary>Last values of the SMI command and data ports.</summary>
    public ushort SmiPorts { get; init; }

    /// <summary>Toggles of the timer's top bit that have been told of.</summary>
    public ulong TimerToggles { get; init; }

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, Status);
        writer.UInt64(2, Enable);
        writer.UInt64(3, Control);
        writer.UInt64(4, GpeStatus);
        writer.UInt64(5, GpeEnable);
        writer.UInt64(6, ResetControl);
        writer.UInt64(7, SmiPorts);
        writer.UInt64(8, TimerToggles);
    }

    /// <inheritdoc/>
    public static AcpiPowerManagementState Read(StateReader reader) => new()
    {
        Status = reader.UInt16(1),
        Enable = reader.UInt16(2),
        Control = reader.UInt16(3),
        GpeStatus = reader.UInt16(4),
        GpeEnable = reader.UInt16(5),
        ResetControl = reader.UInt8(6),
        SmiPorts = reader.UInt16(7),
        TimerToggles = reader.UInt64(8),
    };
}
