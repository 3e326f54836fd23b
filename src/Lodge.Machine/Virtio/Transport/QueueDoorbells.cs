using Lodge.Engine;

namespace Lodge.Machine.Virtio.Transport;

/// <summary>Where the machine's doorbells are attached, if its engine has such.</summary>
/// <param name="Engine">The engine's doorbells.</param>
/// <param name="Listener">Who waits for them.</param>
public sealed record MachineDoorbells(IDoorbells Engine, EventListener Listener);

/// <summary>
/// The doorbells of a device's queues: while the device is driven, a queue notification (virtio 1.2, 4.1.4.4) signals an eventfd and the processor goes on at
/// once. What has no doorbell reaches the device by the bus, with the same effect.
/// </summary>
internal sealed class QueueDoorbells(MachineDoorbells machine, int queues, Action<int> kick) : IDisposable
{
    // Any width first: KVM then needs not decode the instruction. Drivers write 16 bits.
    private static readonly int[] s_widths = [0, 2];
    private readonly Lock _gate = new();
    private readonly EventSource?[] _sources = new EventSource?[queues];
    private readonly Doorbell?[] _attached = new Doorbell?[queues];
    private bool _disposed;

    /// <summary>Attaches and detaches doorbells so that exactly the queues have one that want it.</summary>
    /// <param name="notifications">Guest address of the first queue's notification register; null while there is none.</param>
    /// <param name="wanted">Whether a queue is to have a doorbell.</param>
    public void Update(ulong? notifications, Func<int, bool> wanted)
    {
        lock (_gate)
        {
            for (int i = 0; i < _attached.Length; i++)
            {
                ulong? address = notifications is { } first && wanted(i) ? first + ((ulong)i * VirtioPciRegisters.NotifyMultiplier) : null;
                if (_attached[i] is { } old && old.Address != address)
                {
                    machine.Engine.Detach(old, _sources[i]!.Descriptor);
                    _attached[i] = null;
                    kick(i); // a signal that nobody has taken yet is not lost
                }
                if (address is { } place && _attached[i] is null && !_disposed)
                {
                    Attach(i, place);
                }
            }
        }
    }

    /// <summary>Detaches all for good.</summary>
    public void Dispose()
    {
        Update(null, static _ => false);
        lock (_gate)
        {
            _disposed = true;
            foreach (EventSource? source in _sources)
            {
                source?.Dispose();
            }
        }
    }

    private void Attach(int queue, ulong address)
    {
        try
        {
            _sources[queue] ??= machine.Listener.Add(() => kick(queue));
        }
        catch (IOException)
        {
            return; // no more descriptors: the bus serves as well
        }
        foreach (int width in s_widths)
        {
            var doorbell = new Doorbell(false, address, width, null);
            if (machine.Engine.TryAttach(doorbell, _sources[queue]!.Descriptor))
            {
                _attached[queue] = doorbell;
                return;
            }
        }
    }
}
