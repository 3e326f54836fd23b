using System.Runtime.CompilerServices;

namespace Lodge.Engine.Translation.Processor;

// Paging (Intel SDM vol. 3, chapter 5): none, 32-bit with PSE, PAE, 4-level; NX, WP, SMEP, SMAP, protection keys.
internal sealed unsafe partial class Vcpu
{
    private const ulong EntryPresent = 1, EntryWritable = 2, EntryUser = 4, EntryAccessed = 32, EntryDirty = 64, EntryLarge = 128, EntryGlobal = 256, EntryNoExecute = 1UL << 63;

    private const uint FaultPresent = 1, FaultWrite = 2, FaultUser = 4, FaultReserved = 8, FaultFetch = 16, FaultKey = 32;

    // Attempts to set A and D bits against other processors that keep changing the entry, before the access goes on without.
    private const int MarkAttempts = 64;

    // PAE: the four PDPTEs, loaded with CR3.
    private readonly ulong[] _pdptes = new ulong[4];

    /// <summary>Mask of the address bits of a page-table entry.</summary>
    private ulong PhysicalMask => Model.PageAddressMask;

    /// <summary>Walks the page tables (or passes through without paging), setting accessed and dirty bits atomically. Does not throw.</summary>
    /// <param name="linear">Linear address, canonical; its upper half is ignored outside long mode.</param>
    /// <param name="access">What the access does.</param>
    /// <param name="user">With the rights of CPL 3; false at CPL 3 means an implicit supervisor access.</param>
    /// <param name="translation">The page, when true is returned.</param>
    /// <param name="errorCode">The error code of the page fault, when false is returned.</param>
    internal bool TryWalk(ulong linear, AccessKind access, bool user, out PageTranslation translation, out uint errorCode) =>
        TryWalk(linear, access, user ? AccessRights.User : B->Cpl == 3 ? AccessRights.ImplicitSupervisor : AccessRights.Supervisor, out translation, out errorCode);

    /// <summary>The same with implicit supervisor accesses told apart.</summary>
    internal bool TryWalk(ulong linear, AccessKind access, AccessRights rights, out PageTranslation translation, out uint errorCode)
    {
        Unsafe.SkipInit(out translation);
        errorCode = 0;
        if ((B->Cr0 & Cr0Bits.Pg) == 0)
        {
            translation.Physical = (uint)linear;
            translation.Writable = translation.User = translation.Executable = true;
            translation.Global = false;
            translation.PageShift = 12;
            translation.Host = HostAddress(translation.Physical, access == AccessKind.Write);
            return true;
        }
        for (int attempt = 0; ; attempt++)
        {
            uint fault = Walk(linear, out WalkResult result);
            if (fault == 0)
            {
                fault = CheckPermissions(result, access, rights, ref translation);
            }
            if (fault != 0)
            {
                errorCode = FaultCode(fault, access, rights);
                return false;
            }
            bool store = access == AccessKind.Write;
            bool marked = (result.All & EntryAccessed) != 0 && (!store || (result.Leaf & EntryDirty) != 0);
            if (!marked && !TryMarkUsed(linear, result, store) && attempt < MarkAttempts)
            {
                continue;
            }
            translation.Writable &= store || (result.Leaf & EntryDirty) != 0;
            translation.Global = (result.Leaf & EntryGlobal) != 0 && (B->Cr4 & Cr4Bits.Pge) != 0;
            translation.PageShift = result.Shift;
            translation.Physical = result.Physical;
            translation.Host = HostAddress(result.Physical, store);
            return true;
        }
    }

    /// <summary>Translates with the current tables, without permission checks and without setting accessed or dirty bits, for debuggers.</summary>
    internal bool TryTranslateQuietly(ulong linear, out ulong physical)
    {
        if ((B->Cr0 & Cr0Bits.Pg) == 0)
        {
            physical = (uint)linear;
            return true;
        }
        physical = 0;
        if ((LongModeActive && !IsCanonical(linear)) || Walk(linear, out WalkResult result) != 0)
        {
            return false;
        }
        physical = result.Physical;
        return true;
    }

    /// <summary>Whether bits 63-47 of a linear address are alike.</summary>
    internal static bool IsCanonical(ulong linear) => (ulong)((long)linear << 16 >> 16) == linear;

    /// <summary>Loads the PDPTEs of PAE paging from the table at CR3; false, with nothing loaded, when one has reserved bits set (#GP).</summary>
    internal bool TryLoadPdptes(ulong cr3)
    {
        ulong table = cr3 & 0xFFFF_FFE0;
        ulong reserved = ~(PhysicalMask | 0xE19); // P, PWT, PCD and the ignored bits 11:9 may be set
        Span<ulong> loaded = stackalloc ulong[4];
        for (int i = 0; i < 4; i++)
        {
            loaded[i] = ReadEntry(table + ((ulong)i * 8));
            if ((loaded[i] & EntryPresent) != 0 && (loaded[i] & reserved) != 0)
            {
                return false;
            }
        }
        loaded.CopyTo(_pdptes);
        return true;
    }

    /// <summary>Whether PAE paging (not 4-level) is in use with the given registers.</summary>
    private static bool UsesPdptes(ulong cr0, ulong cr4, ulong efer) =>
        (cr0 & Cr0Bits.Pg) != 0 && (cr4 & Cr4Bits.Pae) != 0 && (efer & EferBits.Lme) == 0;

    private struct WalkResult
    {
        public ulong Physical;
        public ulong Leaf;
        public ulong All;        // AND of all entries
        public ulong LeafAddress;
        public ulong NoExecute;  // OR of the NX bits
        public int Shift;
    }

    // Finds the leaf: 0, FaultPresent with FaultReserved for reserved bits, or NotMapped.
    private const uint NotMapped = 1u << 31;

    private uint Walk(ulong linear, out WalkResult result)
    {
        if ((B->Cr4 & Cr4Bits.Pae) == 0)
        {
            return Walk32((uint)linear, out result);
        }
        Unsafe.SkipInit(out result);
        ulong physicalMask = PhysicalMask;
        ulong reservedAlways = 0x000F_FFFF_FFFF_F000 & ~physicalMask;
        if ((B->Efer & EferBits.Nxe) == 0)
        {
            reservedAlways |= EntryNoExecute;
        }
        ulong table;
        int shift;
        if (LongModeActive)
        {
            table = B->Cr3 & physicalMask;
            shift = 39;
        }
        else
        {
            linear = (uint)linear;
            ulong pdpte = _pdptes[linear >> 30];
            if ((pdpte & EntryPresent) == 0)
            {
                return NotMapped;
            }
            table = pdpte & physicalMask;
            shift = 21;
            reservedAlways |= 0x7FF0_0000_0000_0000;
        }
        ulong all = ~0UL, noExecute = 0;
        while (true)
        {
            ulong address = table + (((linear >> shift) & 0x1FF) << 3);
            ulong entry = ReadEntry(address);
            if ((entry & EntryPresent) == 0)
            {
                return NotMapped;
            }
            all &= entry;
            noExecute |= entry;
            ulong reserved = reservedAlways;
            bool leaf = shift == 12;
            if (!leaf && (entry & EntryLarge) != 0)
            {
                if (shift == 39)
                {
                    reserved |= EntryLarge;
                }
                else
                {
                    leaf = true;
                    reserved |= ((1UL << shift) - 1) & ~0x1FFFUL; // bit 12 is PAT
                }
            }
            if ((entry & reserved) != 0)
            {
                return FaultPresent | FaultReserved;
            }
            if (leaf)
            {
                ulong offset = (1UL << shift) - 1;
                result.Physical = (entry & physicalMask & ~offset) | (linear & offset);
                result.Leaf = entry;
                result.All = all;
                result.LeafAddress = address;
                result.NoExecute = noExecute & EntryNoExecute;
                result.Shift = shift;
                return 0;
            }
            table = entry & physicalMask;
            shift -= 9;
        }
    }

    // 32-bit paging (5.3), with 4 MiB pages and PSE-36.
    private uint Walk32(uint linear, out WalkResult result)
    {
        Unsafe.SkipInit(out result);
        result.NoExecute = 0;
        ulong address = (B->Cr3 & 0xFFFF_F000) + ((linear >> 22) << 2);
        uint directory = ReadEntry32(address);
        if ((directory & EntryPresent) == 0)
        {
            return NotMapped;
        }
        if ((directory & EntryLarge) != 0 && (B->Cr4 & Cr4Bits.Pse) != 0)
        {
            int width = Math.Min(Model.PhysicalBits, 40);
            uint reserved = (1u << 21) | (0x1F_E000 & ~(((1u << (width - 32)) - 1) << 13));
            if ((directory & reserved) != 0)
            {
                return FaultPresent | FaultReserved;
            }
            result.Physical = (directory & 0xFFC0_0000) | ((ulong)((directory >> 13) & 0xFF) << 32) | (linear & 0x3F_FFFF);
            result.Leaf = result.All = directory;
            result.LeafAddress = address;
            result.Shift = 22;
            return 0;
        }
        address = (directory & 0xFFFF_F000) + (((linear >> 12) & 0x3FF) << 2);
        uint page = ReadEntry32(address);
        if ((page & EntryPresent) == 0)
        {
            return NotMapped;
        }
        result.Physical = (page & 0xFFFF_F000) | (linear & 0xFFF);
        result.Leaf = page;
        result.All = page & directory;
        result.LeafAddress = address;
        result.Shift = 12;
        return 0;
    }

    // 5.6 and 5.7: 0 or the fault bits; also what the page permits beyond this access.
    private uint CheckPermissions(in WalkResult result, AccessKind access, AccessRights rights, ref PageTranslation translation)
    {
        bool userPage = (result.All & EntryUser) != 0;
        bool user = rights == AccessRights.User;
        bool readable = user ? userPage : !userPage || (B->Cr4 & Cr4Bits.Smap) == 0 || (rights == AccessRights.Supervisor && (B->SystemFlags & FlagBits.AlignmentCheck) != 0);
        bool writable = readable && ((result.All & EntryWritable) != 0 || (!user && (B->Cr0 & Cr0Bits.Wp) == 0));
        bool executable = result.NoExecute == 0 && (user ? userPage : !userPage || (B->Cr4 & Cr4Bits.Smep) == 0);
        uint key = 0;
        if (userPage && (B->Cr4 & Cr4Bits.Pke) != 0 && LongModeActive)
        {
            uint bits = B->Pkru >> (int)((result.Leaf >> 58) & 0x1E);
            bool noAccess = (bits & 1) != 0;
            bool noWrite = noAccess || ((bits & 2) != 0 && (user || (B->Cr0 & Cr0Bits.Wp) != 0));
            if (noAccess || (noWrite && access == AccessKind.Write))
            {
                key = FaultKey;
            }
            readable &= !noAccess;
            writable &= !noWrite;
        }
        translation.User = userPage;
        translation.Writable = writable;
        translation.Executable = executable;
        return access switch
        {
            AccessKind.Execute => executable ? 0 : FaultPresent,
            AccessKind.Write => writable ? 0 : FaultPresent | key,
            _ => readable ? 0 : FaultPresent | key,
        };
    }

    private uint FaultCode(uint fault, AccessKind access, AccessRights rights)
    {
        uint code = fault & ~NotMapped;
        if (access == AccessKind.Write)
        {
            code |= FaultWrite;
        }
        if (rights == AccessRights.User)
        {
            code |= FaultUser;
        }
        if (access == AccessKind.Execute && ((B->Cr4 & Cr4Bits.Smep) != 0 || ((B->Efer & EferBits.Nxe) != 0 && (B->Cr4 & Cr4Bits.Pae) != 0)))
        {
            code |= FaultFetch;
        }
        return code;
    }

    // Sets A in the entries above the leaf, A and for a store D in the leaf; false when the leaf is no longer what was walked.
    private bool TryMarkUsed(ulong linear, in WalkResult walked, bool store)
    {
        bool narrow = (B->Cr4 & Cr4Bits.Pae) == 0;
        if (narrow)
        {
            if (walked.Shift == 12)
            {
                ulong address = (B->Cr3 & 0xFFFF_F000) + (((uint)linear >> 22) << 2);
                MarkAccessed32(address, ReadEntry32(address));
            }
        }
        else
        {
            ulong table = LongModeActive ? B->Cr3 & PhysicalMask : _pdptes[(uint)linear >> 30] & PhysicalMask;
            for (int shift = LongModeActive ? 39 : 21; shift > walked.Shift; shift -= 9)
            {
                ulong address = table + (((linear >> shift) & 0x1FF) << 3);
                ulong entry = ReadEntry(address);
                if ((entry & EntryPresent) == 0)
                {
                    return false;
                }
                if ((entry & EntryAccessed) == 0 && !TryReplaceEntry(address, entry, entry | EntryAccessed, false))
                {
                    return false;
                }
                table = entry & PhysicalMask;
            }
        }
        ulong marked = walked.Leaf | EntryAccessed | (store ? EntryDirty : 0);
        return marked == walked.Leaf || TryReplaceEntry(walked.LeafAddress, walked.Leaf, marked, narrow);
    }

    private void MarkAccessed32(ulong address, uint entry)
    {
        if ((entry & (EntryPresent | EntryAccessed)) == EntryPresent)
        {
            TryReplaceEntry(address, entry, entry | EntryAccessed, true);
        }
    }

    // True also where there is no RAM: nothing can be marked there.
    private bool TryReplaceEntry(ulong address, ulong old, ulong replacement, bool narrow)
    {
        byte* pointer = Memory.Pointer(address, narrow ? 4u : 8u);
        if (pointer == null)
        {
            return true;
        }
        if (Comparing)
        {
            Comparison!.Shadow.NoteMarked(address);
            pointer = Compared(pointer, true);
        }
        bool done = narrow
            ? Interlocked.CompareExchange(ref *(uint*)pointer, (uint)replacement, (uint)old) == (uint)old
            : Interlocked.CompareExchange(ref *(ulong*)pointer, replacement, old) == old;
        if (done)
        {
            Memory.Written(address, narrow ? 4u : 8u);
        }
        return done;
    }

    // Tables outside RAM read as the bus does where nobody answers: all ones, which has reserved bits set or maps nothing useful. Devices are not asked.
    private ulong ReadEntry(ulong address)
    {
        byte* pointer = Compared(Memory.Pointer(address, 8), false);
        return pointer == null ? ulong.MaxValue : Volatile.Read(ref *(ulong*)pointer);
    }

    private uint ReadEntry32(ulong address)
    {
        byte* pointer = Compared(Memory.Pointer(address, 4), false);
        return pointer == null ? uint.MaxValue : Volatile.Read(ref *(uint*)pointer);
    }

    // The local APIC's page hides RAM under it.
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private byte* HostAddress(ulong physical, bool store) => (physical & ~0xFFFUL) == Apic.MemoryBase ? null : Compared(Memory.Pointer(physical, 1), store);
}
