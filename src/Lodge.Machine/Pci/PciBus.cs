using System.Buffers.Binary;
using Lodge.Machine.Buses;

namespace Lodge.Machine.Pci;

/// <summary>A range of addresses that the bridge forwards to the bus.</summary>
/// <param name="Base">First address.</param>
/// <param name="Length">Bytes.</param>
public readonly record struct PciWindow(ulong Base, ulong Length);

/// <summary>What a host bridge is made from. The windows are what ACPI must describe in _CRS.</summary>
/// <param name="Bus">Where configuration registers and BARs are mapped.</param>
/// <param name="Messages">Where MSI-X messages go.</param>
/// <param name="Interrupts">Lines that INTx pins are wired to, swizzled: pin p (1-4) of device d drives line (d + p - 1) mod their number.</param>
/// <param name="FirstInterrupt">Number of the first line, which the interrupt line registers are preset to.</param>
/// <param name="Ports">I/O window for BARs.</param>
/// <param name="LowMemory">Memory windows below 4 GiB.</param>
/// <param name="HighMemory">Memory window above RAM, for 64-bit BARs; length 0 when there is none.</param>
public sealed record PciBusConfiguration(
    MachineBus Bus,
    IMessageInterruptTarget Messages,
    IReadOnlyList<IInterruptLine> Interrupts,
    int FirstInterrupt,
    PciWindow Ports,
    IReadOnlyList<PciWindow> LowMemory,
    PciWindow HighMemory);

/// <summary>
/// The PCI Express root: bus 0 with its functions, reached through configuration mechanism #1 (PCI Local Bus 3.0, 3.2.2.3.2) and ECAM
/// (PCI Express 5.0, 7.2.2). Functions may be added and removed while the machine runs.
/// </summary>
public sealed class PciBus : IDevice
{
    private const uint EnableBit = 0x8000_0000;
    private readonly Lock _gate = new();
    private readonly PciBusConfiguration _configuration;
    private readonly PciFunction?[] _functions = new PciFunction?[256];     // by device and function; under the lock
    private readonly PciFunction?[] _visible = new PciFunction?[256];       // those that the guest reaches; replaced entry by entry, read without lock
    private readonly bool[] _reserved = new bool[32];   // under the lock
    private readonly SharedInterruptLine[] _lines;
    private readonly PciResourceAllocator _allocator;
    private uint _address;      // CONFIG_ADDRESS

    /// <summary>Creates an empty bus.</summary>
    public PciBus(PciBusConfiguration configuration)
    {
        _configuration = configuration;
        _lines = [.. configuration.Interrupts.Select(line => new SharedInterruptLine(line))];
        _allocator = new PciResourceAllocator(configuration);
        Claims =
        [
            new("pci-config", RegionSpace.Port, PortMap.PciConfigurationAddress, 8, new ConfigurationPorts(this)),
            new("pci-ecam", RegionSpace.Memory, MemoryMap.EcamBase, MemoryMap.EcamLength, new Ecam(this)),
        ];
    }

    /// <inheritdoc/>
    public string Name => "pci0";

    /// <inheritdoc/>
    public IReadOnlyList<RegionClaim> Claims { get; }

    /// <summary>
    /// Answers single-byte accesses to port 0xCF9, which lies inside CONFIG_ADDRESS: the reset control register. Offset 0.
    /// </summary>
    public IIoHandler? ResetControl { get; set; }

    /// <summary>The functions present.</summary>
    public IReadOnlyList<PciFunction> Functions
    {
        get
        {
            lock (_gate)
            {
                return [.. _functions.OfType<PciFunction>()];
            }
        }
    }

    /// <summary>Where functions attach doorbells; null when the engine has none. Set before the machine first starts.</summary>
    public Virtio.Transport.MachineDoorbells? Doorbells { get; set; }

    internal IMessageInterruptTarget Messages => _configuration.Messages;

    /// <summary>Index of the line that a pin (1 INTA to 4 INTD) of a device drives, for ACPI's _PRT.</summary>
    public static int InterruptIndex(int device, int pin, int lines = 4) => (device + pin - 1) % lines;

    /// <summary>Adds a function at a device number (or at the first free one from 1 up) and, for function numbers above 0, to an existing device.</summary>
    /// <param name="function">The function.</param>
    /// <param name="device">Device number.</param>
    /// <param name="number">Function number.</param>
    /// <param name="visible">Whether the guest reaches it at once, and not only after <see cref="Show"/>.</param>
    /// <exception cref="InvalidOperationException">The place is taken, or the bus is full.</exception>
    public PciAddress Add(PciFunction function, int? device = null, int number = 0, bool visible = true)
    {
        lock (_gate)
        {
            int at = device ?? FirstFree();
            if (at is < 0 or > 31 || number is < 0 or > 7 || _functions[(at << 3) | number] is not null)
            {
                throw new InvalidOperationException($"no place for {function.Name} on the PCI bus");
            }
            var address = new PciAddress(0, (byte)at, (byte)number);
            IInterruptLine? line = null;
            int index = 0;
            if (function.InterruptPin != 0 && _lines.Length != 0)
            {
                index = InterruptIndex(at, function.InterruptPin, _lines.Length);
                line = _lines[index].Input();
            }
            function.Attach(this, address, line, (byte)(_configuration.FirstInterrupt + index));
            _functions[address.DeviceFunction] = function;
            if (visible)
            {
                Volatile.Write(ref _visible[address.DeviceFunction], function);
            }
            if (number != 0)
            {
                _functions[at << 3]?.SetMultifunction();
            }
            return address;
        }
    }

    /// <summary>Keeps the first free place empty of functions that are added without a device number, so that those after it are where they would be if there were one.</summary>
    public void SkipPlace()
    {
        lock (_gate)
        {
            if (FirstFree() is >= 0 and int device)
            {
                _reserved[device] = true;
            }
        }
    }

    /// <summary>Lets the guest reach a function that was added out of its sight.</summary>
    public void Show(PciFunction function)
    {
        lock (_gate)
        {
            if (_functions[function.Address.DeviceFunction] == function)
            {
                Volatile.Write(ref _visible[function.Address.DeviceFunction], function);
            }
        }
    }

    /// <summary>Takes a function out of the guest's reach, whatever it does; it can be stopped after that. Any thread.</summary>
    /// <returns>False when it was not on the bus any more.</returns>
    public bool Remove(PciFunction function)
    {
        lock (_gate)
        {
            if (_functions[function.Address.DeviceFunction] != function)
            {
                return false;
            }
            _functions[function.Address.DeviceFunction] = null;
            Volatile.Write(ref _visible[function.Address.DeviceFunction], null);
            function.Detach();
            _allocator.Release(function);
            return true;
        }
    }

    /// <summary>Gives every function that has none addresses for its BARs and enables decoding, as firmware would.</summary>
    /// <exception cref="InvalidOperationException">A window is too small.</exception>
    public void AssignResources()
    {
        lock (_gate)
        {
            foreach (PciFunction function in Functions)
            {
                function.AssignBars(_allocator.Assign(function));
            }
        }
    }

    /// <summary>Gives one function addresses for its BARs, which it decodes only if wanted.</summary>
    /// <exception cref="InvalidOperationException">A window is too small.</exception>
    public void AssignResources(PciFunction function, bool decode) => function.AssignBars(_allocator.Assign(function), decode);

    /// <inheritdoc/>
    public void Start()
    {
    }

    /// <inheritdoc/>
    public void Stop()
    {
    }

    /// <inheritdoc/>
    public void Reset() => Volatile.Write(ref _address, 0);

    /// <inheritdoc/>
    public void Save(Engine.State.StateWriter writer) => writer.UInt64(1, Volatile.Read(ref _address));

    /// <inheritdoc/>
    public void Restore(Engine.State.StateReader reader) => Volatile.Write(ref _address, reader.UInt32(1) & ~0x7F00_0003U);

    internal AddressSpace Space(RegionSpace space) => _configuration.Bus.Space(space);

    /// <summary>Whether the bridge forwards the whole range: never RAM, the chipset's registers or configuration space.</summary>
    internal bool InWindow(RegionSpace space, ulong address, ulong length)
    {
        if (space == RegionSpace.Port)
        {
            return Within(_configuration.Ports, address, length);
        }
        foreach (PciWindow window in _configuration.LowMemory)
        {
            if (Within(window, address, length))
            {
                return true;
            }
        }
        return Within(_configuration.HighMemory, address, length);
    }

    /// <summary>After a reset: BARs back where they were at power-on.</summary>
    internal void Reassign(PciFunction function)
    {
        if (_allocator.Assigned(function) is { } addresses)
        {
            function.AssignBars(addresses);
        }
    }

    private static bool Within(PciWindow window, ulong address, ulong length) =>
        address - window.Base < window.Length && length <= window.Length - (address - window.Base);

    private int FirstFree()
    {
        for (int device = 1; device < 31; device++)
        {
            if (_functions[device << 3] is null && !_reserved[device])
            {
                return device;
            }
        }
        return -1;
    }

    private void ReadFunction(uint bus, uint deviceFunction, int register, Span<byte> data)
    {
        if (bus == 0 && Volatile.Read(ref _visible[deviceFunction]) is { } function)
        {
            function.ReadConfiguration(register, data);
        }
        else
        {
            data.Fill(0xFF);
        }
    }

    private void WriteFunction(uint bus, uint deviceFunction, int register, ReadOnlySpan<byte> data)
    {
        if (bus == 0 && Volatile.Read(ref _visible[deviceFunction]) is { } function)
        {
            function.WriteConfiguration(register, data);
        }
    }

    /// <summary>CONFIG_ADDRESS (0xCF8, 32-bit accesses only) and CONFIG_DATA (0xCFC).</summary>
    private sealed class ConfigurationPorts(PciBus bus) : IIoHandler
    {
        public IoResult Read(ulong offset, Span<byte> data)
        {
            uint address = Volatile.Read(ref bus._address);
            switch (offset)
            {
                case 0 when data.Length == 4:
                    BinaryPrimitives.WriteUInt32LittleEndian(data, address);
                    return IoResult.Done;
                case 1 when data.Length == 1:
                    return bus.ResetControl?.Read(0, data) ?? IoResult.Invalid;
                case >= 4 when offset + (ulong)data.Length <= 8 && (address & EnableBit) != 0:
                    bus.ReadFunction((address >> 16) & 0xFF, (address >> 8) & 0xFF, (int)(address & 0xFC) + (int)offset - 4, data);
                    return IoResult.Done;
                default:
                    return IoResult.Invalid;
            }
        }

        public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
        {
            uint address = Volatile.Read(ref bus._address);
            switch (offset)
            {
                case 0 when data.Length == 4:
                    Volatile.Write(ref bus._address, BinaryPrimitives.ReadUInt32LittleEndian(data) & ~0x7F00_0003U);
                    return IoResult.Done;
                case 1 when data.Length == 1:
                    return bus.ResetControl?.Write(0, data) ?? IoResult.Invalid;
                case >= 4 when offset + (ulong)data.Length <= 8 && (address & EnableBit) != 0:
                    bus.WriteFunction((address >> 16) & 0xFF, (address >> 8) & 0xFF, (int)(address & 0xFC) + (int)offset - 4, data);
                    return IoResult.Done;
                default:
                    return IoResult.Invalid;
            }
        }
    }

    /// <summary>Configuration space in memory: bus in bits 27-20, device and function in 19-12, register in 11-0.</summary>
    private sealed class Ecam(PciBus bus) : IIoHandler
    {
        public IoResult Read(ulong offset, Span<byte> data)
        {
            if (data.Length > 4 || (offset & 3) + (ulong)data.Length > 4)
            {
                return IoResult.Invalid;
            }
            bus.ReadFunction((uint)(offset >> 20), (uint)(offset >> 12) & 0xFF, (int)(offset & 0xFFF), data);
            return IoResult.Done;
        }

        public IoResult Write(ulong offset, ReadOnlySpan<byte> data)
        {
            if (data.Length > 4 || (offset & 3) + (ulong)data.Length > 4)
            {
                return IoResult.Invalid;
            }
            bus.WriteFunction((uint)(offset >> 20), (uint)(offset >> 12) & 0xFF, (int)(offset & 0xFFF), data);
            return IoResult.Done;
        }
    }
}
