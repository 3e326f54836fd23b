using Lodge.Engine.State;

namespace Lodge.Machine.Pci;

/// <summary>
/// A PCI function with a type 0 header. Configuration accesses come from vCPU threads and are serialized by the function's lock; BARs are mapped
/// when the command register enables their space and their address lies in a window of the bus.
/// Lock order: the device's own lock, then this one, then the address spaces' and interrupt lines'.
/// </summary>
public abstract class PciFunction : IDevice
{
    private readonly Lock _gate = new();
    private readonly List<PciBar> _bars = [];
    private PciBus? _bus;
    private IInterruptLine? _line;
    private bool _interrupt;

    /// <summary>Creates a function with its identity and no BARs or capabilities.</summary>
    /// <param name="name">Name of the device.</param>
    /// <param name="identity">What drivers match on.</param>
    /// <param name="interruptPin">0 none, 1 INTA to 4 INTD.</param>
    protected PciFunction(string name, PciIdentity identity, byte interruptPin = 0)
    {
        Name = name;
        Identity = identity;
        InterruptPin = interruptPin;
        Space.Define16(PciRegisters.VendorId, identity.VendorId);
        Space.Define16(PciRegisters.DeviceId, identity.DeviceId);
        Space.Define8(PciRegisters.RevisionId, identity.Revision);
        Space.Define8(PciRegisters.ClassCode, (byte)identity.ClassCode);
        Space.Define16(PciRegisters.ClassCode + 1, (ushort)(identity.ClassCode >> 8));
        Space.Define16(PciRegisters.SubsystemVendorId, identity.SubsystemVendorId);
        Space.Define16(PciRegisters.SubsystemId, identity.SubsystemId);
        Space.Define8(PciRegisters.CacheLineSize, 0, 0xFF);
        Space.Define8(PciRegisters.LatencyTimer, 0, 0xFF);
        Space.Define8(PciRegisters.InterruptLine, 0, 0xFF);
        Space.Define8(PciRegisters.InterruptPin, interruptPin);
        const PciCommand Writable = PciCommand.IoSpace | PciCommand.MemorySpace | PciCommand.BusMaster | PciCommand.ParityErrorResponse
            | PciCommand.SystemError | PciCommand.InterruptDisable;
        Space.Define16(PciRegisters.Command, 0, (ushort)Writable);
    }

    /// <inheritdoc/>
    public string Name { get; }

    /// <summary>What drivers match on.</summary>
    public PciIdentity Identity { get; }

    /// <summary>0 none, 1 INTA to 4 INTD.</summary>
    public byte InterruptPin { get; }

    /// <summary>Where it sits; set when it is added to a bus.</summary>
    public PciAddress Address { get; private set; }

    /// <summary>Whether the guest may eject it although it was there when the machine was made. Before it is added to a bus.</summary>
    public bool IsRemovable { get; set; }

    /// <inheritdoc/>
    public virtual IReadOnlyList<RegionClaim> Claims => [];

    /// <summary>Its base address registers.</summary>
    public IReadOnlyList<PciBar> Bars => _bars;

    /// <summary>MSI-X, if it has it.</summary>
    public MsixCapability? Msix { get; private set; }

    /// <summary>The command register.</summary>
    public PciCommand Command
    {
        get
        {
            lock (_gate)
            {
                return (PciCommand)Space.UInt16(PciRegisters.Command);
            }
        }
    }

    /// <summary>Where doorbells are attached; null when it is on no bus or the engine has none.</summary>
    protected Virtio.Transport.MachineDoorbells? Doorbells => _bus?.Doorbells;

    /// <summary>Configuration space; while the function is on a bus only under its lock.</summary>
    protected PciConfigurationSpace Space { get; } = new();

    /// <summary>Adds a base address register. <paramref name="length"/> is a power of two, at least 16 (4 for I/O). In the constructor only.</summary>
    protected PciBar AddBar(int index, PciBarKind kind, ulong length, IIoHandler handler, bool prefetchable = false)
    {
        bool free = index >= 0 && index + (kind == PciBarKind.Memory64 ? 1 : 0) < PciRegisters.BaseAddressCount
            && !_bars.Exists(bar => bar.Index == index || (bar.Kind == PciBarKind.Memory64 && bar.Index + 1 == index));
        if (!free || !System.Numerics.BitOperations.IsPow2(length) || length < (kind == PciBarKind.Io ? 4UL : 16UL))
        {
            throw new ArgumentException($"{Name}: no BAR {index} of {length} bytes possible");
        }
        var added = new PciBar($"{Name}.bar{index}", index, kind, length, prefetchable, handler);
        added.Define(Space);
        _bars.Add(added);
        return added;
    }

    /// <summary>Adds the MSI-X capability; its table and PBA are answered by the caller's BAR handler. In the constructor only.</summary>
    protected MsixCapability AddMsix(int vectors, int bar, uint tableOffset, uint pendingOffset)
    {
        Msix = new MsixCapability(vectors, bar, tableOffset, pendingOffset, Space);
        return Msix;
    }

    /// <summary>Loads 1, 2 or 4 bytes of configuration space.</summary>
    public virtual void ReadConfiguration(int offset, Span<byte> data)
    {
        lock (_gate)
        {
            Space.Read(offset, data);
        }
    }

    /// <summary>Stores 1, 2 or 4 bytes to configuration space, with all effects.</summary>
    public virtual void WriteConfiguration(int offset, ReadOnlySpan<byte> data)
    {
        lock (_gate)
        {
            Space.Write(offset, data);
            ConfigurationWritten();
        }
    }

    /// <summary>Drives the function's INTx pin: asserted unless INTx is disabled or MSI-X enabled. Any thread.</summary>
    protected void SetInterrupt(bool asserted)
    {
        lock (_gate)
        {
            _interrupt = asserted;
            Space.SetBits16(PciRegisters.Status, PciRegisters.StatusInterrupt, asserted);
            UpdateLine();
        }
    }

    /// <inheritdoc/>
    public virtual void Start()
    {
    }

    /// <inheritdoc/>
    public virtual void Stop()
    {
    }

    /// <summary>Power-on state of the configuration space. BARs keep the addresses assigned at power-on, as no firmware would assign them again.</summary>
    public virtual void Reset()
    {
        lock (_gate)
        {
            Space.Write(PciRegisters.Command, [0, 0]);
            Space.Write(PciRegisters.CacheLineSize, [0, 0]);
            Msix?.Reset(Space);
            _interrupt = false;
            Space.SetBits16(PciRegisters.Status, PciRegisters.StatusInterrupt, false);
            ConfigurationWritten();
        }
        _bus?.Reassign(this);
    }

    /// <inheritdoc/>
    public virtual void Save(StateWriter writer)
    {
        lock (_gate)
        {
            writer.Nested(StateField, new PciFunctionState(Space.Values.ToArray(), Msix?.Save()));
        }
    }

    /// <inheritdoc/>
    public virtual void Restore(StateReader reader)
    {
        PciFunctionState state = reader.Nested(StateField, PciFunctionState.PowerOn);
        lock (_gate)
        {
            Space.Restore(state.Configuration);
            Msix?.Restore(state.Msix, Space);
            ConfigurationWritten();
        }
    }

    /// <summary>Number of the field of a function's saved state that holds configuration space.</summary>
    protected const int StateField = 1000;

    internal void Attach(PciBus bus, PciAddress address, IInterruptLine? line, byte interruptLine)
    {
        lock (_gate)
        {
            _bus = bus;
            Address = address;
            _line = line;
            Msix?.Connect(bus.Messages);
            if (InterruptPin != 0)
            {
                Space.Define8(PciRegisters.InterruptLine, interruptLine, 0xFF);
            }
            ConfigurationWritten();
        }
    }

    internal void Detach()
    {
        lock (_gate)
        {
            _line?.Set(false);
            foreach (PciBar bar in _bars)
            {
                bar.Place(_bus!.Space(bar.Claim.Space), null);
            }
            Msix?.Disconnect();
            _bus = null;
            _line = null;
        }
        OnDetached();
    }

    /// <summary>The function was taken from its bus: the guest does not reach it any more.</summary>
    protected virtual void OnDetached()
    {
    }

    /// <summary>Gives BARs their addresses and enables decoding, as firmware would, or leaves it disabled.</summary>
    internal void AssignBars(ReadOnlySpan<ulong> addresses, bool decode = true)
    {
        lock (_gate)
        {
            var enable = PciCommand.None;
            for (int i = 0; i < _bars.Count; i++)
            {
                _bars[i].Assign(Space, addresses[i]);
                enable |= _bars[i].Kind == PciBarKind.Io ? PciCommand.IoSpace : PciCommand.MemorySpace;
            }
            Space.SetBits16(PciRegisters.Command, (ushort)enable, decode);
            ConfigurationWritten();
        }
    }

    internal void SetMultifunction()
    {
        lock (_gate)
        {
            Space.Define8(PciRegisters.HeaderType, 0x80);
        }
    }

    /// <summary>Brings BARs, MSI-X and the INTx pin in line with configuration space. Lock held.</summary>
    private void ConfigurationWritten()
    {
        var command = (PciCommand)Space.UInt16(PciRegisters.Command);
        if (_bus is { } bus)
        {
            foreach (PciBar bar in _bars)
            {
                PciCommand enable = bar.Kind == PciBarKind.Io ? PciCommand.IoSpace : PciCommand.MemorySpace;
                ulong address = bar.Address(Space);
                bool decoded = (command & enable) != 0 && bus.InWindow(bar.Claim.Space, address, bar.Length);
                bar.Place(bus.Space(bar.Claim.Space), decoded ? address : null);
            }
        }
        Msix?.ControlWritten(Space, (command & PciCommand.BusMaster) != 0);
        UpdateLine();
    }

    private void UpdateLine()
    {
        bool disabled = (Space.UInt16(PciRegisters.Command) & (ushort)PciCommand.InterruptDisable) != 0 || Msix is { Enabled: true };
        _line?.Set(_interrupt && !disabled);
    }
}
