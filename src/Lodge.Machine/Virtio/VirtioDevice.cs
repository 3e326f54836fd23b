using Lodge.Engine.Memory;

namespace Lodge.Machine.Virtio;

/// <summary>How a virtio device reaches its driver.</summary>
public interface IVirtioTransport
{
    /// <summary>Sends a used buffer notification for a queue. Any thread, no lock of the device held.</summary>
    void SignalQueue(int queue);

    /// <summary>Sends a configuration change notification. Any thread.</summary>
    void SignalConfiguration();

    /// <summary>The device was reset: interrupt state goes too. Called with the device's lock held.</summary>
    void DeviceReset();

    /// <summary>A queue was reset: what the transport keeps for it goes too. Called with the device's lock held.</summary>
    void QueueReset(int queue);
}

/// <summary>
/// A virtio 1.2 device apart from its transport: the status machine, feature negotiation, its queues and the worker that serves them.
/// <para>
/// Registers are accessed by vCPU threads under <see cref="Gate"/>, which is held briefly; all ring work runs on the worker. A reset that the driver
/// writes while the device is active is carried out by the worker: until then the status does not read as 0, for which the driver waits
/// (virtio 1.2, 4.1.4.3.2).
/// </para>
/// Lock order: <see cref="Gate"/>, then the transport's locks.
/// </summary>
public abstract partial class VirtioDevice
{
    /// <summary>Most queues that a device may have.</summary>
    public const int MaximumQueues = 64;

    /// <summary>Chains that one turn of the worker takes from a queue before the others have theirs.</summary>
    private const int ChainsPerTurn = 64;

    private readonly DeviceWorker _worker;
    private readonly VirtQueue[] _queues;
    private ulong _kicked;
    private ulong _resettingQueues;
    private ulong _resetQueues;         // reset after DRIVER_OK and not enabled again
    private bool _resetting;
    private volatile bool _active;      // DRIVER_OK and no reset pending
    private VirtioStatus _status;
    private byte _generation;

    /// <summary>Creates a device in its reset state.</summary>
    /// <param name="type">Its type.</param>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="queueSizes">Largest size of each queue.</param>
    protected VirtioDevice(VirtioDeviceType type, GuestMemory memory, ReadOnlySpan<ushort> queueSizes)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(queueSizes.Length, MaximumQueues);
        Type = type;
        Memory = memory;
        _queues = new VirtQueue[queueSizes.Length];
        for (int i = 0; i < _queues.Length; i++)
        {
            _queues[i] = new VirtQueue(memory, i, queueSizes[i], QueueViolated);
        }
        _worker = new DeviceWorker(Turn);
    }

    /// <summary>Device type.</summary>
    public VirtioDeviceType Type { get; }

    /// <summary>The queues, by index.</summary>
    public IReadOnlyList<VirtQueue> Queues => _queues;

    /// <summary>Features that the device offers.</summary>
    public ulong OfferedFeatures => VirtioFeatures.Common | DeviceFeatures;

    /// <summary>Features that the driver has written; agreed once <see cref="VirtioStatus.FeaturesOk"/> is set.</summary>
    public ulong DriverFeatures { get; private set; }

    /// <summary>Device status as the driver reads it.</summary>
    public VirtioStatus Status
    {
        get
        {
            lock (Gate)
            {
                return _status;
            }
        }
    }

    /// <summary>Generation of the device-specific configuration; changes with every change that the device makes.</summary>
    public byte ConfigurationGeneration
    {
        get
        {
            lock (Gate)
            {
                return _generation;
            }
        }
    }

    /// <summary>The first violation of the rules by the driver since reset.</summary>
    public QueueViolation LastViolation { get; private set; }

    /// <summary>Set by the transport before the first start.</summary>
    internal IVirtioTransport? Transport { get; set; }

    /// <summary>Guards registers and configuration.</summary>
    protected internal Lock Gate { get; } = new();

    /// <summary>Guest RAM.</summary>
    protected GuestMemory Memory { get; }

    /// <summary>Features of the device type that this device offers.</summary>
    protected abstract ulong DeviceFeatures { get; }

    /// <summary>Bytes of device-specific configuration.</summary>
    protected internal abstract int ConfigurationLength { get; }

    /// <summary>Whether the device is set up by its driver and not being reset.</summary>
    protected bool Active => _active;

    /// <summary>Whether the driver agreed to a feature.</summary>
    protected bool Has(ulong feature) => (DriverFeatures & feature) == feature;

    /// <summary>Writes the device-specific configuration to <paramref name="destination"/> (<see cref="ConfigurationLength"/> bytes). Lock held.</summary>
    protected abstract void ReadConfiguration(Span<byte> destination);

    /// <summary>The driver stores to the device-specific configuration; the range is within it. Lock held.</summary>
    protected virtual void WriteConfiguration(int offset, ReadOnlySpan<byte> data)
    {
    }

    /// <summary>Whether the driver's features go together; the driver's set is already known to be a subset of those offered. Lock held.</summary>
    protected virtual bool ValidateFeatures(ulong features) => true;

    /// <summary>The driver has set DRIVER_OK. On the worker, before any queue is served.</summary>
    protected virtual void OnActivated()
    {
    }

    /// <summary>The device is reset: everything that the driver set is forgotten, held chains included. On the worker or while stopped; lock held.</summary>
    protected virtual void OnReset()
    {
    }

    /// <summary>A queue is reset: held chains of it are forgotten. On the worker or while stopped; lock held.</summary>
    protected virtual void OnQueueReset(VirtQueue queue)
    {
    }

    /// <summary>
    /// Whether buffers of the queue are lent to I/O in flight. A reset of the queue or the device is finished when none is: only then may the driver
    /// use that memory again. The device signals itself when I/O completes.
    /// </summary>
    protected virtual bool HoldsBuffers(VirtQueue queue) => false;

    /// <summary>A reset waits for I/O in flight, which may be given up. On the worker; may be called again.</summary>
    protected virtual void OnResetDelayed()
    {
    }

    /// <summary>Completes the chains whose I/O has ended. On the worker at the beginning of each turn, also during a reset; bounded.</summary>
    protected virtual void OnCollect()
    {
    }

    /// <summary>Called on the worker at each turn, also while no driver has set the device up. Bounded.</summary>
    protected virtual void OnWake()
    {
    }

    /// <summary>Work of the device that no queue's kick asked for (input arrived, a timer). On the worker; bounded.</summary>
    protected virtual void OnSignal()
    {
    }

    /// <summary>
    /// Serves one chain on the worker; it must be completed or remembered. False when the device can take no more from this queue for now; it then
    /// calls <see cref="Kick"/> when it can.
    /// </summary>
    protected abstract bool Serve(VirtQueue queue, DescriptorChain chain);

    /// <summary>Whether the worker may take chains from this queue as they come, as opposed to when the device needs them.</summary>
    protected virtual bool ServesOnKick(VirtQueue queue) => true;

    /// <summary>The driver, or the device itself, has work for a queue. Any thread; only signals.</summary>
    public void Kick(int queue)
    {
        if ((uint)queue < (uint)_queues.Length && _active)
        {
            Interlocked.Or(ref _kicked, 1UL << queue);
            _worker.Signal();
        }
    }

    /// <summary>Has <see cref="OnSignal"/> called on the worker.</summary>
    protected void Signal() => _worker.Signal();

    /// <summary>Sends the notification for chains completed in a queue, if the driver wants one.</summary>
    protected void Notify(VirtQueue queue)
    {
        if (queue.TakeInterrupt())
        {
            Transport?.SignalQueue(queue.Index);
        }
    }

    /// <summary>Tells the driver that the configuration changed; the caller changed it under <see cref="Gate"/> before.</summary>
    protected void ConfigurationChanged()
    {
        bool tell;
        lock (Gate)
        {
            _generation++;
            tell = (_status & VirtioStatus.DriverOk) != 0;
        }
        if (tell)
        {
            Transport?.SignalConfiguration();
        }
    }

    /// <summary>The driver broke a rule that the queue itself cannot see: the chain is returned and the queue latched.</summary>
    protected void Reject(VirtQueue queue, DescriptorChain chain)
    {
        queue.Complete(chain);
        queue.Latch(QueueViolation.BadRequest);
    }

    private void QueueViolated(VirtQueue queue)
    {
        bool tell;
        lock (Gate)
        {
            if (LastViolation == QueueViolation.None)
            {
                LastViolation = queue.Violation;
            }
            _status |= VirtioStatus.DeviceNeedsReset;
            tell = (_status & VirtioStatus.DriverOk) != 0;
        }
        if (tell)
        {
            Transport?.SignalConfiguration();
        }
    }

    /// <summary>One turn of the worker.</summary>
    private bool Turn()
    {
        OnCollect();
        FinishResets();
        OnWake();
        if (!_active)
        {
            return false;
        }
        if (_activating)
        {
            _activating = false;
            OnActivated();
        }
        OnSignal();
        ulong kicked = Interlocked.Exchange(ref _kicked, 0);
        ulong left = 0;
        for (ulong rest = kicked; rest != 0; rest &= rest - 1)
        {
            int index = System.Numerics.BitOperations.TrailingZeroCount(rest);
            VirtQueue queue = _queues[index];
            if (queue.Enabled && !queue.Latched && (Volatile.Read(ref _resettingQueues) & (1UL << index)) == 0 && ServesOnKick(queue) && ServeSome(queue))
            {
                left |= 1UL << index;
            }
            Notify(queue);
        }
        if (left != 0)
        {
            Interlocked.Or(ref _kicked, left);
        }
        return left != 0;
    }

    private bool ServeSome(VirtQueue queue)
    {
        queue.SuppressNotifications();
        for (int i = 0; i < ChainsPerTurn; i++)
        {
            DescriptorChain? chain = queue.TryPop();
            if (chain is null)
            {
                if (!queue.ResumeNotifications())
                {
                    return false;
                }
                queue.SuppressNotifications();
            }
            else if (!Serve(queue, chain))
            {
                return false;
            }
        }
        return true;
    }
}
