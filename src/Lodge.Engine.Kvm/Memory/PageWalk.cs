using Lodge.Engine.Kvm.Interop;
using Lodge.Engine.Memory;

namespace Lodge.Engine.Kvm.Memory;

/// <summary>Page tables as a debugger reads them: no permissions, and no accessed bits set (Intel SDM vol. 3, 4.3 to 4.5). KVM_TRANSLATE sets them.</summary>
internal static class PageWalk
{
    private const ulong Present = 1, LargePage = 1 << 7, AddressMask = 0x000F_FFFF_FFFF_F000;
    private const ulong Paging = 1UL << 31, PageSizeExtension = 1 << 4, PhysicalAddressExtension = 1 << 5, FiveLevels = 1 << 12, LongModeActive = 1 << 10;

    /// <summary>Translates a linear address. False when it is not mapped, or a table lies outside RAM.</summary>
    public static bool TryTranslate(GuestMemory memory, in KvmSregs registers, ulong linear, out ulong physical)
    {
        if ((registers.Cr0 & Paging) == 0)
        {
            physical = (uint)linear;
            return true;
        }
        if ((registers.Cr4 & PhysicalAddressExtension) == 0)
        {
            return TwoLevels(memory, registers, (uint)linear, out physical);
        }
        physical = 0;
        ulong table;
        int level;
        if ((registers.Efer & LongModeActive) != 0)
        {
            level = (registers.Cr4 & FiveLevels) != 0 ? 5 : 4;
            int unused = 64 - (level * 9) - 12;
            if ((ulong)((long)(linear << unused) >> unused) != linear)
            {
                return false;
            }
            table = registers.Cr3 & AddressMask;
        }
        else
        {
            linear = (uint)linear;
            if (!memory.TryRead((registers.Cr3 & 0xFFFF_FFE0) + ((linear >> 30) * 8), out ulong pointer) || (pointer & Present) == 0)
            {
                return false;
            }
            table = pointer & AddressMask;
            level = 2;
        }
        for (; level > 0; level--)
        {
            int shift = 12 + ((level - 1) * 9);
            if (!memory.TryRead(table + (((linear >> shift) & 511) * 8), out ulong entry) || (entry & Present) == 0)
            {
                return false;
            }
            ulong offset = (1UL << shift) - 1;
            if (level == 1 || (level <= 3 && (entry & LargePage) != 0))
            {
                physical = (entry & AddressMask & ~offset) | (linear & offset);
                return true;
            }
            table = entry & AddressMask;
        }
        return false;
    }

    private static bool TwoLevels(GuestMemory memory, in KvmSregs registers, uint linear, out ulong physical)
    {
        physical = 0;
        if (!memory.TryRead((registers.Cr3 & 0xFFFF_F000) + ((linear >> 22) * 4), out uint directory) || (directory & Present) == 0)
        {
            return false;
        }
        if ((directory & LargePage) != 0 && (registers.Cr4 & PageSizeExtension) != 0)
        {
            // Bits 13 to 20 are address bits 32 to 39 (PSE-36).
            physical = (directory & 0xFFC0_0000) | ((ulong)((directory >> 13) & 0xFF) << 32) | (linear & 0x3F_FFFF);
            return true;
        }
        if (!memory.TryRead((directory & 0xFFFF_F000) + (((linear >> 12) & 1023) * 4), out uint entry) || (entry & Present) == 0)
        {
            return false;
        }
        physical = (entry & 0xFFFF_F000) | (linear & 0xFFF);
        return true;
    }
}
