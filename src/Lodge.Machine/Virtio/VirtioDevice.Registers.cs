using Lodge.Engine.State;

namespace Lodge.Machine.Virtio;

/// <content>What the transport's registers do, and the device's life: start, stop, reset, save, restore.</content>
public abstract partial class VirtioDevice
{
    private volatile bool _activating;

    /// <summary>Sets a half of the driver's features (select 0: bits 0-31, 1: bits 32-63). Ignored once FEATURES_OK is set.</summary>
    internal void WriteDriverFeatures(uint select, uint value)
    {
        lock (Gate)
        {
            if (select > 1 || _resetting || (_status & VirtioStatus.FeaturesOk) != 0)
            {
                return;
            }
            int shift = (int)select * 32;
            DriverFeatures = (DriverFeatures & ~((ulong)uint.MaxValue << shift)) | ((ulong)value << shift);
        }
    }

    /// <summary>The driver stores to device_status: 0 resets, other values only add bits (virtio 1.2, 2.1 and 3.1.1).</summary>
    internal void WriteStatus(byte value)
    {
        bool activated = false;
        lock (Gate)
        {
            if (_resetting)
            {
                return;
            }
            if (value == 0)
            {
                if (_active)
                {
                    _active = false;
                    _resetting = true;
                    _worker.Signal();
                }
                else
                {
                    ResetNow();
                }
                return;
            }
            var added = (VirtioStatus)value & ~_status & ~VirtioStatus.DeviceNeedsReset;
            _status |= added & (VirtioStatus.Acknowledge | VirtioStatus.Driver | VirtioStatus.Failed);
            if ((added & VirtioStatus.FeaturesOk) != 0
                && (DriverFeatures & ~OfferedFeatures) == 0
                && (DriverFeatures & VirtioFeatures.Version1) != 0
                && ValidateFeatures(DriverFeatures))
            {
                _status |= VirtioStatus.FeaturesOk;
            }
            if ((added & VirtioStatus.DriverOk) != 0 && (_status & VirtioStatus.FeaturesOk) != 0)
            {
                _status |= VirtioStatus.DriverOk;
                Activate();
                activated = true;
            }
        }
        if (activated && LastViolation != QueueViolation.None)
        {
            Transport?.SignalConfiguration();
        }
    }

    /// <summary>Reads device-specific configuration; false when the range is not within it.</summary>
    internal bool TryReadConfiguration(ulong offset, Span<byte> data)
    {
        if (!InConfiguration(offset, data.Length))
        {
            return false;
        }
        Span<byte> all = stackalloc byte[256];
        all = all[..ConfigurationLength];
        lock (Gate)
        {
            ReadConfiguration(all);
        }
        all.Slice((int)offset, data.Length).CopyTo(data);
        return true;
    }

    /// <summary>Writes device-specific configuration; false when the range is not within it.</summary>
    internal bool TryWriteConfiguration(ulong offset, ReadOnlySpan<byte> data)
    {
        if (!InConfiguration(offset, data.Length))
        {
            return false;
        }
        lock (Gate)
        {
            if (!_resetting)
            {
                WriteConfiguration((int)offset, data);
            }
        }
        return true;
    }

    /// <summary>
    /// The queue, when its registers may be changed now: it is disabled and the device is not yet driven, or the queue was reset alone. Lock held.
    /// </summary>
    internal VirtQueue? ConfigurableQueue(int index)
    {
        if ((uint)index >= (uint)_queues.Length || _resetting || _queues[index].Enabled)
        {
            return null;
        }
        ulong bit = 1UL << index;
        bool driven = (_status & VirtioStatus.DriverOk) != 0;
        return !driven || ((_resetQueues & bit) != 0 && (_resettingQueues & bit) == 0) ? _queues[index] : null;
    }

    /// <summary>queue_enable := 1; without effect before FEATURES_OK. Lock not held.</summary>
    internal void EnableQueue(int index)
    {
        lock (Gate)
        {
            if ((_status & VirtioStatus.FeaturesOk) == 0 || ConfigurableQueue(index) is not { Latched: false } queue)
            {
                return;
            }
            if (queue.TryEnable(DriverFeatures))
            {
                _resetQueues &= ~(1UL << index);
            }
        }
        Kick(index);
    }

    /// <summary>queue_reset := 1 (virtio 1.2, 2.6.1); only when VIRTIO_F_RING_RESET was negotiated.</summary>
    internal void ResetQueue(int index)
    {
        lock (Gate)
        {
            if ((uint)index >= (uint)_queues.Length || _resetting
                || (_status & VirtioStatus.FeaturesOk) == 0 || !Has(VirtioFeatures.RingReset))
            {
                return;
            }
            _resettingQueues |= 1UL << index;
            if (_active)
            {
                _worker.Signal();
            }
            else
            {
                FinishQueueResets();
            }
        }
    }

    /// <summary>Whether a reset of the queue is in progress (queue_reset reads as 1). Lock held.</summary>
    internal bool QueueResetting(int index) => (_resettingQueues & (1UL << index)) != 0;

    /// <summary>Begins or continues work.</summary>
    internal void StartWork()
    {
        OnStart();
        if (_active)
        {
            Interlocked.Or(ref _kicked, AllQueues);
            _worker.Signal();
        }
        _worker.Start();
    }

    /// <summary>Begins no more work and waits until no I/O is in flight; if that takes longer, work goes on.</summary>
    internal bool TryFinishWork(TimeSpan patience)
    {
        _worker.Stop();
        if (TryFinishRequests(patience))
        {
            return true;
        }
        _worker.Start();
        return false;
    }

    /// <summary>Returns when no work is in progress and no chain but one per queue is held.</summary>
    internal void StopWork()
    {
        _worker.Stop();
        OnStop();
        FinishResets();
    }

    /// <summary>Power-on state; only while stopped.</summary>
    internal void PowerOnReset()
    {
        lock (Gate)
        {
            ResetNow();
        }
    }

    /// <summary>Called before work begins or continues.</summary>
    protected virtual void OnStart()
    {
    }

    /// <summary>Called when the worker has come to rest: waits so long for I/O in flight; false when there is some left.</summary>
    protected virtual bool TryFinishRequests(TimeSpan patience) => true;

    /// <summary>Called when the worker has come to rest: waits for I/O in flight.</summary>
    protected virtual void OnStop()
    {
    }

    /// <summary>Writes the state of the device type, under numbers from 1 up.</summary>
    protected abstract void SaveDevice(StateWriter writer);

    /// <summary>Takes the state of the device type; lock held. Queues and features are already restored.</summary>
    /// <exception cref="SavedStateException">The state is malformed.</exception>
    protected abstract void RestoreDevice(StateReader reader);

    internal void Save(StateWriter writer, int field)
    {
        FinishResets();
        lock (Gate)
        {
            writer.Nested(field, new VirtioDeviceState(
                DriverFeatures, (byte)_status, _generation, _resetQueues, LastViolation, Array.ConvertAll(_queues, queue => queue.Save())));
        }
        SaveDevice(writer);
    }

    internal void Restore(StateReader reader, int field)
    {
        lock (Gate)
        {
            ResetNow();
            VirtioDeviceState state = reader.Nested(field, VirtioDeviceState.PowerOn);
            if ((state.DriverFeatures & ~OfferedFeatures) != 0 && (state.Status & (byte)VirtioStatus.FeaturesOk) != 0)
            {
                throw new SavedStateException($"saved state has features {state.DriverFeatures:x} that this device does not offer");
            }
            if (state.Queues.Count > _queues.Length)
            {
                throw new SavedStateException($"saved state has {state.Queues.Count} queues, the device {_queues.Length}");
            }
            try
            {
                DriverFeatures = state.DriverFeatures;
                _status = (VirtioStatus)state.Status;
                _generation = state.Generation;
                _resetQueues = state.ResetQueues & AllQueues;
                LastViolation = state.LastViolation;
                for (int i = 0; i < state.Queues.Count; i++)
                {
                    _queues[i].Restore(state.Queues[i], DriverFeatures);
                }
                RestoreDevice(reader);
                _active = (_status & VirtioStatus.DriverOk) != 0;
            }
            catch (SavedStateException)
            {
                ResetNow();
                throw;
            }
        }
    }

    private ulong AllQueues => _queues.Length == 64 ? ulong.MaxValue : (1UL << _queues.Length) - 1;

    private bool InConfiguration(ulong offset, int length) =>
        offset < (ulong)ConfigurationLength && (ulong)length <= (ulong)ConfigurationLength - offset;

    private void Activate()
    {
        _activating = true;
        _active = true;
        Interlocked.Or(ref _kicked, AllQueues);
        _worker.Signal();
    }

    private void FinishResets()
    {
        bool delayed = false;
        lock (Gate)
        {
            if (_resetting)
            {
                delayed = Array.Exists(_queues, HoldsBuffers);
                if (!delayed)
                {
                    ResetNow();
                }
            }
            FinishQueueResets();
        }
        if (delayed)
        {
            OnResetDelayed();
        }
    }

    private void FinishQueueResets()
    {
        for (ulong rest = _resettingQueues; rest != 0; rest &= rest - 1)
        {
            int index = System.Numerics.BitOperations.TrailingZeroCount(rest);
            if (HoldsBuffers(_queues[index]))
            {
                continue;
            }
            OnQueueReset(_queues[index]);
            _queues[index].Reset();
            Transport?.QueueReset(index);
            _resettingQueues &= ~(1UL << index);
            _resetQueues |= 1UL << index;
        }
    }

    private void ResetNow()
    {
        _active = false;
        _activating = false;
        OnReset();
        foreach (VirtQueue queue in _queues)
        {
            queue.Reset();
        }
        _resetting = false;
        _resettingQueues = _resetQueues = 0;
        Interlocked.Exchange(ref _kicked, 0);
        DriverFeatures = 0;
        LastViolation = QueueViolation.None;
        _status = VirtioStatus.None;
        Transport?.DeviceReset();
    }
}
