using Lodge.Engine.State;

namespace Lodge.Machine.Virtio;

/// <summary>Saved state that every virtio device has.</summary>
/// <param name="DriverFeatures">Features that the driver has written.</param>
/// <param name="Status">device_status.</param>
/// <param name="Generation">config_generation.</param>
/// <param name="ResetQueues">Queues, by bit, that were reset alone and not enabled again.</param>
/// <param name="LastViolation">First violation since reset.</param>
/// <param name="Queues">Each queue.</param>
public sealed record VirtioDeviceState(
    ulong DriverFeatures,
    byte Status,
    byte Generation,
    ulong ResetQueues,
    QueueViolation LastViolation,
    IReadOnlyList<VirtQueueState> Queues) : ISavedState<VirtioDeviceState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <summary>The state after power-on.</summary>
    public static VirtioDeviceState PowerOn { get; } = new(0, 0, 0, 0, QueueViolation.None, []);

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, DriverFeatures);
        writer.UInt64(2, Status);
        writer.UInt64(3, Generation);
        writer.UInt64(4, ResetQueues);
        writer.UInt64(5, (ulong)LastViolation);
        foreach (VirtQueueState queue in Queues)
        {
            writer.Nested(6, queue);
        }
    }

    /// <inheritdoc/>
    public static VirtioDeviceState Read(StateReader reader)
    {
        var state = new VirtioDeviceState(
            reader.UInt64(1),
            reader.UInt8(2),
            reader.UInt8(3),
            reader.UInt64(4),
            (QueueViolation)reader.UInt8(5, maximum: (byte)QueueViolation.BadRequest),
            reader.NestedList<VirtQueueState>(6, VirtioDevice.MaximumQueues));
        const byte Setup = (byte)(VirtioStatus.DriverOk | VirtioStatus.FeaturesOk);
        return (state.Status & (byte)VirtioStatus.DriverOk) == 0 || (state.Status & Setup) == Setup
            ? state
            : throw new SavedStateException("saved state has DRIVER_OK without FEATURES_OK");
    }
}
