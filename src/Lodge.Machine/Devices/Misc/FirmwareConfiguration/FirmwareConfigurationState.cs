using Lodge.Engine.State;

namespace Lodge.Machine.Devices.Misc.FirmwareConfiguration;

/// <summary>Saved state of <see cref="FirmwareConfiguration"/>; the contents come from the machine's configuration.</summary>
public sealed record FirmwareConfigurationState : ISavedState<FirmwareConfigurationState>
{
    /// <summary>Selected key.</summary>
    public ushort Key { get; init; }

    /// <summary>Bytes of the selected blob that were passed.</summary>
    public uint Offset { get; init; }

    /// <summary>DMA address register.</summary>
    public ulong DmaAddress { get; init; }

    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, Key);
        writer.UInt64(2, Offset);
        writer.UInt64(3, DmaAddress);
    }

    /// <inheritdoc/>
    public static FirmwareConfigurationState Read(StateReader reader) => new()
    {
        Key = reader.UInt16(1),
        Offset = reader.UInt32(2),
        DmaAddress = reader.UInt64(3),
    };
}
