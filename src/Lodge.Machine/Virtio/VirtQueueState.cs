using Lodge.Engine.State;

namespace Lodge.Machine.Virtio;

/// <summary>Saved state of a virtqueue. Chains that the device holds are not part of it: they count as not yet taken and are taken again.</summary>
/// <param name="Size">queue_size.</param>
/// <param name="DescriptorArea">queue_desc.</param>
/// <param name="DriverArea">queue_driver.</param>
/// <param name="DeviceArea">queue_device.</param>
/// <param name="Enabled">queue_enable.</param>
/// <param name="NextAvailable">Available index that the device looks at next.</param>
/// <param name="NextUsed">Used index that the device writes next.</param>
/// <param name="SignalledUsed">Used index at the last decision about an interrupt.</param>
/// <param name="SignalledValid">Whether there was such a decision.</param>
/// <param name="Violation">Why the queue is latched.</param>
public sealed record VirtQueueState(
    ushort Size,
    ulong DescriptorArea,
    ulong DriverArea,
    ulong DeviceArea,
    bool Enabled,
    ushort NextAvailable,
    ushort NextUsed,
    ushort SignalledUsed,
    bool SignalledValid,
    QueueViolation Violation) : ISavedState<VirtQueueState>
{
    /// <inheritdoc/>
    public static int Version => 1;

    /// <inheritdoc/>
    public void Write(StateWriter writer)
    {
        writer.UInt64(1, Size);
        writer.UInt64(2, DescriptorArea);
        writer.UInt64(3, DriverArea);
        writer.UInt64(4, DeviceArea);
        writer.Bool(5, Enabled);
        writer.UInt64(6, NextAvailable);
        writer.UInt64(7, NextUsed);
        writer.UInt64(8, SignalledUsed);
        writer.Bool(9, SignalledValid);
        writer.UInt64(10, (ulong)Violation);
    }

    /// <inheritdoc/>
    public static VirtQueueState Read(StateReader reader) => new(
        reader.UInt16(1),
        reader.UInt64(2),
        reader.UInt64(3),
        reader.UInt64(4),
        reader.Bool(5),
        reader.UInt16(6),
        reader.UInt16(7),
        reader.UInt16(8),
        reader.Bool(9),
        (QueueViolation)reader.UInt8(10, maximum: (byte)QueueViolation.BadRequest));
}

public sealed partial class VirtQueue
{
    /// <summary>The state to save. At most one chain may be held, the newest: a device that keeps more must finish them in Stop.</summary>
    /// <exception cref="InvalidOperationException">The device did not finish its chains.</exception>
    public VirtQueueState Save() => InFlight <= 1
        ? new(Size, DescriptorArea, DriverArea, DeviceArea, Enabled, (ushort)(_nextAvailable - InFlight), _nextUsed, _signalledUsed, _signalledValid, Violation)
        : throw new InvalidOperationException($"queue {Index} is saved with {InFlight} chains in flight");

    /// <summary>Takes a saved state, with what the driver negotiated.</summary>
    /// <exception cref="SavedStateException">An enabled queue does not lie in RAM or has no valid size.</exception>
    public void Restore(VirtQueueState state, ulong acceptedFeatures)
    {
        Reset();
        Size = state.Size;
        DescriptorArea = state.DescriptorArea;
        DriverArea = state.DriverArea;
        DeviceArea = state.DeviceArea;
        _nextAvailable = state.NextAvailable;
        _nextUsed = state.NextUsed;
        _signalledUsed = state.SignalledUsed;
        _signalledValid = state.SignalledValid;
        if (state.Enabled)
        {
            if (!GeometryValid())
            {
                Reset();
                throw new SavedStateException($"saved state of queue {Index} does not lie in memory");
            }
            Enable(acceptedFeatures);
        }
        _violation = (int)state.Violation;
    }
}
