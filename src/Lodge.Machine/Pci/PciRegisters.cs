namespace Lodge.Machine.Pci;

/// <summary>Offsets in the type 0 configuration header (PCI Local Bus 3.0, 6.1).</summary>
public static class PciRegisters
{
    /// <summary>Vendor ID, 16 bits.</summary>
    public const int VendorId = 0x00;

    /// <summary>Device ID, 16 bits.</summary>
    public const int DeviceId = 0x02;

    /// <summary>Command, 16 bits; see <see cref="PciCommand"/>.</summary>
    public const int Command = 0x04;

    /// <summary>Status, 16 bits.</summary>
    public const int Status = 0x06;

    /// <summary>Revision ID, 8 bits.</summary>
    public const int RevisionId = 0x08;

    /// <summary>Class code, 24 bits: programming interface, subclass, base class.</summary>
    public const int ClassCode = 0x09;

    /// <summary>Cache line size, 8 bits.</summary>
    public const int CacheLineSize = 0x0C;

    /// <summary>Latency timer, 8 bits.</summary>
    public const int LatencyTimer = 0x0D;

    /// <summary>Header type, 8 bits; bit 7: the device has several functions.</summary>
    public const int HeaderType = 0x0E;

    /// <summary>First of six 32-bit base address registers.</summary>
    public const int BaseAddress0 = 0x10;

    /// <summary>Number of base address registers.</summary>
    public const int BaseAddressCount = 6;

    /// <summary>Subsystem vendor ID, 16 bits.</summary>
    public const int SubsystemVendorId = 0x2C;

    /// <summary>Subsystem ID, 16 bits.</summary>
    public const int SubsystemId = 0x2E;

    /// <summary>Capabilities pointer, 8 bits.</summary>
    public const int CapabilitiesPointer = 0x34;

    /// <summary>Interrupt line, 8 bits; for software only.</summary>
    public const int InterruptLine = 0x3C;

    /// <summary>Interrupt pin, 8 bits: 0 none, 1 INTA to 4 INTD.</summary>
    public const int InterruptPin = 0x3D;

    /// <summary>Status register: an interrupt is pending inside the function.</summary>
    public const ushort StatusInterrupt = 1 << 3;

    /// <summary>Status register: the function has a capability list.</summary>
    public const ushort StatusCapabilities = 1 << 4;

    /// <summary>BAR bit 0: I/O space.</summary>
    public const uint BarIo = 1;

    /// <summary>BAR bits 2:1 = 10b: 64-bit memory address.</summary>
    public const uint BarMemory64 = 4;

    /// <summary>BAR bit 3: prefetchable memory.</summary>
    public const uint BarPrefetchable = 8;

    /// <summary>Capability ID: MSI-X.</summary>
    public const byte CapabilityMsix = 0x11;

    /// <summary>Capability ID: vendor-specific.</summary>
    public const byte CapabilityVendor = 0x09;
}

/// <summary>Bits of the command register (PCI Local Bus 3.0, 6.2.2) that functions here have.</summary>
[Flags]
public enum PciCommand : ushort
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>Answers I/O space accesses.</summary>
    IoSpace = 1 << 0,

    /// <summary>Answers memory space accesses.</summary>
    MemorySpace = 1 << 1,

    /// <summary>May send memory accesses, messages included.</summary>
    BusMaster = 1 << 2,

    /// <summary>Reports parity errors; kept, without effect as there are none.</summary>
    ParityErrorResponse = 1 << 6,

    /// <summary>Drives SERR#; kept, without effect as there are no errors.</summary>
    SystemError = 1 << 8,

    /// <summary>Does not assert INTx.</summary>
    InterruptDisable = 1 << 10,
}

/// <summary>What kind of function it is: what a driver matches on.</summary>
/// <param name="VendorId">Vendor.</param>
/// <param name="DeviceId">Device.</param>
/// <param name="ClassCode">24 bits: base class, subclass, programming interface from high to low.</param>
/// <param name="Revision">Revision.</param>
/// <param name="SubsystemVendorId">Subsystem vendor.</param>
/// <param name="SubsystemId">Subsystem.</param>
public sealed record PciIdentity(ushort VendorId, ushort DeviceId, uint ClassCode, byte Revision = 0, ushort SubsystemVendorId = 0, ushort SubsystemId = 0);

/// <summary>Place of a function: bus, device 0-31, function 0-7.</summary>
public readonly record struct PciAddress(byte Bus, byte Device, byte Function)
{
    /// <summary>Device and function as one byte.</summary>
    public byte DeviceFunction => (byte)((Device << 3) | Function);

    /// <inheritdoc/>
    public override string ToString() => $"{Bus:x2}:{Device:x2}.{Function}";
}
