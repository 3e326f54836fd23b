using System.Buffers.Binary;
using Lodge.Engine.State;
using Lodge.Machine.Pci;

namespace Lodge.Machine.Virtio.Transport;

/// <summary>
/// A virtio device on the PCI bus (virtio 1.2, 4.1), modern only: all structures in one 64-bit BAR, an MSI-X vector for the configuration and for each
/// queue, INTx as fallback. A notification only signals the device's worker.
/// </summary>
public sealed class VirtioPciFunction : PciFunction, IHostRequests, IVirtioTransport, IIoHandler
{
    private const int AccessCapabilityLength = 20;
    private readonly VirtioDevice _device;
    private readonly VirtioPciCommon _common;
    private readonly Lock _isrGate = new();
    private readonly int _access;       // offset of the PCI configuration access capability
    private QueueDoorbells? _doorbells;
    private byte _isr;

    /// <summary>Puts a device on PCI.</summary>
    /// <param name="name">Name of the device.</param>
    /// <param name="device">The device.</param>
    /// <param name="classCode">PCI class code; drivers match on the device ID only.</param>
    public VirtioPciFunction(string name, VirtioDevice device, uint classCode) : base(
        name,
        new PciIdentity(
            VirtioPciRegisters.Vendor,
            (ushort)(VirtioPciRegisters.DeviceBase + (ushort)device.Type),
            classCode,
            VirtioPciRegisters.Revision,
            VirtioPciRegisters.Vendor,
            (ushort)(0x40 + (ushort)device.Type)),
        interruptPin: 1)
    {
        _device = device;
        _common = new VirtioPciCommon(device, device.Queues.Count + 1);
        device.Transport = this;
        AddBar(VirtioPciRegisters.Bar, PciBarKind.Memory64, VirtioPciRegisters.BarLength, this, prefetchable: true);
        AddStructure(VirtioPciCapability.Common, VirtioPciRegisters.CommonOffset, VirtioPciRegisters.CommonLength);
        AddStructure(VirtioPciCapability.Isr, VirtioPciRegisters.IsrOffset, VirtioPciRegisters.IsrLength);
        if (device.ConfigurationLength != 0)
        {
            AddStructure(VirtioPciCapability.Device, VirtioPciRegisters.DeviceOffset, (uint)device.ConfigurationLength);
        }
        AddStructure(
            VirtioPciCapability.Notify, VirtioPciRegisters.NotifyOffset, (uint)device.Queues.Count * VirtioPciRegisters.NotifyMultiplier, VirtioPciRegisters.NotifyMultiplier);
        _access = AddAccess();
        AddMsix(device.Queues.Count + 1, VirtioPciRegisters.Bar, VirtioPciRegisters.MsixTableOffset, VirtioPciRegisters.MsixPendingOffset);
    }

    /// <summary>The device behind the transport.</summary>
    public VirtioDevice Device => _device;

    /// <inheritdoc/>
    public IoResult Read(ulong offset, Span<byte> data)
    {
        if (offset >= VirtioPciRegisters.MsixPendingOffset)
        {
            return Msix!.ReadPending(offset - VirtioPciRegisters.MsixPendingOffset, data);
        }
        if (offset >= VirtioPciRegisters.MsixTableOffset)
        {
            return Msix!.Read(offset - VirtioPciRegisters.MsixTableOffset, data);
        }
        if (offset >= VirtioPciRegisters.NotifyOffset)
        {
            return IoResult.Invalid;
        }
        if (offset >= VirtioPciRegisters.DeviceOffset)
        {
            return _device.TryReadConfiguration(offset - VirtioPciRegisters.DeviceOffset, data) ? IoResult.Done : IoResult.Invalid;
        }
        if (offset == VirtioPciRegisters.IsrOffset)
        {
            data.Clear();
            data[0] = TakeIsr();
            return IoResult.Done;
        }
        return _common.Read(offset, data);
    }

    /// <inheritdoc/>
    public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
    {
        if (offset >= VirtioPciRegisters.MsixPendingOffset)
        {
            return IoResult.Invalid;
        }
        if (offset >= VirtioPciRegisters.MsixTableOffset)
        {
            return Msix!.Write(offset - VirtioPciRegisters.MsixTableOffset, data);
        }
        if (offset >= VirtioPciRegisters.NotifyOffset)
        {
            _device.Kick((int)((offset - VirtioPciRegisters.NotifyOffset) / VirtioPciRegisters.NotifyMultiplier));
            return IoResult.Done;
        }
        if (offset >= VirtioPciRegisters.DeviceOffset)
        {
            return _device.TryWriteConfiguration(offset - VirtioPciRegisters.DeviceOffset, data) ? IoResult.Done : IoResult.Invalid;
        }
        IoResult result = _common.Write(offset, data);
        if (result == IoResult.Done && offset is (ulong)CommonRegister.DeviceStatus or (ulong)CommonRegister.QueueEnable or (ulong)CommonRegister.QueueReset)
        {
            UpdateDoorbells();
        }
        return result;
    }

    /// <inheritdoc/>
    public override void ReadConfiguration(int offset, Span<byte> data)
    {
        if (InAccessData(offset) && TryAccess(out ulong at, out int length))
        {
            Span<byte> value = stackalloc byte[4];
            value.Fill(0xFF);
            if (Read(at, value[..length]) != IoResult.Done)
            {
                value.Fill(0xFF);
            }
            base.ReadConfiguration(offset, data);
            int skip = offset - AccessData;
            for (int i = 0; i < data.Length && skip + i < length; i++)
            {
                data[i] = value[skip + i];
            }
            return;
        }
        base.ReadConfiguration(offset, data);
    }

    /// <inheritdoc/>
    public override void WriteConfiguration(int offset, ReadOnlySpan<byte> data)
    {
        base.WriteConfiguration(offset, data);
        UpdateDoorbells();
        if (InAccessData(offset) && TryAccess(out ulong at, out int length))
        {
            Span<byte> value = stackalloc byte[4];
            base.ReadConfiguration(AccessData, value);
            Write(at, value[..length]);
        }
    }

    /// <inheritdoc/>
    public override void Start()
    {
        if (_doorbells is null && Doorbells is { } machine)
        {
            _doorbells = new QueueDoorbells(machine, _device.Queues.Count, _device.Kick);
        }
        UpdateDoorbells();
        _device.StartWork();
    }

    /// <inheritdoc/>
    public bool TryFinish(TimeSpan patience) => _device.TryFinishWork(patience);

    /// <inheritdoc/>
    public override void Stop() => _device.StopWork();

    /// <inheritdoc/>
    public override void Reset()
    {
        _device.PowerOnReset();
        base.Reset();
        UpdateDoorbells();
    }

    /// <inheritdoc/>
    protected override void OnDetached() => _doorbells?.Dispose();

    /// <inheritdoc/>
    public override void Save(StateWriter writer)
    {
        base.Save(writer);
        lock (_device.Gate)
        {
            writer.Nested(StateField + 1, _common.Save(_isr));
        }
        _device.Save(writer, StateField + 2);
    }

    /// <inheritdoc/>
    public override void Restore(StateReader reader)
    {
        _device.Restore(reader, StateField + 2);
        VirtioPciState state = reader.Nested(StateField + 1, VirtioPciState.PowerOn(_common.Vectors));
        lock (_device.Gate)
        {
            _common.Restore(state);
        }
        base.Restore(reader);
        lock (_isrGate)
        {
            _isr = state.Isr;
            SetInterrupt(_isr != 0);
        }
    }

    /// <inheritdoc/>
    void IVirtioTransport.SignalQueue(int queue)
    {
        if (Msix!.Enabled)
        {
            Msix.Signal(_common.QueueVector(queue));
        }
        else
        {
            RaiseIsr(VirtioPciRegisters.IsrQueue);
        }
    }

    /// <inheritdoc/>
    void IVirtioTransport.SignalConfiguration()
    {
        RaiseIsr(VirtioPciRegisters.IsrConfiguration);
        if (Msix!.Enabled)
        {
            Msix.Signal(_common.ConfigurationVector);
        }
    }

    /// <inheritdoc/>
    void IVirtioTransport.DeviceReset()
    {
        _common.Reset();
        TakeIsr();
    }

    /// <inheritdoc/>
    void IVirtioTransport.QueueReset(int queue) => _common.ResetQueue(queue);

    // Only while the device is driven: what the driver does before (sizing BARs, setting up queues) would attach and detach for nothing.
    private void UpdateDoorbells()
    {
        if (_doorbells is { } doorbells)
        {
            bool driven = (_device.Status & VirtioStatus.DriverOk) != 0;
            doorbells.Update(driven && Bars[0].MappedAt is { } bar ? bar + VirtioPciRegisters.NotifyOffset : null, queue => _device.Queues[queue].Enabled);
        }
    }

    private int AccessData => _access + 16;

    private void RaiseIsr(byte bit)
    {
        lock (_isrGate)
        {
            _isr |= bit;
            SetInterrupt(true);
        }
    }

    private byte TakeIsr()
    {
        lock (_isrGate)
        {
            byte isr = _isr;
            _isr = 0;
            SetInterrupt(false);
            return isr;
        }
    }

    private bool InAccessData(int offset) => offset >= AccessData && offset < AccessData + 4;

    /// <summary>What the PCI configuration access capability points at now (4.1.4.9): a naturally aligned access within the BAR.</summary>
    private bool TryAccess(out ulong offset, out int length)
    {
        Span<byte> capability = stackalloc byte[16];
        base.ReadConfiguration(_access, capability);
        uint at = BinaryPrimitives.ReadUInt32LittleEndian(capability[8..]);
        uint size = BinaryPrimitives.ReadUInt32LittleEndian(capability[12..]);
        offset = at;
        length = (int)(size & 7);
        return capability[4] == VirtioPciRegisters.Bar && size is 1 or 2 or 4 && at % size == 0 && at <= VirtioPciRegisters.BarLength - size;
    }

    /// <summary>struct virtio_pci_cap after ID and next: cfg_len, cfg_type, bar, id, 2 bytes of padding, offset, length; then notify_off_multiplier.</summary>
    private void AddStructure(VirtioPciCapability type, uint offset, uint length, uint? multiplier = null)
    {
        Span<byte> body = stackalloc byte[multiplier is null ? 14 : 18];
        body.Clear();
        body[0] = (byte)(body.Length + 2);
        body[1] = (byte)type;
        body[2] = VirtioPciRegisters.Bar;
        BinaryPrimitives.WriteUInt32LittleEndian(body[6..], offset);
        BinaryPrimitives.WriteUInt32LittleEndian(body[10..], length);
        if (multiplier is { } value)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(body[14..], value);
        }
        Space.AddCapability(PciRegisters.CapabilityVendor, body);
    }

    private int AddAccess()
    {
        Span<byte> body = stackalloc byte[AccessCapabilityLength - 2];
        Span<byte> writable = stackalloc byte[AccessCapabilityLength - 2];
        body.Clear();
        writable.Clear();
        body[0] = AccessCapabilityLength;
        body[1] = (byte)VirtioPciCapability.PciAccess;
        writable[2] = 0xFF;             // bar
        writable[6..].Fill(0xFF);       // offset, length, data
        return Space.AddCapability(PciRegisters.CapabilityVendor, body, writable);
    }
}
