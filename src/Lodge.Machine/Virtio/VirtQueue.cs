using System.Runtime.InteropServices;
using Lodge.Engine.Memory;

namespace Lodge.Machine.Virtio;

/// <summary>
/// A split virtqueue (virtio 1.2, 2.7) as the device sees it. Everything in the rings is hostile: each field is read once, indices and lengths are
/// checked, and a chain has at most as many descriptors as the queue, so that a loop ends. On a violation the queue is latched: it yields no more
/// chains until reset, while chains already popped may still be completed.
/// Place and size are set while the queue is disabled and frozen from <see cref="TryEnable"/> to <see cref="Reset"/>. The ring members are for the
/// device's worker, one thread at a time; the registers are guarded by the device.
/// </summary>
public sealed partial class VirtQueue
{
    private readonly GuestMemory _memory;
    private readonly Action<VirtQueue> _violated;
    private readonly Stack<DescriptorChain> _free = new();
    private readonly ulong[] _inFlight;     // one bit per head
    private readonly HashSet<DescriptorChain> _held = [];
    private bool _eventIndex;
    private bool _indirect;
    private ushort _nextAvailable;
    private ushort _nextUsed;
    private ushort _signalledUsed;
    private bool _signalledValid;
    private bool _completed;                // a chain since the last decision about an interrupt
    private volatile bool _enabled;
    private volatile int _violation;

    /// <summary>Creates a disabled queue.</summary>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="index">Index of the queue in its device.</param>
    /// <param name="maximumSize">Largest number of descriptors, a power of two up to 32768; also the size after reset.</param>
    /// <param name="violated">Told once when the queue is latched.</param>
    public VirtQueue(GuestMemory memory, int index, ushort maximumSize, Action<VirtQueue> violated)
    {
        if (maximumSize is 0 or > 32768 || (maximumSize & (maximumSize - 1)) != 0)
        {
            throw new ArgumentOutOfRangeException(nameof(maximumSize));
        }
        _memory = memory;
        Index = index;
        MaximumSize = maximumSize;
        Size = maximumSize;
        _violated = violated;
        _inFlight = new ulong[(maximumSize + 63) / 64];
    }

    /// <summary>Index of the queue in its device.</summary>
    public int Index { get; }

    /// <summary>Largest number of descriptors.</summary>
    public ushort MaximumSize { get; }

    /// <summary>Number of descriptors (queue_size).</summary>
    public ushort Size { get; private set; }

    /// <summary>Guest physical address of the descriptor table (queue_desc).</summary>
    public ulong DescriptorArea { get; private set; }

    /// <summary>Guest physical address of the available ring (queue_driver).</summary>
    public ulong DriverArea { get; private set; }

    /// <summary>Guest physical address of the used ring (queue_device).</summary>
    public ulong DeviceArea { get; private set; }

    /// <summary>Whether the driver enabled the queue; its place and size are then frozen.</summary>
    public bool Enabled => _enabled;

    /// <summary>Why the queue is latched.</summary>
    public QueueViolation Violation => (QueueViolation)_violation;

    /// <summary>Whether the queue yields no more chains until reset.</summary>
    public bool Latched => _violation != 0;

    /// <summary>Chains popped and not yet completed.</summary>
    public int InFlight { get; private set; }

    /// <summary>Sets queue_size. False, with nothing changed, when the queue is enabled.</summary>
    public bool TrySetSize(ushort value)
    {
        if (_enabled)
        {
            return false;
        }
        Size = value;
        return true;
    }

    /// <summary>Sets queue_desc. False, with nothing changed, when the queue is enabled.</summary>
    public bool TrySetDescriptorArea(ulong value)
    {
        if (_enabled)
        {
            return false;
        }
        DescriptorArea = value;
        return true;
    }

    /// <summary>Sets queue_driver. False, with nothing changed, when the queue is enabled.</summary>
    public bool TrySetDriverArea(ulong value)
    {
        if (_enabled)
        {
            return false;
        }
        DriverArea = value;
        return true;
    }

    /// <summary>Sets queue_device. False, with nothing changed, when the queue is enabled.</summary>
    public bool TrySetDeviceArea(ulong value)
    {
        if (_enabled)
        {
            return false;
        }
        DeviceArea = value;
        return true;
    }

    /// <summary>
    /// Enables the queue after checking its size (a power of two up to the maximum), alignment and that the rings are in RAM.
    /// False, with the queue latched, when they are not.
    /// </summary>
    public bool TryEnable(ulong acceptedFeatures)
    {
        if (_enabled)
        {
            return true;
        }
        if (!GeometryValid())
        {
            Latch(QueueViolation.BadGeometry);
            return false;
        }
        Enable(acceptedFeatures);
        return true;
    }

    /// <summary>Back to the state after power-on: disabled, nothing in flight, not latched.</summary>
    public void Reset()
    {
        _enabled = false;
        _violation = 0;
        Size = MaximumSize;
        DescriptorArea = DriverArea = DeviceArea = 0;
        _nextAvailable = _nextUsed = _signalledUsed = 0;
        _signalledValid = _completed = false;
        ForgetInFlight();
    }

    /// <summary>Latches the queue and tells the device, which sets DEVICE_NEEDS_RESET.</summary>
    public void Latch(QueueViolation violation)
    {
        if (Interlocked.CompareExchange(ref _violation, (int)violation, 0) == 0)
        {
            _violated(this);
        }
    }

    /// <summary>Takes the next chain. Null when there is none, or the queue is disabled or latched.</summary>
    public DescriptorChain? TryPop()
    {
        if (!_enabled || Latched || !TryReadAvailableIndex(out ushort available))
        {
            return null;
        }
        ushort pending = (ushort)(available - _nextAvailable);
        if (pending == 0)
        {
            return null;
        }
        if (pending > Size)
        {
            Latch(QueueViolation.AvailableIndexJump);
            return null;
        }
        ulong entry = DriverArea + SplitRing.Entries + ((ulong)(_nextAvailable & (Size - 1)) * SplitRing.AvailableEntrySize);
        if (!_memory.TryRead(entry, out ushort head))
        {
            Latch(QueueViolation.OutsideMemory);
            return null;
        }
        if (head >= Size)
        {
            Latch(QueueViolation.DescriptorIndex);
            return null;
        }
        if ((_inFlight[head / 64] & (1UL << (head % 64))) != 0)
        {
            Latch(QueueViolation.HeadInFlight);
            return null;
        }
        DescriptorChain chain = _free.TryPop(out DescriptorChain? spare) ? spare : new DescriptorChain(_memory);
        chain.Begin(head);
        QueueViolation violation = Walk(chain, head);
        if (violation != QueueViolation.None)
        {
            _free.Push(chain);
            Latch(violation);
            return null;
        }
        _nextAvailable++;
        _inFlight[head / 64] |= 1UL << (head % 64);
        chain.InFlight = true;
        _held.Add(chain);
        InFlight++;
        return chain;
    }

    /// <summary>
    /// Returns a chain to the driver with <see cref="DescriptorChain.Written"/> as its length. Call <see cref="TakeInterrupt"/> after a batch.
    /// A chain that the queue no longer knows (it was reset meanwhile) is ignored.
    /// </summary>
    public void Complete(DescriptorChain chain)
    {
        if (!chain.InFlight)
        {
            return;
        }
        Forget(chain);
        ulong entry = DeviceArea + SplitRing.Entries + ((ulong)(_nextUsed & (Size - 1)) * SplitRing.UsedEntrySize);
        _memory.TryWrite(entry, chain.Head | ((ulong)chain.Written << 32));
        _nextUsed++;
        _memory.TryWrite(DeviceArea + SplitRing.Index, _nextUsed);
        _free.Push(chain);
        _completed = true;
    }

    /// <summary>Whether the driver wants an interrupt for what was completed since the last call.</summary>
    public bool TakeInterrupt()
    {
        if (!_enabled)
        {
            return false;
        }
        if (!_completed)
        {
            return false;
        }
        _completed = false;
        ushort before = _signalledUsed, now = _nextUsed;
        bool valid = _signalledValid;
        Interlocked.MemoryBarrier();
        _signalledUsed = now;
        _signalledValid = true;
        if (!_eventIndex)
        {
            return !_memory.TryRead(DriverArea, out ushort flags) || (flags & SplitRing.NoInterrupt) == 0;
        }
        ulong usedEvent = DriverArea + SplitRing.Entries + ((ulong)Size * SplitRing.AvailableEntrySize);
        if (!_memory.TryRead(usedEvent, out ushort wanted))
        {
            return true;
        }
        return !valid || (ushort)(now - wanted - 1) < (ushort)(now - before);
    }

    /// <summary>Tells the driver that no notification is needed while the queue is being worked on. Only a hint; without effect on correctness.</summary>
    public void SuppressNotifications()
    {
        if (_enabled && !_eventIndex)
        {
            _memory.TryWrite(DeviceArea, SplitRing.NoNotify);
        }
    }

    /// <summary>
    /// Asks for a notification at the next available chain, and looks again afterwards. True when a chain arrived meanwhile, of which the driver
    /// may not tell: the caller goes on working.
    /// </summary>
    public bool ResumeNotifications()
    {
        if (!_enabled || Latched)
        {
            return false;
        }
        if (_eventIndex)
        {
            _memory.TryWrite(DeviceArea + SplitRing.Entries + ((ulong)Size * SplitRing.UsedEntrySize), _nextAvailable);
        }
        else
        {
            _memory.TryWrite<ushort>(DeviceArea, 0);
        }
        Interlocked.MemoryBarrier();
        return HasAvailable;
    }

    /// <summary>Whether the driver has made a chain available.</summary>
    public bool HasAvailable => _enabled && !Latched && TryReadAvailableIndex(out ushort available) && available != _nextAvailable;

    private QueueViolation Walk(DescriptorChain chain, ushort head)
    {
        ulong table = DescriptorArea;
        uint tableSize = Size;
        uint index = head;
        bool inIndirect = false;
        for (int count = 0; count < Size;)
        {
            if (!_memory.TryRead(table + ((ulong)index * SplitRing.DescriptorSize), out Descriptor descriptor))
            {
                return QueueViolation.OutsideMemory;
            }
            var flags = (DescriptorFlags)descriptor.Flags;
            if ((flags & DescriptorFlags.Indirect) != 0)
            {
                uint entries = descriptor.Length / SplitRing.DescriptorSize;
                if (!_indirect || inIndirect || (flags & DescriptorFlags.Next) != 0
                    || entries is 0 or > 65536 || descriptor.Length % SplitRing.DescriptorSize != 0)
                {
                    return QueueViolation.BadIndirect;
                }
                if (!_memory.TryGetOffset(descriptor.Address, descriptor.Length, out _))
                {
                    return QueueViolation.OutsideMemory;
                }
                table = descriptor.Address;
                tableSize = entries;
                index = 0;
                inIndirect = true;
                continue;
            }
            count++;
            QueueViolation violation = chain.Add(descriptor.Address, descriptor.Length, (flags & DescriptorFlags.Write) != 0);
            if (violation != QueueViolation.None)
            {
                return violation;
            }
            if ((flags & DescriptorFlags.Next) == 0)
            {
                return QueueViolation.None;
            }
            index = descriptor.Next;
            if (index >= tableSize)
            {
                return QueueViolation.DescriptorIndex;
            }
        }
        return QueueViolation.ChainTooLong;
    }

    private void Enable(ulong acceptedFeatures)
    {
        _eventIndex = (acceptedFeatures & VirtioFeatures.EventIndex) != 0;
        _indirect = (acceptedFeatures & VirtioFeatures.IndirectDescriptors) != 0;
        _enabled = true;
    }

    private bool TryReadAvailableIndex(out ushort index)
    {
        if (_memory.TryRead(DriverArea + SplitRing.Index, out index))
        {
            return true;
        }
        Latch(QueueViolation.OutsideMemory);
        return false;
    }

    private bool GeometryValid() =>
        Size != 0 && Size <= MaximumSize && (Size & (Size - 1)) == 0
        && DescriptorArea % SplitRing.DescriptorAlignment == 0
        && DriverArea % SplitRing.AvailableAlignment == 0
        && DeviceArea % SplitRing.UsedAlignment == 0
        && _memory.TryGetOffset(DescriptorArea, SplitRing.DescriptorBytes(Size), out _)
        && _memory.TryGetOffset(DriverArea, SplitRing.AvailableBytes(Size), out _)
        && _memory.TryGetOffset(DeviceArea, SplitRing.UsedBytes(Size), out _);

    private void Forget(DescriptorChain chain)
    {
        chain.InFlight = false;
        _held.Remove(chain);
        _inFlight[chain.Head / 64] &= ~(1UL << (chain.Head % 64));
        InFlight--;
    }

    private void ForgetInFlight()
    {
        Array.Clear(_inFlight);
        foreach (DescriptorChain chain in _held)
        {
            chain.InFlight = false;     // a late Complete is then ignored
        }
        _held.Clear();
        InFlight = 0;
    }

    /// <summary>A descriptor as it lies in memory; copied as a whole before any field is looked at.</summary>
    [StructLayout(LayoutKind.Sequential, Pack = 1)]
    private readonly struct Descriptor
    {
        public readonly ulong Address;
        public readonly uint Length;
        public readonly ushort Flags;
        public readonly ushort Next;
    }
}
