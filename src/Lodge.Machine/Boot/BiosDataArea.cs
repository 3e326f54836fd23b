using Lodge.Engine.Memory;

namespace Lodge.Machine.Boot;

/// <summary>What a BIOS leaves in its data area (0x400-0x4FF) that operating systems read without a BIOS too.</summary>
internal static class BiosDataArea
{
    private const ulong EbdaSegment = 0x40E;
    private const ulong BaseMemorySize = 0x413;

    /// <summary>Writes the segment of the extended BIOS data area and the size of conventional memory in KiB.</summary>
    public static void Write(GuestMemory memory)
    {
        memory.TryWrite(EbdaSegment, (ushort)(MemoryMap.ConventionalMemoryEnd >> 4));
        memory.TryWrite(BaseMemorySize, (ushort)(MemoryMap.ConventionalMemoryEnd >> 10));
    }
}
