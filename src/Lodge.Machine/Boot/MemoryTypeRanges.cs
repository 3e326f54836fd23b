using Lodge.Engine.Memory;
using Lodge.Engine.Processor;

namespace Lodge.Machine.Boot;

/// <summary>
/// The memory type range registers as firmware leaves them (Intel SDM vol. 3, 13.11), since there is none: everything write-back but the legacy video
/// memory, the space of option ROMs and firmware, and the hole below 4 GiB.
/// </summary>
internal static class MemoryTypeRanges
{
    private const uint PhysicalBase0 = 0x200, PhysicalMask0 = 0x201, Fixed64K00000 = 0x250, Fixed16K80000 = 0x258, Fixed16KA0000 = 0x259, Fixed4KC0000 = 0x268, DefaultType = 0x2FF;
    private const ulong WriteBack = 0x0606_0606_0606_0606, WriteProtected = 0x0505_0505_0505_0505;
    private const ulong Enabled = 1 << 11, FixedEnabled = 1 << 10, Valid = 1 << 11;

    /// <summary>Sets the registers of one processor, the same on each.</summary>
    /// <param name="physicalBits">Width of physical addresses.</param>
    public static void Apply(ProcessorState state, int physicalBits)
    {
        SortedDictionary<uint, ulong> registers = state.ModelSpecificRegisters;
        registers[Fixed64K00000] = registers[Fixed16K80000] = WriteBack;
        registers[Fixed16KA0000] = 0;
        for (uint i = 0; i < 8; i++)
        {
            registers[Fixed4KC0000 + i] = WriteProtected;
        }
        const ulong Hole = GuestMemory.LowMemoryEnd, HoleLength = 0x1_0000_0000 - Hole;
        registers[PhysicalBase0] = Hole; // uncacheable
        registers[PhysicalMask0] = ((1UL << physicalBits) - HoleLength) | Valid;
        registers[DefaultType] = Enabled | FixedEnabled | 6;
    }
}
