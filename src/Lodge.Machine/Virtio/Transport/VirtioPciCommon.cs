using System.Buffers.Binary;

namespace Lodge.Machine.Virtio.Transport;

/// <summary>
/// The common configuration structure (virtio 1.2, 4.1.4.3). Accesses have the width of the field (4.1.3.1: 64-bit fields as two halves; a whole
/// 64-bit access is taken as well); others are invalid.
/// </summary>
internal sealed class VirtioPciCommon
{
    private readonly VirtioDevice _device;
    private readonly ushort[] _queueVectors;
    private uint _deviceFeatureSelect;
    private uint _driverFeatureSelect;
    private ushort _queueSelect;
    private ushort _configurationVector;

    public VirtioPciCommon(VirtioDevice device, int vectors)
    {
        _device = device;
        Vectors = vectors;
        _queueVectors = new ushort[device.Queues.Count];
        Reset();
    }

    /// <summary>MSI-X vectors of the function.</summary>
    public int Vectors { get; }

    public ushort ConfigurationVector => Volatile.Read(ref _configurationVector);

    public ushort QueueVector(int queue) => Volatile.Read(ref _queueVectors[queue]);

    public void Reset()
    {
        _deviceFeatureSelect = _driverFeatureSelect = 0;
        _queueSelect = 0;
        Volatile.Write(ref _configurationVector, VirtioPciRegisters.NoVector);
        for (int i = 0; i < _queueVectors.Length; i++)
        {
            ResetQueue(i);
        }
    }

    public void ResetQueue(int queue) => Volatile.Write(ref _queueVectors[queue], VirtioPciRegisters.NoVector);

    public IoResult Read(ulong offset, Span<byte> data)
    {
        if (data.Length == 8)
        {
            return Read(offset, data[..4]) == IoResult.Done && Read(offset + 4, data[4..]) == IoResult.Done ? IoResult.Done : IoResult.Invalid;
        }
        if (offset >= VirtioPciRegisters.CommonLength || Width((CommonRegister)offset) != data.Length)
        {
            return IoResult.Invalid;
        }
        uint value;
        lock (_device.Gate)
        {
            value = Load((CommonRegister)offset);
        }
        Span<byte> bytes = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        bytes[..data.Length].CopyTo(data);
        return IoResult.Done;
    }

    public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
    {
        if (data.Length == 8)
        {
            return Write(offset, data[..4]) == IoResult.Done && Write(offset + 4, data[4..]) == IoResult.Done ? IoResult.Done : IoResult.Invalid;
        }
        if (offset >= VirtioPciRegisters.CommonLength || Width((CommonRegister)offset) != data.Length)
        {
            return IoResult.Invalid;
        }
        Span<byte> bytes = stackalloc byte[4];
        bytes.Clear();
        data.CopyTo(bytes);
        Store((CommonRegister)offset, BinaryPrimitives.ReadUInt32LittleEndian(bytes));
        return IoResult.Done;
    }

    public VirtioPciState Save(byte isr) => new(
        _deviceFeatureSelect, _driverFeatureSelect, _queueSelect, _configurationVector, isr, Array.ConvertAll(_queueVectors, vector => (ulong)vector));

    public void Restore(VirtioPciState state)
    {
        _deviceFeatureSelect = state.DeviceFeatureSelect;
        _driverFeatureSelect = state.DriverFeatureSelect;
        _queueSelect = state.QueueSelect;
        _configurationVector = Vector(state.ConfigurationVector);
        for (int i = 0; i < _queueVectors.Length; i++)
        {
            _queueVectors[i] = i < state.QueueVectors.Length && state.QueueVectors[i] <= ushort.MaxValue
                ? Vector((uint)state.QueueVectors[i])
                : VirtioPciRegisters.NoVector;
        }
    }

    private static int Width(CommonRegister register) => register switch
    {
        CommonRegister.DeviceStatus or CommonRegister.ConfigGeneration => 1,
        CommonRegister.ConfigMsixVector or CommonRegister.NumQueues or CommonRegister.QueueSelect or CommonRegister.QueueSize
            or CommonRegister.QueueMsixVector or CommonRegister.QueueEnable or CommonRegister.QueueNotifyOff or CommonRegister.QueueNotifyData
            or CommonRegister.QueueReset => 2,
        CommonRegister.DeviceFeatureSelect or CommonRegister.DeviceFeature or CommonRegister.DriverFeatureSelect or CommonRegister.DriverFeature
            or CommonRegister.QueueDescLow or CommonRegister.QueueDescHigh or CommonRegister.QueueDriverLow or CommonRegister.QueueDriverHigh
            or CommonRegister.QueueDeviceLow or CommonRegister.QueueDeviceHigh => 4,
        _ => 0,
    };

    private uint Load(CommonRegister register)
    {
        VirtQueue? queue = _queueSelect < _device.Queues.Count ? _device.Queues[_queueSelect] : null;
        return register switch
        {
            CommonRegister.DeviceFeatureSelect => _deviceFeatureSelect,
            CommonRegister.DeviceFeature => Half(_device.OfferedFeatures, _deviceFeatureSelect),
            CommonRegister.DriverFeatureSelect => _driverFeatureSelect,
            CommonRegister.DriverFeature => Half(_device.DriverFeatures, _driverFeatureSelect),
            CommonRegister.ConfigMsixVector => _configurationVector,
            CommonRegister.NumQueues => (uint)_device.Queues.Count,
            CommonRegister.DeviceStatus => (uint)_device.Status,
            CommonRegister.ConfigGeneration => _device.ConfigurationGeneration,
            CommonRegister.QueueSelect => _queueSelect,
            _ when queue is null => 0,      // queue_size 0: the queue does not exist
            CommonRegister.QueueSize => queue.Size,
            CommonRegister.QueueMsixVector => _queueVectors[_queueSelect],
            CommonRegister.QueueEnable => queue.Enabled && !_device.QueueResetting(_queueSelect) ? 1U : 0,
            CommonRegister.QueueNotifyOff => _queueSelect,
            CommonRegister.QueueDescLow => (uint)queue.DescriptorArea,
            CommonRegister.QueueDescHigh => (uint)(queue.DescriptorArea >> 32),
            CommonRegister.QueueDriverLow => (uint)queue.DriverArea,
            CommonRegister.QueueDriverHigh => (uint)(queue.DriverArea >> 32),
            CommonRegister.QueueDeviceLow => (uint)queue.DeviceArea,
            CommonRegister.QueueDeviceHigh => (uint)(queue.DeviceArea >> 32),
            CommonRegister.QueueReset => _device.QueueResetting(_queueSelect) ? 1U : 0,
            _ => 0,
        };
    }

    private void Store(CommonRegister register, uint value)
    {
        switch (register)
        {
            case CommonRegister.DriverFeature:
                _device.WriteDriverFeatures(Volatile.Read(ref _driverFeatureSelect), value);
                return;
            case CommonRegister.DeviceStatus:
                _device.WriteStatus((byte)value);
                return;
            case CommonRegister.QueueEnable when value == 1:
                _device.EnableQueue(Volatile.Read(ref _queueSelect));
                return;
            case CommonRegister.QueueReset when value == 1:
                _device.ResetQueue(Volatile.Read(ref _queueSelect));
                return;
        }
        lock (_device.Gate)
        {
            switch (register)
            {
                case CommonRegister.DeviceFeatureSelect:
                    _deviceFeatureSelect = value;
                    break;
                case CommonRegister.DriverFeatureSelect:
                    _driverFeatureSelect = value;
                    break;
                case CommonRegister.ConfigMsixVector:
                    Volatile.Write(ref _configurationVector, Vector(value));
                    break;
                case CommonRegister.QueueSelect:
                    _queueSelect = (ushort)value;
                    break;
                case CommonRegister.QueueMsixVector when _queueSelect < _queueVectors.Length:
                    Volatile.Write(ref _queueVectors[_queueSelect], Vector(value));
                    break;
                default:
                    StoreQueue(register, value);
                    break;
            }
        }
    }

    private void StoreQueue(CommonRegister register, uint value)
    {
        if (_device.ConfigurableQueue(_queueSelect) is not { } queue)
        {
            return;
        }
        switch (register)
        {
            case CommonRegister.QueueSize:
                queue.TrySetSize((ushort)value);
                break;
            case CommonRegister.QueueDescLow:
                queue.TrySetDescriptorArea(Low(queue.DescriptorArea, value));
                break;
            case CommonRegister.QueueDescHigh:
                queue.TrySetDescriptorArea(High(queue.DescriptorArea, value));
                break;
            case CommonRegister.QueueDriverLow:
                queue.TrySetDriverArea(Low(queue.DriverArea, value));
                break;
            case CommonRegister.QueueDriverHigh:
                queue.TrySetDriverArea(High(queue.DriverArea, value));
                break;
            case CommonRegister.QueueDeviceLow:
                queue.TrySetDeviceArea(Low(queue.DeviceArea, value));
                break;
            case CommonRegister.QueueDeviceHigh:
                queue.TrySetDeviceArea(High(queue.DeviceArea, value));
                break;
        }
    }

    private static ulong Low(ulong old, uint value) => (old & 0xFFFF_FFFF_0000_0000) | value;

    private static ulong High(ulong old, uint value) => (uint)old | ((ulong)value << 32);

    private static uint Half(ulong features, uint select) => select < 2 ? (uint)(features >> ((int)select * 32)) : 0;

    /// <summary>A vector that the function does not have reads back as NO_VECTOR, which tells the driver (4.1.5.1.2.1).</summary>
    private ushort Vector(uint value) => value < (uint)Vectors ? (ushort)value : VirtioPciRegisters.NoVector;
}
