using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Machine.Virtio;

namespace Lodge.Machine.Devices.Virtio.Rng;

/// <summary>Entropy device (virtio 1.2, 5.4), fed by the host's generator, which never blocks.</summary>
public sealed class VirtioRng : VirtioDevice
{
    private readonly int _maximum;
    private ulong _given;

    /// <summary>Creates the device.</summary>
    public VirtioRng(GuestMemory memory, VirtioRngConfiguration configuration)
        : base(VirtioDeviceType.Entropy, memory, [VirtioRngRequests.QueueSize])
    {
        _maximum = Math.Clamp(configuration.MaximumRequest, 1, 65536);
    }

    /// <summary>Bytes given to the guest since power-on.</summary>
    public ulong BytesGiven => Volatile.Read(ref _given);

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => 0;

    /// <inheritdoc/>
    protected internal override int ConfigurationLength => 0;

    /// <inheritdoc/>
    protected override void ReadConfiguration(Span<byte> destination)
    {
    }

    /// <inheritdoc/>
    protected override bool Serve(VirtQueue queue, DescriptorChain chain)
    {
        if (chain.ReadableLength != 0 || chain.WritableLength == 0)
        {
            Reject(queue, chain);
            return false;
        }
        Volatile.Write(ref _given, _given + (ulong)VirtioRngRequests.Fill(chain, _maximum));
        queue.Complete(chain);
        return true;
    }

    /// <inheritdoc/>
    protected override void SaveDevice(StateWriter writer) => writer.Nested(1, new VirtioRngState(_given));

    /// <inheritdoc/>
    protected override void RestoreDevice(StateReader reader) => _given = reader.Nested(1, new VirtioRngState(0)).BytesGiven;
}
