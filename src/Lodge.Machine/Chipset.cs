using Lodge.Engine.Memory;
using Lodge.Engine.Time;
using Lodge.Machine.Acpi;
using Lodge.Machine.Buses;
using Lodge.Machine.Devices.Clock.Rtc;
using Lodge.Machine.Devices.Input.Keyboard8042;
using Lodge.Machine.Devices.Interrupts.IoApic;
using Lodge.Machine.Devices.Interrupts.Pic8259;
using Lodge.Machine.Devices.Misc.DebugConsole;
using Lodge.Machine.Devices.Misc.DebugExit;
using Lodge.Machine.Devices.Misc.FirmwareConfiguration;
using Lodge.Machine.Devices.Misc.GenerationId;
using Lodge.Machine.Devices.Misc.Pvpanic;
using Lodge.Machine.Devices.Power.AcpiPowerManagement;
using Lodge.Machine.Devices.Power.HotPlug;
using Lodge.Machine.Devices.Serial.Uart16550;
using Lodge.Machine.Devices.Timers.Hpet;
using Lodge.Machine.Devices.Timers.Pit8254;
using Lodge.Machine.Interrupts;
using Lodge.Machine.Pci;

namespace Lodge.Machine;

/// <summary>The machine's buses, wires and devices, put together from a configuration. What it is running on, it does not know.</summary>
public sealed class Chipset
{
    private const ushort PciPortsBase = 0x1000; // BARs lie above all fixed ports
    private readonly AcpiConfiguration _acpi;
    private IReadOnlyList<IDevice> _devices = [];   // replaced as a whole: devices come and go while others look
    private readonly HashSet<string> _names = new(StringComparer.Ordinal);
    private readonly List<Uart16550Configuration> _serialPorts = [];

    internal Chipset(MachineConfiguration configuration, GuestMemory memory, TimerService timers, IMachineControl control)
    {
        Memory = memory;
        Timers = timers;
        Pic = new Pic8259(Processors.ExternalInterrupt);
        IoApic = new IoApic(Processors);
        Lines = new InterruptLines(Pic, IoApic);
        (ulong highBase, ulong highLength) = HighWindow(memory, configuration.Model.PhysicalBits);

        Add(Pic);
        Add(IoApic);
        var timerLine = new GatedInterruptLine(Lines.CreateIsaSource(0));
        var clockLine = new GatedInterruptLine(Lines.CreateIsaSource(InterruptMap.Rtc));
        Add(new Pit8254(timerLine, timers));
        ulong low = Math.Min(memory.Size, GuestMemory.LowMemoryEnd);
        Rtc = new Rtc(new RtcConfiguration(memory.Size, low, configuration.ProcessorCount, configuration.CmosPath), clockLine, timers);
        Add(Rtc);
        Add(new Hpet(HpetConfiguration.Create(Lines, [timerLine, clockLine], Processors), timers));
        PowerManagement = new AcpiPowerManagement(Lines.CreateSource(InterruptMap.SystemControl), control, timers);
        Add(PowerManagement);
        Generation = new GenerationId(memory, configuration.Generation, () => PowerManagement.RaiseEvent(EventMap.GenerationId));
        Add(Generation);
        PciHotPlug = new HotPlugController(
            new HotPlugConfiguration("pci-hotplug", PortMap.PciHotPlug, 32, 1, IsaBridge.Device - 1), () => PowerManagement.RaiseEvent(EventMap.PciHotPlug));
        PowerManagement.RaiseUntold(EventMap.PciHotPlug, () => PciHotPlug.HasUntold);
        Add(PciHotPlug);
        ProcessorHotPlug = new HotPlugController(
            new HotPlugConfiguration("cpu-hotplug", PortMap.ProcessorHotPlug, 256, 1, configuration.MaximumProcessorCount - 1),
            () => PowerManagement.RaiseEvent(EventMap.ProcessorHotPlug));
        PowerManagement.RaiseUntold(EventMap.ProcessorHotPlug, () => ProcessorHotPlug.HasUntold);
        Add(ProcessorHotPlug);
        for (int i = 0; i < configuration.ProcessorCount; i++)
        {
            ProcessorHotPlug.Fill(i);
        }
        Rtc.AlarmRaised = PowerManagement.SignalAlarm;
        Keyboard = new Keyboard8042(Lines.CreateIsaSource(InterruptMap.Keyboard), Lines.CreateIsaSource(InterruptMap.Mouse), control);
        Add(Keyboard);
        Add(new Pvpanic(control));
        if (configuration.DebugExitPort is { } port)
        {
            Add(new DebugExit(new DebugExitConfiguration(port), control));
        }
        if (configuration.DebugConsole is { } console)
        {
            Add(new DebugConsole(new DebugConsoleConfiguration(), console, timers));
        }
        for (int i = 0; i < Math.Min(configuration.SerialPorts.Count, Uart16550Configuration.Standard.Count); i++)
        {
            if (configuration.SerialPorts[i] is { } backend)
            {
                Uart16550Configuration serial = Uart16550Configuration.Standard[i];
                _serialPorts.Add(serial);
                Add(new Uart16550(serial, backend, Lines.CreateIsaSource(serial.Interrupt), timers));
            }
        }
        var contents = FirmwareConfigurationContents.ForMachine(memory, configuration.ProcessorCount, configuration.MaximumProcessorCount);
        configuration.AddFirmwareConfiguration?.Invoke(contents);
        Add(new FirmwareConfiguration(contents, memory));

        Pci = new PciBus(new PciBusConfiguration(
            Bus,
            Processors,
            [.. Enumerable.Range(InterruptMap.PciFirst, 4).Select(Lines.CreateSource)],
            InterruptMap.PciFirst,
            new PciWindow(PciPortsBase, 0x1_0000 - PciPortsBase),
            [new PciWindow(MemoryMap.PciWindow1Base, MemoryMap.PciWindow1Length), new PciWindow(MemoryMap.PciWindow2Base, MemoryMap.PciWindow2Length)],
            new PciWindow(highBase, highLength)))
        {
            ResetControl = PowerManagement.ResetControlPort.Handler,
        };
        Add(Pci);
        Pci.Add(new HostBridge(), 0);
        Pci.Add(new IsaBridge(), IsaBridge.Device);
        configuration.AddDevices?.Invoke(this);
        foreach (PciFunction function in Pci.Functions)
        {
            Add(function);
            if (function.IsRemovable)
            {
                PciHotPlug.Fill(function.Address.Device);
            }
            else
            {
                PciHotPlug.Fix(function.Address.Device);
            }
        }
        Pci.AssignResources();
        _acpi = new AcpiConfiguration
        {
            ProcessorCount = configuration.ProcessorCount,
            MaximumProcessorCount = configuration.MaximumProcessorCount,
            SerialPorts = _serialPorts,
            HighWindowBase = highBase,
            HighWindowLength = highLength,
        };
    }

    /// <summary>Guest RAM.</summary>
    public GuestMemory Memory { get; }

    /// <summary>Timers on machine time.</summary>
    public TimerService Timers { get; }

    /// <summary>Ports and memory.</summary>
    public MachineBus Bus { get; } = new();

    /// <summary>Interrupt wires.</summary>
    public InterruptLines Lines { get; }

    /// <summary>The PCI bus; functions are added to it, not by <see cref="Add"/>.</summary>
    public PciBus Pci { get; }

    /// <summary>The keyboard and mouse.</summary>
    public Keyboard8042 Keyboard { get; }

    /// <summary>The clock and CMOS.</summary>
    public Rtc Rtc { get; }

    /// <summary>ACPI fixed hardware.</summary>
    public AcpiPowerManagement PowerManagement { get; }

    /// <summary>Virtual machine generation identifier.</summary>
    public GenerationId Generation { get; }

    /// <summary>All devices in the order in which they start; interrupt controllers first.</summary>
    public IReadOnlyList<IDevice> Devices => _devices;

    /// <summary>Tells the guest of PCI functions that come and go.</summary>
    internal HotPlugController PciHotPlug { get; }

    /// <summary>Tells the guest of processors that come and go.</summary>
    internal HotPlugController ProcessorHotPlug { get; }

    internal ProcessorInterrupts Processors { get; } = new();

    internal Pic8259 Pic { get; }

    internal IoApic IoApic { get; }

    internal AcpiConfiguration Acpi => _acpi with { PresentProcessors = ProcessorHotPlug.PresentPlaces.ToHashSet(), HotPlugSlots = PciHotPlug.RemovablePlaces };

    /// <summary>Adds a device that is not a PCI function and maps what it claims.</summary>
    /// <exception cref="ArgumentException">Its name is taken, or a claim overlaps another device's.</exception>
    public void Add(IDevice device)
    {
        if (!_names.Add(device.Name))
        {
            throw new ArgumentException($"the machine already has a device '{device.Name}'");
        }
        Bus.Attach(device);
        _devices = [.. _devices, device];
    }

    /// <summary>Adds a PCI function while the machine is in use: addresses and, if wanted, decoding as firmware would set them; the guest sees it when all is ready.</summary>
    /// <exception cref="ArgumentException">Its name is taken.</exception>
    /// <exception cref="InvalidOperationException">The slot is taken, or there is no address for a BAR.</exception>
    internal void Plug(PciFunction function, int slot, bool decode, bool start)
    {
        if (_names.Contains(function.Name))
        {
            throw new ArgumentException($"the machine already has a device '{function.Name}'");
        }
        Pci.Add(function, slot, visible: false);
        try
        {
            Pci.AssignResources(function, decode);
            Add(function);
            if (start)
            {
                function.Start();
            }
        }
        catch
        {
            Pci.Remove(function);
            Forget(function);
            throw;
        }
        Pci.Show(function);
    }

    /// <summary>Takes a PCI function that was removed from the bus from the devices.</summary>
    internal void Forget(PciFunction function)
    {
        _names.Remove(function.Name);
        _devices = [.. _devices.Where(device => device != function)];
    }

    /// <summary>The PCI window above RAM, as far as the processor's physical addresses go.</summary>
    private static (ulong Base, ulong Length) HighWindow(GuestMemory memory, int physicalBits)
    {
        ulong start = MemoryMap.HighWindowBase(memory);
        ulong limit = physicalBits is > 32 and < 64 ? 1UL << physicalBits : 1UL << 36;
        return start < limit ? (start, Math.Min(MemoryMap.HighWindowLength, limit - start)) : (start, 0);
    }
}
