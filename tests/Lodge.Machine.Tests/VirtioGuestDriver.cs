using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Machine;
using Lodge.Machine.Buses;
using Lodge.Machine.Pci;
using Lodge.Machine.Virtio;
using Lodge.Machine.Virtio.Transport;

namespace Lodge.Machine.Tests;

/// <summary>Records messages and wakes whoever waits for one.</summary>
internal sealed class RecordedMessages : IMessageInterruptTarget
{
    private readonly Dictionary<uint, int> _counts = [];

    public void SignalMessage(ulong address, uint data)
    {
        lock (_counts)
        {
            _counts[data] = _counts.GetValueOrDefault(data) + 1;
            Monitor.PulseAll(_counts);
        }
    }

    public int Count(uint data)
    {
        lock (_counts)
        {
            return _counts.GetValueOrDefault(data);
        }
    }
}

internal sealed class RecordedLine : IInterruptLine
{
    public bool Level { get; private set; }

    public void Set(bool asserted) => Level = asserted;
}

/// <summary>A bus with RAM and one virtio device, seen from the guest: only configuration space, the BAR and RAM.</summary>
internal sealed class VirtioMachine : IDisposable
{
    public const ulong Window = 0xC000_0000;

    public VirtioMachine(Func<GuestMemory, VirtioDevice> create, ulong memory = 4 << 20, GuestMemory? ram = null)
    {
        Memory = ram ?? new GuestMemory(memory);
        Pci = new PciBus(new PciBusConfiguration(
            Bus, Messages, Lines, 16, new PciWindow(0xC000, 0x4000), [new PciWindow(Window, 0x2000_0000)], new PciWindow(0x10_0000_0000, 1UL << 36)));
        Bus.Attach(Pci);
        Pci.Add(new HostBridge(), 0);
        Device = create(Memory);
        Function = new VirtioPciFunction("device", Device, 0xFF0000);
        Pci.Add(Function, 3);
        Pci.AssignResources();
    }

    public GuestMemory Memory { get; }

    public MachineBus Bus { get; } = new();

    public RecordedMessages Messages { get; } = new();

    public RecordedLine[] Lines { get; } = [new(), new(), new(), new()];

    public PciBus Pci { get; }

    public VirtioDevice Device { get; }

    public VirtioPciFunction Function { get; }

    public uint Config(int register, int device = 3)
    {
        Span<byte> data = stackalloc byte[4];
        Bus.ReadMemory(MemoryMap.EcamBase + (ulong)((device << 15) | register), data);
        return BinaryPrimitives.ReadUInt32LittleEndian(data);
    }

    public void Config(int register, uint value, int device = 3, int width = 4)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        Bus.WriteMemory(MemoryMap.EcamBase + (ulong)((device << 15) | register), data[..width]);
    }

    public byte[] Save()
    {
        var writer = new StateWriter();
        Function.Save(writer);
        return writer.ToArray();
    }

    public void Restore(byte[] state) => Function.Restore(new StateReader(state));

    public void Dispose()
    {
        Function.Stop();
        Memory.Dispose();
    }
}

/// <summary>A small virtio driver, as a guest has one: finds the structures by capabilities, negotiates, builds rings.</summary>
internal sealed class VirtioGuestDriver
{
    private readonly VirtioMachine _machine;
    private readonly ulong _bar;
    private readonly Dictionary<byte, ulong> _structures = [];
    private uint _multiplier;
    private ulong _next = 0x10_0000;

    public VirtioGuestDriver(VirtioMachine machine)
    {
        _machine = machine;
        machine.Config(PciRegisters.Command, 0x6, width: 2);
        _bar = (machine.Config(0x20) & ~15U) | ((ulong)machine.Config(0x24) << 32);
        for (uint at = machine.Config(0x34) & 0xFF; at != 0; at = (machine.Config((int)at) >> 8) & 0xFF)
        {
            uint head = machine.Config((int)at);
            if ((head & 0xFF) == 0x09)
            {
                byte type = (byte)(head >> 24);
                _structures[type] = machine.Config((int)at + 8);
                if (type == 2)
                {
                    _multiplier = machine.Config((int)at + 16);
                }
            }
            else if ((head & 0xFF) == 0x11)
            {
                MsixCapability = (int)at;
            }
        }
    }

    public int MsixCapability { get; }

    public ulong Bar => _bar;

    public ulong Features { get; private set; }

    public uint Get(CommonRegister register, int width)
    {
        Span<byte> data = stackalloc byte[4];
        data.Clear();
        _machine.Bus.ReadMemory(_bar + _structures[1] + (ulong)register, data[..width]);
        return BinaryPrimitives.ReadUInt32LittleEndian(data);
    }

    public void Set(CommonRegister register, int width, uint value)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        _machine.Bus.WriteMemory(_bar + _structures[1] + (ulong)register, data[..width]);
    }

    public VirtioStatus Status => (VirtioStatus)Get(CommonRegister.DeviceStatus, 1);

    public byte[] DeviceConfig(int offset, int length)
    {
        byte[] data = new byte[length];
        _machine.Bus.ReadMemory(_bar + _structures[4] + (ulong)offset, data);
        return data;
    }

    public void DeviceConfig(int offset, ReadOnlySpan<byte> data) => _machine.Bus.WriteMemory(_bar + _structures[4] + (ulong)offset, data);

    public byte ReadIsr()
    {
        Span<byte> data = stackalloc byte[1];
        _machine.Bus.ReadMemory(_bar + _structures[3], data);
        return data[0];
    }

    /// <summary>Resets and waits for it, as 4.1.4.3.2 asks.</summary>
    public void Reset()
    {
        Set(CommonRegister.DeviceStatus, 1, 0);
        Wait.Until(() => Status == VirtioStatus.None);
    }

    /// <summary>Reset to FEATURES_OK; false when the device refused the features.</summary>
    public bool Negotiate(ulong wanted)
    {
        Reset();
        Set(CommonRegister.DeviceStatus, 1, 3);
        Set(CommonRegister.DeviceFeatureSelect, 4, 0);
        ulong offered = Get(CommonRegister.DeviceFeature, 4);
        Set(CommonRegister.DeviceFeatureSelect, 4, 1);
        offered |= (ulong)Get(CommonRegister.DeviceFeature, 4) << 32;
        Features = wanted == ulong.MaxValue ? offered : wanted;
        Set(CommonRegister.DriverFeatureSelect, 4, 0);
        Set(CommonRegister.DriverFeature, 4, (uint)Features);
        Set(CommonRegister.DriverFeatureSelect, 4, 1);
        Set(CommonRegister.DriverFeature, 4, (uint)(Features >> 32));
        Set(CommonRegister.DeviceStatus, 1, 11);
        return (Status & VirtioStatus.FeaturesOk) != 0;
    }

    public void EnableMsix()
    {
        Span<byte> entry = stackalloc byte[16];
        for (uint vector = 0; vector < _machine.Function.Msix!.Vectors; vector++)
        {
            entry.Clear();
            BinaryPrimitives.WriteUInt64LittleEndian(entry, 0xFEE0_0000);
            BinaryPrimitives.WriteUInt32LittleEndian(entry[8..], 0x40 + vector);
            for (int i = 0; i < 16; i += 4)
            {
                _machine.Bus.WriteMemory(_bar + 0x4000 + (vector * 16) + (ulong)i, entry.Slice(i, 4));
            }
        }
        _machine.Config(MsixCapability + 2, 0x8000, width: 2);
        Set(CommonRegister.ConfigMsixVector, 2, 0);
    }

    public GuestRing SetUpQueue(int index, ushort size, bool msix = false)
    {
        var ring = new GuestRing(_machine, this, index, size, Allocate(16UL * size), Allocate(6 + (2UL * size)), Allocate(6 + (8UL * size)));
        _machine.Memory.TryWrite(ring.Descriptors, new byte[16 * size]);
        _machine.Memory.TryWrite(ring.Available, new byte[6 + (2 * size)]);
        _machine.Memory.TryWrite(ring.Used, new byte[6 + (8 * size)]);
        Set(CommonRegister.QueueSelect, 2, (uint)index);
        Set(CommonRegister.QueueSize, 2, size);
        Set64(CommonRegister.QueueDescLow, ring.Descriptors);
        Set64(CommonRegister.QueueDriverLow, ring.Available);
        Set64(CommonRegister.QueueDeviceLow, ring.Used);
        if (msix)
        {
            Set(CommonRegister.QueueMsixVector, 2, (uint)index + 1);
        }
        Set(CommonRegister.QueueEnable, 2, 1);
        return ring;
    }

    public void Set64(CommonRegister low, ulong value)
    {
        Set(low, 4, (uint)value);
        Set(low + 4, 4, (uint)(value >> 32));
    }

    public void DriverOk() => Set(CommonRegister.DeviceStatus, 1, 15);

    public void Notify(int queue) => _machine.Bus.WriteMemory(_bar + _structures[2] + ((ulong)queue * _multiplier), [(byte)queue, 0]);

    /// <summary>Guest memory that nothing else uses.</summary>
    public ulong Allocate(ulong length)
    {
        ulong at = _next;
        _next += (length + 4095) & ~4095UL;
        return at;
    }
}

/// <summary>The driver's side of a split virtqueue.</summary>
internal sealed class GuestRing(VirtioMachine machine, VirtioGuestDriver driver, int index, ushort size, ulong descriptors, ulong available, ulong used)
{
    private ushort _availableIndex;
    private ushort _usedIndex;
    private ushort _nextFree;

    public ulong Descriptors { get; set; } = descriptors;

    public ulong Available { get; set; } = available;

    public ulong Used { get; set; } = used;

    public int Index => index;

    public ushort Size => size;

    public void Descriptor(int slot, ulong address, uint length, ushort flags, ushort next, ulong table = 0)
    {
        Span<byte> bytes = stackalloc byte[16];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, address);
        BinaryPrimitives.WriteUInt32LittleEndian(bytes[8..], length);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[12..], flags);
        BinaryPrimitives.WriteUInt16LittleEndian(bytes[14..], next);
        machine.Memory.TryWrite((table == 0 ? Descriptors : table) + (ulong)(16 * slot), bytes);
    }

    /// <summary>Puts a chain into descriptors that are not in use (the caller keeps fewer than the ring's size in flight) and returns its head.</summary>
    public ushort Chain(params (ulong Address, uint Length, bool Write)[] buffers)
    {
        ushort head = _nextFree;
        for (int i = 0; i < buffers.Length; i++)
        {
            ushort slot = _nextFree;
            _nextFree = (ushort)((_nextFree + 1) % size);
            bool last = i == buffers.Length - 1;
            Descriptor(slot, buffers[i].Address, buffers[i].Length, (ushort)((last ? 0 : 1) | (buffers[i].Write ? 2 : 0)), last ? (ushort)0 : _nextFree);
        }
        return head;
    }

    public void Publish(ushort head)
    {
        machine.Memory.TryWrite(Available + 4 + (ulong)(2 * (_availableIndex % size)), head);
        _availableIndex++;
        machine.Memory.TryWrite(Available + 2, _availableIndex);
    }

    public void SetAvailableIndex(ushort value)
    {
        _availableIndex = value;
        machine.Memory.TryWrite(Available + 2, value);
    }

    public void Add(params (ulong Address, uint Length, bool Write)[] buffers)
    {
        Publish(Chain(buffers));
        driver.Notify(index);
    }

    public ushort UsedIndex => machine.Memory.TryRead(Used + 2, out ushort value) ? value : (ushort)0;

    /// <summary>used_event := what makes the device interrupt for the next used chain.</summary>
    public void ArmInterrupt() => machine.Memory.TryWrite(Available + 4 + (2UL * size), _usedIndex);

    /// <summary>Whether the device, as far as it says, wants to be told of a chain just published.</summary>
    public bool WantsNotification(ushort before)
    {
        Interlocked.MemoryBarrier();
        if ((driver.Features & VirtioFeatures.EventIndex) == 0)
        {
            machine.Memory.TryRead(Used, out ushort flags);
            return (flags & 1) == 0;
        }
        machine.Memory.TryRead(Used + 4 + (8UL * size), out ushort wanted);
        return (ushort)(_availableIndex - wanted - 1) < (ushort)(_availableIndex - before);
    }

    public ushort AvailableIndex => _availableIndex;

    public bool HasUsed => UsedIndex != _usedIndex;

    public bool TryTakeUsed(out uint head, out uint length)
    {
        head = length = 0;
        if (UsedIndex == _usedIndex)
        {
            return false;
        }
        machine.Memory.TryRead(Used + 4 + (ulong)(8 * (_usedIndex % size)), out ulong element);
        _usedIndex++;
        head = (uint)element;
        length = (uint)(element >> 32);
        return true;
    }

    public (uint Head, uint Length) TakeUsed()
    {
        uint head = 0, length = 0;
        Wait.Until(() => TryTakeUsed(out head, out length));
        return (head, length);
    }
}

/// <summary>Waiting for something that happens on another thread; gives up after so long that only a hang explains it.</summary>
internal static class Wait
{
    public static void Until(Func<bool> condition, string what = "condition")
    {
        long end = Environment.TickCount64 + 30_000;
        for (int i = 0; !condition(); i++)
        {
            if (Environment.TickCount64 > end)
            {
                throw new TimeoutException($"{what} did not come true");
            }
            if (i > 50)
            {
                Thread.Sleep(0);
            }
            else
            {
                Thread.SpinWait(20);
            }
        }
    }
}
