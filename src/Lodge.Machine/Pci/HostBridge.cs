namespace Lodge.Machine.Pci;

/// <summary>00:00.0: the host bridge. The memory controller hub's identity (Intel 82Q35), with the register by which firmware finds ECAM.</summary>
public sealed class HostBridge : PciFunction
{
    private const int PciExpressBase = 0x60;    // PCIEXBAR, 64 bits: base, length in bits 2:1 (00: 256 MiB), enable in bit 0

    /// <summary>Creates the bridge.</summary>
    public HostBridge() : base("host-bridge", new PciIdentity(0x8086, 0x29C0, 0x060000))
    {
        Space.Define32(PciExpressBase, (uint)MemoryMap.EcamBase | 1);
        Space.Define32(PciExpressBase + 4, 0);
    }
}

/// <summary>
/// 00:1f.0: the bridge to the ISA devices (Intel 82801IB, ICH9). It only tells where the ACPI registers are; what lies behind it is decoded by the
/// machine's port space.
/// </summary>
public sealed class IsaBridge : PciFunction
{
    /// <summary>Device number of the bridge.</summary>
    public const int Device = 31;

    private const int PowerManagementBase = 0x40;   // PMBASE: bits 15:7, bit 0 set for I/O space
    private const int AcpiControl = 0x44;           // ACPI_CNTL: bit 7 enables the range
    private const byte AcpiEnable = 0x80;

    /// <summary>Creates the bridge.</summary>
    public IsaBridge() : base("isa-bridge", new PciIdentity(0x8086, 0x2918, 0x060100, Revision: 2))
    {
        Space.Define32(PowerManagementBase, PortMap.PowerManagement | 1U);
        Space.Define8(AcpiControl, AcpiEnable);
    }
}
