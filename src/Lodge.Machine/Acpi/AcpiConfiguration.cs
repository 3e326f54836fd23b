using Lodge.Machine.Devices.Serial.Uart16550;

namespace Lodge.Machine.Acpi;

/// <summary>What the ACPI tables describe beyond the fixed chipset.</summary>
public sealed record AcpiConfiguration
{
    /// <summary>Processors; processor n has APIC ID n.</summary>
    public required int ProcessorCount { get; init; }

    /// <summary>Processors that there may be in the end, up to 255; above 1 they can be plugged and ejected.</summary>
    public int MaximumProcessorCount { get; init; }

    /// <summary>Numbers of the processors that are there; null: the first <see cref="ProcessorCount"/>.</summary>
    public IReadOnlySet<int>? PresentProcessors { get; init; }

    /// <summary>PCI slots whose functions can be plugged and ejected.</summary>
    public IReadOnlyList<int> HotPlugSlots { get; init; } = [];

    /// <summary>Serial ports present.</summary>
    public IReadOnlyList<Uart16550Configuration> SerialPorts { get; init; } = [];

    /// <summary>PCI memory window above 4 GiB: first address.</summary>
    public required ulong HighWindowBase { get; init; }

    /// <summary>PCI memory window above 4 GiB: bytes, 0 for none.</summary>
    public required ulong HighWindowLength { get; init; }

    /// <summary>Low half of the HPET's general capabilities register (HPET 1.0a, 3.2.4, event timer block ID).</summary>
    public uint HpetIdentity { get; init; } = 0x8086_A201;

    /// <summary>pvpanic is present.</summary>
    public bool Pvpanic { get; init; } = true;
}
