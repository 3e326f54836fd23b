using Lodge.Engine.State;

namespace Lodge.Machine.Virtio.Transport;

/// <summary>Saved state of the PCI transport.</summary>
/// <param name="DeviceFeatureSelect">device_feature_select.</param>
/// <param name="DriverFeatureSelect">driver_feature_select.</param>
/// <param name="QueueSelect">queue_select.</param>
/// <param name="ConfigurationVector">config_msix_vector.</param>
/// <param name="Isr">ISR status.</param>
/// <param name="QueueVectors">queue_msix_vector of each queue.</param>
public sealed record VirtioPciState(
    uint DeviceFeatureSelect,
    uint DriverFeatureSelect,
    ushort QueueSelect,
    ushort ConfigurationVector,
    byte Isr,
    ulong[] QueueVectors) : ISavedState<VirtioPciState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <summary>The state after power-on.</summary>
    public static VirtioPciState PowerOn(int vectors) =>
        new(0, 0, 0, VirtioPciRegisters.NoVector, 0, [.. Enumerable.Repeat((ulong)VirtioPciRegisters.NoVector, vectors - 1)]);

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, DeviceFeatureSelect);
        writer.UInt64(2, DriverFeatureSelect);
        writer.UInt64(3, QueueSelect);
        writer.UInt64(4, ConfigurationVector);
        writer.UInt64(5, Isr);
        writer.UInt64(6, (ulong)QueueVectors.Length);
        writer.UInt64Array(7, QueueVectors);
    }

    /// <inheritdoc/>
    public static VirtioPciState Read(StateReader reader) => new(
        reader.UInt32(1),
        reader.UInt32(2),
        reader.UInt16(3),
        reader.UInt16(4, VirtioPciRegisters.NoVector),
        reader.UInt8(5, maximum: VirtioPciRegisters.IsrQueue | VirtioPciRegisters.IsrConfiguration),
        reader.UInt64Array(7, reader.Int32(6, 0, VirtioDevice.MaximumQueues)));
}
