using Lodge.Engine.Memory;

namespace Lodge.Machine;

/// <summary>Type of a range in the memory map that the guest is told of (ACPI 6.5, table 15.3, address range types).</summary>
public enum MemoryRangeType : uint
{
    /// <summary>RAM that the operating system may use.</summary>
    Usable = 1,

    /// <summary>Not to be used.</summary>
    Reserved = 2,
}

/// <summary>A range of the memory map that the guest is told of (E820 entry).</summary>
/// <param name="Address">First guest physical address.</param>
/// <param name="Length">Bytes.</param>
/// <param name="Type">What it is.</param>
public readonly record struct MemoryRange(ulong Address, ulong Length, MemoryRangeType Type);

/// <summary>Where everything lies in the guest's physical memory and port space.</summary>
public static class MemoryMap
{
    /// <summary>End of the RAM below the extended BIOS data area.</summary>
    public const ulong ConventionalMemoryEnd = 0x9_FC00;

    /// <summary>Start of the VGA window, the end of what real mode may use.</summary>
    public const ulong LegacyVideoBase = 0xA_0000;

    /// <summary>Where the ACPI tables begin; RAM, reserved for the guest up to 1 MiB.</summary>
    public const ulong FirmwareTablesBase = 0xE_0000;

    /// <summary>The ACPI root pointer; a 16-byte boundary in 0xE0000-0xFFFFF as ACPI 6.5, 5.2.5.1 wants.</summary>
    public const ulong RootPointer = 0xE_0000;

    /// <summary>Page of the virtual machine generation identifier, the end of the space for ACPI tables.</summary>
    public const ulong GenerationId = 0xE_F000;

    /// <summary>The SMBIOS entry point; searched at 16-byte boundaries in 0xF0000-0xFFFFF (SMBIOS 3.6, 5.2).</summary>
    public const ulong ManagementTablesBase = 0xF_0000;

    /// <summary>1 MiB, where extended memory begins.</summary>
    public const ulong ExtendedMemoryBase = 0x10_0000;

    /// <summary>First PCI memory window below 4 GiB; begins where low RAM must end.</summary>
    public const ulong PciWindow1Base = GuestMemory.LowMemoryEnd;

    /// <summary>Bytes of the first PCI memory window.</summary>
    public const ulong PciWindow1Length = EcamBase - PciWindow1Base;

    /// <summary>PCI Express enhanced configuration space: 1 MiB for each bus.</summary>
    public const ulong EcamBase = 0xE000_0000;

    /// <summary>Number of PCI buses that ECAM reaches.</summary>
    public const int EcamBuses = 256;

    /// <summary>Bytes of ECAM.</summary>
    public const ulong EcamLength = EcamBuses * 0x10_0000UL;

    /// <summary>Second PCI memory window below 4 GiB.</summary>
    public const ulong PciWindow2Base = 0xF000_0000;

    /// <summary>Bytes of the second PCI memory window.</summary>
    public const ulong PciWindow2Length = IoApicBase - PciWindow2Base;

    /// <summary>I/O APIC registers.</summary>
    public const ulong IoApicBase = 0xFEC0_0000;

    /// <summary>Bytes that the I/O APIC answers.</summary>
    public const ulong IoApicLength = 0x1000;

    /// <summary>HPET registers.</summary>
    public const ulong HpetBase = 0xFED0_0000;

    /// <summary>Bytes of the HPET's registers (IA-PC HPET 1.0a, 2.3.1).</summary>
    public const ulong HpetLength = 0x400;

    /// <summary>Local APIC registers and the address of message-signalled interrupts.</summary>
    public const ulong LocalApicBase = 0xFEE0_0000;

    /// <summary>Bytes of the local APIC's page.</summary>
    public const ulong LocalApicLength = 0x1000;

    /// <summary>Bytes of the PCI memory window above RAM.</summary>
    public const ulong HighWindowLength = 64UL << 30;

    private const ulong FourGiB = 0x1_0000_0000;

    /// <summary>Where the PCI memory window above 4 GiB begins: the first GiB boundary after RAM.</summary>
    public static ulong HighWindowBase(GuestMemory memory)
    {
        const ulong Alignment = 1UL << 30;
        ulong end = Math.Max(memory.End, FourGiB);
        return (end + Alignment - 1) & ~(Alignment - 1);
    }

    /// <summary>The memory map that a boot loader hands to the guest, ascending and without overlap.</summary>
    public static IReadOnlyList<MemoryRange> Describe(GuestMemory memory)
    {
        ulong lowEnd = Math.Min(memory.Size, GuestMemory.LowMemoryEnd);
        var map = new List<MemoryRange>
        {
            new(0, ConventionalMemoryEnd, MemoryRangeType.Usable),
            new(ConventionalMemoryEnd, LegacyVideoBase - ConventionalMemoryEnd, MemoryRangeType.Reserved),
            new(FirmwareTablesBase, ExtendedMemoryBase - FirmwareTablesBase, MemoryRangeType.Reserved),
        };
        if (lowEnd > ExtendedMemoryBase)
        {
            map.Add(new(ExtendedMemoryBase, lowEnd - ExtendedMemoryBase, MemoryRangeType.Usable));
        }
        map.Add(new(EcamBase, EcamLength, MemoryRangeType.Reserved));
        map.Add(new(IoApicBase, IoApicLength, MemoryRangeType.Reserved));
        map.Add(new(HpetBase, HpetLength, MemoryRangeType.Reserved));
        map.Add(new(LocalApicBase, LocalApicLength, MemoryRangeType.Reserved));
        if (memory.End > FourGiB)
        {
            map.Add(new(FourGiB, memory.End - FourGiB, MemoryRangeType.Usable));
        }
        return map;
    }
}

/// <summary>Fixed I/O ports of the machine's devices.</summary>
public static class PortMap
{
    /// <summary>i8042 data.</summary>
    public const ushort KeyboardData = 0x60;

    /// <summary>i8042 status and command.</summary>
    public const ushort KeyboardCommand = 0x64;

    /// <summary>RTC and CMOS index; data follows.</summary>
    public const ushort RtcIndex = 0x70;

    /// <summary>System control port A (fast A20 and reset).</summary>
    public const ushort SystemControlA = 0x92;

    /// <summary>Advanced power management control: writes ask the firmware to enable or disable ACPI (FADT SMI_CMD).</summary>
    public const ushort SmiCommand = 0xB2;

    /// <summary>Debug console.</summary>
    public const ushort DebugConsole = 0xE9;

    /// <summary>Debug exit unless configured otherwise.</summary>
    public const ushort DebugExit = 0xF4;

    /// <summary>pvpanic.</summary>
    public const ushort Pvpanic = 0x505;

    /// <summary>Firmware configuration selector, data and DMA registers: 12 ports.</summary>
    public const ushort FirmwareConfiguration = 0x510;

    /// <summary>ACPI fixed hardware: PM1a event block (4), PM1a control (2) at +4, PM timer (4) at +8.</summary>
    public const ushort PowerManagement = 0x600;

    /// <summary>ACPI general-purpose event block 0.</summary>
    public const ushort GeneralPurposeEvents = 0x620;

    /// <summary>PCI slots that are plugged and unplugged.</summary>
    public const ushort PciHotPlug = 0x640;

    /// <summary>Processors that are plugged and unplugged.</summary>
    public const ushort ProcessorHotPlug = 0x680;

    /// <summary>PCI configuration address.</summary>
    public const ushort PciConfigurationAddress = 0xCF8;

    /// <summary>Reset control register.</summary>
    public const ushort ResetControl = 0xCF9;
}

/// <summary>ACPI general-purpose events, all edges (methods <c>_E01</c> and so on in the DSDT).</summary>
public static class EventMap
{
    /// <summary>A PCI function came or is to go.</summary>
    public const int PciHotPlug = 1;

    /// <summary>A processor came or is to go.</summary>
    public const int ProcessorHotPlug = 2;

    /// <summary>The virtual machine generation identifier changed.</summary>
    public const int GenerationId = 3;
}

/// <summary>Global system interrupts (I/O APIC inputs) of the fixed devices; ISA numbers except where overridden.</summary>
public static class InterruptMap
{
    /// <summary>i8042 keyboard.</summary>
    public const int Keyboard = 1;

    /// <summary>COM2 and COM4.</summary>
    public const int Serial1 = 3;

    /// <summary>COM1 and COM3.</summary>
    public const int Serial0 = 4;

    /// <summary>RTC.</summary>
    public const int Rtc = 8;

    /// <summary>ACPI system control interrupt, level-triggered, active high.</summary>
    public const int SystemControl = 9;

    /// <summary>i8042 mouse.</summary>
    public const int Mouse = 12;

    /// <summary>First of the four inputs that PCI INTx pins are wired to.</summary>
    public const int PciFirst = 16;
}
