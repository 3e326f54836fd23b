using Lodge.Engine;
using Lodge.Engine.Memory;
using Lodge.Engine.Processor;
using Lodge.Machine.Devices.Misc.FirmwareConfiguration;

namespace Lodge.Machine;

/// <summary>What a virtual machine is made from.</summary>
public sealed record MachineConfiguration
{
    /// <summary>Bytes of RAM, a multiple of 4 KiB, at least 1 MiB.</summary>
    public required ulong MemorySize { get; init; }

    /// <summary>How the host backs RAM.</summary>
    public MemoryBacking Backing { get; init; } = MemoryBacking.Default;

    /// <summary>Processors, 1 to 255.</summary>
    public int ProcessorCount { get; init; } = 1;

    /// <summary>
    /// Most processors that the machine can have while it runs, up to 255 (see <see cref="VirtualMachine.SetProcessorCount"/>); at least
    /// <see cref="ProcessorCount"/>. <see cref="Model"/> must be made for as many. One that is not plugged in costs its state, no time.
    /// </summary>
    public int MaximumProcessorCount
    {
        get => Math.Max(field, ProcessorCount);
        init;
    }

    /// <summary>CPUs of the host to which the processors' threads are bound: the first for processor 0 and so on, beginning again when there are fewer. Empty: not bound.</summary>
    public IReadOnlyList<int> Pinning { get; init; } = [];

    /// <summary>The processor that the guest sees, in a machine of <see cref="MaximumProcessorCount"/>.</summary>
    public required CpuModel Model { get; init; }

    /// <summary>What the processors shall have besides their model.</summary>
    public ProcessorOptions Processor { get; init; } = ProcessorOptions.None;

    /// <summary>
    /// Puts what boots into guest memory and changes processor 0 from its reset state to the entry state; called at power-on and after each reset,
    /// with the ACPI and SMBIOS tables in place and all other memory zero. The root pointer is at <see cref="MemoryMap.RootPointer"/>.
    /// </summary>
    public required Action<GuestMemory, ProcessorState> Boot { get; init; }

    /// <summary>
    /// Whether the machine is made for a saved one: nothing boots and <see cref="Boot"/> is not called until the guest resets itself, and the machine cannot be started
    /// before it was restored (<see cref="Saving.SavedMachine.RestoreInto"/>).
    /// </summary>
    public bool IsRestored { get; init; }

    /// <summary>What COM1 to COM4 are connected to; null or missing: there is no such port.</summary>
    public IReadOnlyList<ICharacterBackend?> SerialPorts { get; init; } = [];

    /// <summary>What the debug console (port 0xE9) prints to; null: there is none.</summary>
    public ICharacterBackend? DebugConsole { get; init; }

    /// <summary>File that keeps the CMOS between runs; null: it is lost.</summary>
    public string? CmosPath { get; init; }

    /// <summary>First port of the debug exit device; null: there is none.</summary>
    public ushort? DebugExitPort { get; init; }

    /// <summary>OEM strings of the SMBIOS tables, which software in the guest reads (systemd's credentials, for example). At most 255.</summary>
    public IReadOnlyList<string> OemStrings { get; init; } = [];

    /// <summary>Virtual machine generation identifier at power-on, see <see cref="VirtualMachine.NewGeneration"/>; a new one unless given.</summary>
    public Guid Generation { get; init; } = Guid.NewGuid();

    /// <summary>Whether a reset by the guest boots it again; otherwise it ends the run.</summary>
    public bool RestartOnReset { get; init; }

    /// <summary>Adds devices and PCI functions. Called once while the machine is made.</summary>
    public Action<Chipset>? AddDevices { get; init; }

    /// <summary>Adds to what fw_cfg offers. Called once while the machine is made.</summary>
    public Action<FirmwareConfigurationContents>? AddFirmwareConfiguration { get; init; }
}
