namespace Lodge.Machine.Devices.Misc.FirmwareConfiguration;

/// <summary>Ports of fw_cfg, relative to <see cref="PortMap.FirmwareConfiguration"/> (QEMU's specification "fw_cfg", x86 register locations).</summary>
internal static class FirmwareConfigurationRegister
{
    public const int Selector = 0;   // 16-bit write, little endian
    public const int Data = 1;       // 8 bits
    public const int DmaAddress = 4; // 64 bits, big endian; a write of the low half starts the operation
    public const int Length = 12;
}

/// <summary>Keys that are not files (the same specification; x86 local keys from 0x8000).</summary>
public static class FirmwareConfigurationKey
{
    /// <summary>"QEMU".</summary>
    public const ushort Signature = 0x00;

    /// <summary>Interface version: traditional and DMA.</summary>
    public const ushort Id = 0x01;

    /// <summary>UUID of the machine, 16 bytes.</summary>
    public const ushort Uuid = 0x02;

    /// <summary>Bytes of RAM, 64 bits.</summary>
    public const ushort RamSize = 0x03;

    /// <summary>1: there is no display, 16 bits.</summary>
    public const ushort NoGraphic = 0x04;

    /// <summary>Processors running, 16 bits.</summary>
    public const ushort NumberOfCpus = 0x05;

    /// <summary>Kernel's load address, 32 bits.</summary>
    public const ushort KernelAddress = 0x07;

    /// <summary>Kernel's size, 32 bits.</summary>
    public const ushort KernelSize = 0x08;

    /// <summary>Initrd's load address, 32 bits.</summary>
    public const ushort InitrdAddress = 0x0A;

    /// <summary>Initrd's size, 32 bits.</summary>
    public const ushort InitrdSize = 0x0B;

    /// <summary>Boot device letter, 16 bits.</summary>
    public const ushort BootDevice = 0x0C;

    /// <summary>NUMA nodes (64 bits, 0: none).</summary>
    public const ushort Numa = 0x0D;

    /// <summary>Show a boot menu, 16 bits.</summary>
    public const ushort BootMenu = 0x0E;

    /// <summary>Largest number of processors (highest APIC ID + 1), 16 bits.</summary>
    public const ushort MaximumCpus = 0x0F;

    /// <summary>Kernel image.</summary>
    public const ushort KernelData = 0x11;

    /// <summary>Initrd image.</summary>
    public const ushort InitrdData = 0x12;

    /// <summary>Command line's load address, 32 bits.</summary>
    public const ushort CommandLineAddress = 0x13;

    /// <summary>Command line's size with its terminating zero, 32 bits.</summary>
    public const ushort CommandLineSize = 0x14;

    /// <summary>Command line with its terminating zero.</summary>
    public const ushort CommandLineData = 0x15;

    /// <summary>Real-mode part's load address, 32 bits.</summary>
    public const ushort SetupAddress = 0x16;

    /// <summary>Size of the real-mode part, 32 bits.</summary>
    public const ushort SetupSize = 0x17;

    /// <summary>Real-mode part of a bzImage.</summary>
    public const ushort SetupData = 0x18;

    /// <summary>The file directory.</summary>
    public const ushort FileDirectory = 0x19;

    /// <summary>First key of a file.</summary>
    public const ushort FileFirst = 0x20;

    /// <summary>x86: the IRQ0 override to GSI 2 exists, 32 bits.</summary>
    public const ushort Irq0Override = 0x8002;
}

/// <summary>Bits of the DMA control field.</summary>
[Flags]
internal enum DmaControl : uint
{
    Error = 1 << 0,
    Read = 1 << 1,
    Skip = 1 << 2,
    Select = 1 << 3,
    Write = 1 << 4,
}

internal static class FirmwareConfigurationVersion
{
    public const uint Traditional = 1 << 0;
    public const uint Dma = 1 << 1;
    public const ulong DmaSignature = 0x51454D5520434647; // "QEMU CFG"
}
