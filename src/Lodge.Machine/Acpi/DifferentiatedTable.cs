using System.Globalization;
using Lodge.Machine.Devices.Power.AcpiPowerManagement;
using Lodge.Machine.Devices.Serial.Uart16550;

namespace Lodge.Machine.Acpi;

/// <summary>The DSDT: the PCI root with its windows and interrupt routing, the devices that no bus enumerates, the processors and soft off.</summary>
internal static class DifferentiatedTable
{
    private const string PciHostBridgeCapabilities = "33DB4D5B-1FF7-401C-9657-7441C03DD766"; // ACPI 6.5, 6.2.11.3
    private const int IsaBridgeAddress = 0x1F_0000; // device 31, function 0

    /// <summary>Builds the table.</summary>
    public static byte[] Build(AcpiConfiguration configuration)
    {
        var table = new AcpiTable("DSDT", 2);
        table.Bytes(Aml.Scope("\\_SB", [PciRoot(configuration), Hpet(), Platform(), Generation(), .. Processors(configuration)]));
        table.Bytes(Aml.Scope("\\_GPE", Events(configuration)));
        byte[] off = Aml.Integer(AcpiPowerManagement.SoftOffSleepType);
        table.Bytes(Aml.Name("\\_S5", Aml.Package(off, off, Aml.Integer(0), Aml.Integer(0))));
        return table.ToArray();
    }

    private static byte[] PciRoot(AcpiConfiguration configuration)
    {
        ResourceTemplate windows = new ResourceTemplate()
            .BusNumbers(0, MemoryMap.EcamBuses - 1)
            .Io(PortMap.PciConfigurationAddress, 8)
            .IoWindow(0, PortMap.PciConfigurationAddress - 1)
            .IoWindow(PortMap.PciConfigurationAddress + 8, 0xFFFF)
            .MemoryWindow(MemoryMap.PciWindow1Base, MemoryMap.PciWindow1Length)
            .MemoryWindow(MemoryMap.PciWindow2Base, MemoryMap.PciWindow2Length);
        if (configuration.HighWindowLength != 0)
        {
            windows.HighMemoryWindow(configuration.HighWindowBase, configuration.HighWindowLength);
        }
        return Aml.Device("PCI0",
        [
            Aml.Name("_HID", Aml.EisaId("PNP0A08")),
            Aml.Name("_CID", Aml.EisaId("PNP0A03")),
            Aml.Name("_UID", Aml.Integer(0)),
            Aml.Name("_SEG", Aml.Integer(0)),
            Aml.Name("_BBN", Aml.Integer(0)),
            Aml.Name("_CRS", windows.ToBuffer()),
            Aml.Name("_PRT", Aml.Package(InterruptRouting())),
            Capabilities(),
            .. HotPlugTerms.Slots(configuration.HotPlugSlots),
            Aml.Device("ISA", [Aml.Name("_ADR", Aml.Integer(IsaBridgeAddress)), .. IsaDevices(configuration)]),
        ]);
    }

    /// <summary>Pin p (0 INTA) of device d is hard-wired to one of four I/O APIC inputs, rotating with the device.</summary>
    private static List<byte[]> InterruptRouting()
    {
        var entries = new List<byte[]>();
        for (int device = 0; device < 32; device++)
        {
            for (int pin = 0; pin < 4; pin++)
            {
                entries.Add(Aml.Package(
                    Aml.Integer(((ulong)device << 16) | 0xFFFF),
                    Aml.Integer((ulong)pin),
                    Aml.Integer(0),
                    Aml.Integer((ulong)(InterruptMap.PciFirst + ((device + pin) % 4)))));
            }
        }
        return entries;
    }

    /// <summary>_OSC: there is no firmware that wants to keep a PCI Express feature, so that every request is granted as it is.</summary>
    private static byte[] Capabilities() => Aml.Method("_OSC", 4,
        Aml.CreateDWordField(Aml.Argument(3), 0, "CDW1"),
        Aml.If(Aml.Equal(Aml.Argument(0), Aml.Uuid(PciHostBridgeCapabilities)),
            Aml.Return(Aml.Argument(3))),
        Aml.Or(Aml.Path("CDW1"), Aml.Integer(4), Aml.Path("CDW1")), // unrecognized UUID
        Aml.Return(Aml.Argument(3)));

    private static List<byte[]> IsaDevices(AcpiConfiguration configuration)
    {
        var devices = new List<byte[]>
        {
            Pnp("RTC", "PNP0B00", new ResourceTemplate().Io(PortMap.RtcIndex, 2).Irq(InterruptMap.Rtc)),
            Pnp("KBD", "PNP0303", new ResourceTemplate().Io(PortMap.KeyboardData, 1).Io(PortMap.KeyboardCommand, 1).Irq(InterruptMap.Keyboard)),
            Pnp("MOU", "PNP0F13", new ResourceTemplate().Irq(InterruptMap.Mouse)),
            Named("FWCF", "QEMU0002", new ResourceTemplate().Io(PortMap.FirmwareConfiguration, 12)),
        };
        if (configuration.Pvpanic)
        {
            devices.Add(Named("PEVT", "QEMU0001", new ResourceTemplate().Io(PortMap.Pvpanic, 1)));
        }
        int number = 1;
        foreach (Uart16550Configuration port in configuration.SerialPorts)
        {
            devices.Add(Aml.Device($"COM{number}",
                Aml.Name("_HID", Aml.EisaId("PNP0501")),
                Aml.Name("_UID", Aml.Integer((ulong)number)),
                Aml.Name("_CRS", new ResourceTemplate().Io(port.Port, 8).Irq(port.Interrupt).ToBuffer())));
            number++;
        }
        return devices;
    }

    private static byte[] Hpet() => Aml.Device("HPET",
        Aml.Name("_HID", Aml.EisaId("PNP0103")),
        Aml.Name("_UID", Aml.Integer(0)),
        Aml.Name("_CRS", new ResourceTemplate().Memory(MemoryMap.HpetBase, MemoryMap.HpetLength).ToBuffer()));

    /// <summary>
    /// What the chipset occupies that no other device lists, ECAM first of all (PCI Firmware 3.3, 4.1.2). The power management ports belong to
    /// the ISA bridge, where Linux reserves them itself and warns if they are listed here as well.
    /// </summary>
    private static byte[] Platform() => Aml.Device("MBRD",
        Aml.Name("_HID", Aml.EisaId("PNP0C02")),
        Aml.Name("_UID", Aml.Integer(0)),
        Aml.Name("_CRS", new ResourceTemplate()
            .Memory(MemoryMap.EcamBase, MemoryMap.EcamLength)
            .Io(PortMap.SystemControlA, 1)
            .Io(PortMap.SmiCommand, 2)
            .Io(PortMap.PciHotPlug, HotPlugTerms.SlotPorts)
            .Io(PortMap.ProcessorHotPlug, HotPlugTerms.ProcessorPorts)
            .ToBuffer()));

    /// <summary>Microsoft, "Virtual Machine Generation ID": ADDR gives the low and the high half of the identifier's address, notification 0x80 tells of a change.</summary>
    private static byte[] Generation() => Aml.Device("VGEN",
        Aml.Name("_HID", Aml.Text("LDGE0001")),
        Aml.Name("_CID", Aml.Text("VM_Gen_Counter")),
        Aml.Name("_DDN", Aml.Text("VM_Gen_Counter")),
        Aml.Name("ADDR", Aml.Package(Aml.Integer(MemoryMap.GenerationId & uint.MaxValue), Aml.Integer(MemoryMap.GenerationId >> 32))));

    /// <summary>What is done about the edges of general-purpose events.</summary>
    private static List<byte[]> Events(AcpiConfiguration configuration)
    {
        List<byte[]> events = [Event(EventMap.PciHotPlug, Aml.Path("\\_SB.PCI0." + HotPlugTerms.Scan))];
        if (configuration.MaximumProcessorCount > 1)
        {
            events.Add(Event(EventMap.ProcessorHotPlug, Aml.Path("\\_SB." + HotPlugTerms.Scan)));
        }
        events.Add(Event(EventMap.GenerationId, Aml.Notify("\\_SB.VGEN", 0x80)));
        return events;

        static byte[] Event(int number, byte[] term) => Aml.Method("_E" + number.ToString("X2", CultureInfo.InvariantCulture), 0, term);
    }

    private static IEnumerable<byte[]> Processors(AcpiConfiguration configuration)
    {
        if (configuration.MaximumProcessorCount > 1)
        {
            return HotPlugTerms.Processors(configuration.MaximumProcessorCount);
        }
        return Enumerable.Range(0, configuration.ProcessorCount).Select(static i => Aml.Device("C" + i.ToString("X3", CultureInfo.InvariantCulture),
            Aml.Name("_HID", Aml.Text("ACPI0007")),
            Aml.Name("_UID", Aml.Integer((ulong)i))));
    }

    private static byte[] Pnp(string name, string id, ResourceTemplate resources) =>
        Aml.Device(name, Aml.Name("_HID", Aml.EisaId(id)), Aml.Name("_CRS", resources.ToBuffer()));

    private static byte[] Named(string name, string id, ResourceTemplate resources) =>
        Aml.Device(name, Aml.Name("_HID", Aml.Text(id)), Aml.Name("_STA", Aml.Integer(0x0B)), Aml.Name("_CRS", resources.ToBuffer()));
}
