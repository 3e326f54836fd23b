using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Machine.Devices.Power.AcpiPowerManagement;

namespace Lodge.Machine.Acpi;

/// <summary>The ACPI tables of the machine (ACPI 6.5, chapter 5), built and put into guest memory below 1 MiB.</summary>
public static class AcpiTables
{
    private const int FacsLength = 64;
    private const int FacsAlignment = 64;
    private const int TableAlignment = 16;
    private const int RootPointerLength = 36;

    /// <summary>Writes all tables from <see cref="MemoryMap.RootPointer"/> on.</summary>
    /// <exception cref="InvalidOperationException">They do not fit below <see cref="MemoryMap.GenerationId"/>.</exception>
    public static void Write(GuestMemory memory, AcpiConfiguration configuration)
    {
        foreach ((ulong address, byte[] bytes) in Build(configuration))
        {
            if (address + (ulong)bytes.Length > MemoryMap.GenerationId || !memory.TryWrite(address, bytes))
            {
                throw new InvalidOperationException($"ACPI tables for {configuration.ProcessorCount} processors do not fit");
            }
        }
    }

    /// <summary>The tables with their addresses.</summary>
    internal static IReadOnlyList<(ulong Address, byte[] Bytes)> Build(AcpiConfiguration configuration)
    {
        var placed = new List<(ulong, byte[])>();
        ulong next = MemoryMap.RootPointer + RootPointerLength;
        ulong facs = Place(FirmwareControl(), FacsAlignment);
        ulong dsdt = Place(DifferentiatedTable.Build(configuration), TableAlignment);
        ulong[] entries =
        [
            Place(FixedDescription((uint)facs, dsdt), TableAlignment),
            Place(MultipleApic(configuration), TableAlignment),
            Place(MemoryMappedConfiguration(), TableAlignment),
            Place(Hpet(configuration.HpetIdentity), TableAlignment),
        ];
        var root = new AcpiTable("XSDT", 1);
        foreach (ulong entry in entries)
        {
            root.UInt64(entry);
        }
        ulong xsdt = Place(root.ToArray(), TableAlignment);
        placed.Insert(0, (MemoryMap.RootPointer, RootPointer(xsdt)));
        return placed;

        ulong Place(byte[] table, int alignment)
        {
            ulong address = (next + (ulong)alignment - 1) & ~((ulong)alignment - 1);
            placed.Add((address, table));
            next = address + (ulong)table.Length;
            return address;
        }
    }

    /// <summary>RSDP (5.2.5.3), without an RSDT.</summary>
    private static byte[] RootPointer(ulong xsdt)
    {
        byte[] pointer = new byte[RootPointerLength];
        "RSD PTR "u8.CopyTo(pointer);
        "LODGE "u8.CopyTo(pointer.AsSpan(9));
        pointer[15] = 2; // revision
        BinaryPrimitives.WriteUInt32LittleEndian(pointer.AsSpan(20), RootPointerLength);
        BinaryPrimitives.WriteUInt64LittleEndian(pointer.AsSpan(24), xsdt);
        pointer[8] = AcpiTable.Checksum(pointer.AsSpan(0, 20));
        pointer[32] = AcpiTable.Checksum(pointer);
        return pointer;
    }

    /// <summary>FACS (5.2.10): no wake vector is ever used, since only soft off is offered.</summary>
    private static byte[] FirmwareControl()
    {
        byte[] facs = new byte[FacsLength];
        "FACS"u8.CopyTo(facs);
        BinaryPrimitives.WriteUInt32LittleEndian(facs.AsSpan(4), FacsLength);
        facs[32] = 2; // version
        return facs;
    }

    /// <summary>FADT, revision 6.5 (5.2.9).</summary>
    private static byte[] FixedDescription(uint facs, ulong dsdt)
    {
        const int EventBlock = PortMap.PowerManagement + PowerManagementRegister.Pm1Status;
        const int ControlBlock = PortMap.PowerManagement + PowerManagementRegister.Pm1Control;
        const int TimerBlock = PortMap.PowerManagement + PowerManagementRegister.PmTimer;
        const int EventLength = 4, ControlLength = 2, TimerLength = 4, GpeLength = PowerManagementRegister.Gpe0Length;
        const int BootLegacyDevices = 1 << 0, Boot8042 = 1 << 1, BootNoVga = 1 << 2;
        const uint Wbinvd = 1 << 0, C1Supported = 1 << 2, NoFixedSleepButton = 1 << 5, Timer32 = 1 << 8, ResetSupported = 1 << 10;

        var table = new AcpiTable("FACP", 6);
        table.UInt32(facs).UInt32((uint)dsdt);
        table.UInt8(0); // reserved, was INT_MODEL
        table.UInt8(4); // preferred profile: enterprise server
        table.UInt16(InterruptMap.SystemControl);
        table.UInt32(PortMap.SmiCommand).UInt8(SmiCommand.AcpiEnable).UInt8(SmiCommand.AcpiDisable);
        table.UInt8(0).UInt8(0); // S4BIOS_REQ, PSTATE_CNT
        table.UInt32(EventBlock).UInt32(0).UInt32(ControlBlock).UInt32(0).UInt32(0).UInt32(TimerBlock).UInt32(PortMap.GeneralPurposeEvents).UInt32(0);
        table.UInt8(EventLength).UInt8(ControlLength).UInt8(0).UInt8(TimerLength).UInt8(GpeLength).UInt8(0).UInt8(0);
        table.UInt8(0); // CST_CNT
        table.UInt16(0x65).UInt16(0x3E9); // C2 and C3 latencies that say: not supported
        table.UInt16(0).UInt16(0); // cache flush size and stride: WBINVD works
        table.UInt8(0).UInt8(0); // duty cycle: none
        table.UInt8(0).UInt8(0).UInt8(0x32); // day and month alarms: none; century
        table.UInt16(BootLegacyDevices | Boot8042 | BootNoVga).UInt8(0);
        table.UInt32(Wbinvd | C1Supported | NoFixedSleepButton | Timer32 | ResetSupported);
        table.PortAddress(PortMap.ResetControl, 8, 1).UInt8(ResetControl.FadtResetValue);
        table.UInt16(0).UInt8(5); // ARM boot flags; minor version 6.5
        table.UInt64(0).UInt64(dsdt); // FACS is told in the 32-bit field only
        table.PortAddress(EventBlock, EventLength * 8, 2).PortAddress(0, 0, 0);
        table.PortAddress(ControlBlock, ControlLength * 8, 2).PortAddress(0, 0, 0).PortAddress(0, 0, 0);
        table.PortAddress(TimerBlock, TimerLength * 8, 3);
        table.PortAddress(PortMap.GeneralPurposeEvents, GpeLength * 8, 1).PortAddress(0, 0, 0);
        table.PortAddress(0, 0, 0).PortAddress(0, 0, 0); // sleep control and status: hardware-reduced ACPI only
        table.UInt64(0); // hypervisor vendor
        return table.ToArray();
    }

    /// <summary>MADT (5.2.12).</summary>
    private static byte[] MultipleApic(AcpiConfiguration configuration)
    {
        const int MaximumApicId = 254;
        const uint PcatCompatible = 1, Enabled = 1, OnlineCapable = 2;
        const int LevelActiveHigh = 0x000D;
        var table = new AcpiTable("APIC", 5);
        table.UInt32((uint)MemoryMap.LocalApicBase).UInt32(PcatCompatible);
        int processors = Math.Max(configuration.ProcessorCount, configuration.MaximumProcessorCount);
        for (int i = 0; i < processors; i++)
        {
            uint flags = configuration.PresentProcessors?.Contains(i) ?? (i < configuration.ProcessorCount) ? Enabled : OnlineCapable;
            if (i <= MaximumApicId)
            {
                table.UInt8(0).UInt8(8).UInt8(i).UInt8(i).UInt32(flags); // processor local APIC
            }
            else
            {
                table.UInt8(9).UInt8(16).UInt16(0).UInt32((uint)i).UInt32(flags).UInt32((uint)i); // processor local x2APIC
            }
        }
        table.UInt8(1).UInt8(12).UInt8(0).UInt8(0).UInt32((uint)MemoryMap.IoApicBase).UInt32(0); // I/O APIC with GSIs from 0
        table.UInt8(2).UInt8(10).UInt8(0).UInt8(0).UInt32(2).UInt16(0); // IRQ 0 is GSI 2
        table.UInt8(2).UInt8(10).UInt8(0).UInt8(InterruptMap.SystemControl).UInt32(InterruptMap.SystemControl).UInt16(LevelActiveHigh);
        table.UInt8(4).UInt8(6).UInt8(0xFF).UInt16(0).UInt8(1); // NMI at LINT1 of all
        if (processors > MaximumApicId + 1)
        {
            table.UInt8(10).UInt8(12).UInt16(0).UInt32(uint.MaxValue).UInt8(1).UInt8(0).UInt16(0); // the same for x2APICs
        }
        return table.ToArray();
    }

    /// <summary>MCFG (PCI Firmware 3.3, 4.1.2).</summary>
    private static byte[] MemoryMappedConfiguration() => new AcpiTable("MCFG", 1)
        .UInt64(0).UInt64(MemoryMap.EcamBase).UInt16(0).UInt8(0).UInt8(MemoryMap.EcamBuses - 1).UInt32(0).ToArray();

    /// <summary>HPET description (IA-PC HPET 1.0a, 3.2.4).</summary>
    private static byte[] Hpet(uint identity) => new AcpiTable("HPET", 1)
        .UInt32(identity)
        .UInt8(0).UInt8(64).UInt8(0).UInt8(0).UInt64(MemoryMap.HpetBase) // generic address in memory
        .UInt8(0).UInt16(0x80).UInt8(0).ToArray(); // number, smallest tick, no page protection
}
