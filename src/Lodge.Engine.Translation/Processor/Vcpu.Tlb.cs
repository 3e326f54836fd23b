using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Lodge.Engine.Translation.Processor;

/// <summary>Entry of the second-level TLB.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct SecondLevelEntry
{
    /// <summary>Page address, or 1 when empty.</summary>
    public ulong Page;

    /// <summary>Physical page address.</summary>
    public ulong Physical;

    /// <summary>Host address of the page, or null for device memory.</summary>
    public byte* Host;

    /// <summary>Address space (0 for global entries).</summary>
    public uint Context;

    /// <summary><see cref="SecondLevelFlags"/>.</summary>
    public uint Flags;
}

/// <summary>Flags of a second-level entry.</summary>
internal static class SecondLevelFlags
{
    /// <summary>Data may be read. (An entry made by an instruction fetch may lack this.)</summary>
    public const uint Read = 1;

    /// <summary>Data may be written.</summary>
    public const uint Write = 2;

    /// <summary>May be executed.</summary>
    public const uint Execute = 4;

    /// <summary>First bit of the TLB mode (2 bits).</summary>
    public const int ModeShift = 4;
}

/// <summary>
/// The software TLB: a first level that generated code probes (by mode, flushed on address-space switches) and a second level tagged with the address
/// space, so that a CR3 write with PCID forgets nothing. One owner of all invalidation.
/// </summary>
internal sealed unsafe partial class Vcpu
{
    private const int SecondLevelEntries = 8192;
    private readonly SecondLevelEntry* _secondLevel = (SecondLevelEntry*)NativeMemory.AlignedAlloc(SecondLevelEntries * (nuint)sizeof(SecondLevelEntry), 64);
    private readonly uint[] _contextOfPcid = new uint[4096];
    private uint _nextContext = 1;
    private uint _context;
    private readonly byte[] _largePages = new byte[1024]; // 2 MiB regions (hashed) of which a fragment was entered
    private readonly bool[] _nonGlobalInFirstLevel = new bool[ProcessorBlock.TlbModes];
    private readonly ulong[] _jumpPages = new ulong[64];   // pages (hashed) that the jump cache has entries of
    private readonly ulong[] _writable; // pages of RAM that may have a writable entry, a bit each
    private bool _hugePages;                               // a fragment of a 1 GiB page was entered
    private bool _uncachedJumps;                           // the jump cache has supervisor entries of non-global pages

    /// <summary>Counts invalidations of instruction mappings, so that fetch caches notice.</summary>
    internal uint FetchVersion;

    /// <summary>TLB mode of the current privilege: 0 supervisor, 1 user, 2 supervisor with SMAP suspended.</summary>
    internal int TlbMode => (int)(B->Mode & 3);

    /// <summary>Address space number of the current CR3, never 0.</summary>
    internal uint AddressSpace => _context;

    private void InitializeTlb()
    {
        Array.Clear(_contextOfPcid);
        _context = _nextContext++;
        _contextOfPcid[0] = _context;
        ClearSecondLevel();
        ClearFirstLevel();
    }

    /// <summary>Forgets translations of all address spaces, global ones too when asked.</summary>
    internal void TlbFlushAll(bool includeGlobal)
    {
        Array.Clear(_contextOfPcid);
        int pcid = CurrentPcid;
        _contextOfPcid[pcid] = NewContext();
        _context = _contextOfPcid[pcid];
        if (includeGlobal)
        {
            ClearSecondLevel();
            ClearFirstLevel();
            Blocks?.UnlinkGlobal();
            ClearJumpCache();
        }
        AddressSpaceChanged();
    }

    /// <summary>Forgets the non-global translations of one PCID.</summary>
    internal void TlbFlushPcid(int pcid)
    {
        _contextOfPcid[pcid] = 0;
        if (pcid == CurrentPcid)
        {
            _contextOfPcid[pcid] = NewContext();
            _context = _contextOfPcid[pcid];
            AddressSpaceChanged();
        }
    }

    /// <summary>Forgets the translation of one page in a PCID (and global ones).</summary>
    internal void TlbFlushPage(int pcid, ulong linear)
    {
        ulong page = linear & ~0xFFFUL;
        uint context = _contextOfPcid[pcid];
        if (_hugePages || _largePages[(page >> 21) & 1023] != 0)
        {
            int shift = _hugePages ? 30 : 21;
            for (int i = 0; i < SecondLevelEntries; i++)
            {
                SecondLevelEntry* entry = &_secondLevel[i];
                if (entry->Page >> shift == page >> shift && (entry->Context == context || entry->Context == 0))
                {
                    entry->Page = 1;
                }
            }
            ClearFirstLevel();
        }
        else
        {
            for (int mode = 0; mode < ProcessorBlock.TlbModes; mode++)
            {
                SecondLevelEntry* entry = SecondLevel(page, mode);
                if (entry->Page == page && (entry->Context == context || entry->Context == 0))
                {
                    entry->Page = 1;
                }
            }
            int index = (int)(page >> 12) & (ProcessorBlock.TlbEntries - 1);
            for (int mode = 0; mode < ProcessorBlock.TlbModes; mode++)
            {
                ClearEntry(FirstLevel(mode) + index, index);
            }
        }
        FetchVersion++;
        B->InstructionTlb[(int)(page >> 12) & (ProcessorBlock.InstructionTlbEntries - 1)] = 0;
        Blocks?.UnlinkPage(page);
        ClearJumpCachePage(page);
    }

    /// <summary>CR3 was loaded: continue with the address space of a PCID (0 without CR4.PCIDE), forgetting its non-global translations unless told to keep them.</summary>
    internal void TlbSwitch(int pcid, bool keep)
    {
        if (!keep || _contextOfPcid[pcid] == 0)
        {
            _contextOfPcid[pcid] = NewContext();
        }
        _context = _contextOfPcid[pcid];
        AddressSpaceChanged();
    }

    /// <summary>Drops write permission to one page of RAM (it now holds translated code) from both levels.</summary>
    internal void TlbRevokeWrite(byte* hostPage)
    {
        ulong page = (ulong)(hostPage - Memory.HostBase) >> 12;
        if (Comparison is null && (_writable[page >> 6] & (1UL << (int)page)) == 0)
        {
            return;
        }
        _writable[page >> 6] &= ~(1UL << (int)page);
        for (int i = 0; i < SecondLevelEntries; i++)
        {
            if (_secondLevel[i].Host == hostPage)
            {
                _secondLevel[i].Flags &= ~SecondLevelFlags.Write;
            }
        }
        TlbEntry* first = (TlbEntry*)B->Tlb;
        for (int i = 0; i < ProcessorBlock.TlbModes * ProcessorBlock.TlbEntries; i++)
        {
            if ((byte*)first[i].Host == hostPage)
            {
                first[i].WriteTag = InvalidTag(i & (ProcessorBlock.TlbEntries - 1));
            }
        }
    }

    // In a comparison of the tiers: so that the first store to each page takes the slow path.
    private void RevokeFirstLevelWrites()
    {
        TlbEntry* first = (TlbEntry*)B->Tlb;
        for (int i = 0; i < ProcessorBlock.TlbModes * ProcessorBlock.TlbEntries; i++)
        {
            first[i].WriteTag = InvalidTag(i & (ProcessorBlock.TlbEntries - 1));
        }
    }

    /// <summary>Drops all write permissions (another processor made code of some page).</summary>
    internal void TlbRevokeAllWrites()
    {
        for (int i = 0; i < SecondLevelEntries; i++)
        {
            _secondLevel[i].Flags &= ~SecondLevelFlags.Write;
        }
        TlbEntry* first = (TlbEntry*)B->Tlb;
        for (int i = 0; i < ProcessorBlock.TlbModes * ProcessorBlock.TlbEntries; i++)
        {
            first[i].WriteTag = InvalidTag(i & (ProcessorBlock.TlbEntries - 1));
        }
    }

    /// <summary>
    /// Finds or makes the translation of a page for an access of the current privilege. Null on a fault (then <see cref="PendingFault"/> describes it).
    /// </summary>
    internal SecondLevelEntry* TlbLookup(ulong linear, AccessKind access, int mode)
    {
        ulong page = linear & ~0xFFFUL;
        uint wanted = access switch { AccessKind.Read => SecondLevelFlags.Read, AccessKind.Write => SecondLevelFlags.Write, _ => SecondLevelFlags.Execute };
        SecondLevelEntry* entry = SecondLevel(page, mode);
        if (entry->Page == page && (entry->Context == _context || entry->Context == 0) && (entry->Flags >> SecondLevelFlags.ModeShift) == (uint)mode && (entry->Flags & wanted) != 0)
        {
            if (Comparison is not null && access == AccessKind.Write)
            {
                NoteStores(entry->Host);
            }
            return entry;
        }
        if (!TryWalk(linear, access, mode == 1, out PageTranslation walked, out uint errorCode))
        {
            SetPendingFault(Vector.PageFault, errorCode, linear);
            return null;
        }
        uint flags = (entry->Page == page && (entry->Context == _context || entry->Context == 0) && (entry->Flags >> SecondLevelFlags.ModeShift) == (uint)mode
            ? entry->Flags & (SecondLevelFlags.Read | SecondLevelFlags.Write | SecondLevelFlags.Execute) : 0) | ((uint)mode << SecondLevelFlags.ModeShift);
        flags |= access == AccessKind.Execute ? SecondLevelFlags.Execute : SecondLevelFlags.Read;
        if (access == AccessKind.Write || (access == AccessKind.Read && walked.Writable))
        {
            flags |= SecondLevelFlags.Write;
        }
        entry->Page = page;
        entry->Physical = walked.Physical & ~0xFFFUL;
        entry->Host = walked.Host == null ? null : Replaying ? Memory.Pointer(entry->Physical, 1) : walked.Host - (linear & 0xFFF);
        entry->Context = walked.Global ? 0 : _context;
        entry->Flags = flags;
        if ((flags & SecondLevelFlags.Write) != 0 && entry->Host != null && (ulong)(entry->Host - Memory.HostBase) >> 12 is var number && number >> 6 < (ulong)_writable.Length)
        {
            _writable[number >> 6] |= 1UL << (int)number;
        }
        if (walked.PageShift > 21)
        {
            _hugePages |= walked.PageShift == 30;
            _largePages[(page >> 21) & 1023] = 1;
        }
        else if (walked.PageShift > 12)
        {
            _largePages[(page >> 21) & 1023] = 1;
        }
        return entry;
    }

    /// <summary>Enters a translation in the first level of a mode. Pages with code or watchpoints never get a write (or read) tag.</summary>
    internal void TlbEnter(ulong linear, SecondLevelEntry* entry, int mode, bool writable)
    {
        ulong page = linear & ~0xFFFUL;
        int index = (int)(page >> 12) & (ProcessorBlock.TlbEntries - 1);
        TlbEntry* first = FirstLevel(mode) + index;
        if (first->ReadTag != page)
        {
            first->WriteTag = InvalidTag(index);
            first->ReadTag = page;
        }
        if (writable)
        {
            if (Comparison is not null)
            {
                NoteStores(entry->Host);
            }
            first->WriteTag = page;
        }
        first->Host = (ulong)entry->Host;
        first->Delta = (ulong)entry->Host - page;
        _nonGlobalInFirstLevel[mode] |= entry->Context != 0;
    }

    private TlbEntry* FirstLevel(int mode) => (TlbEntry*)B->Tlb + (mode * ProcessorBlock.TlbEntries);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private SecondLevelEntry* SecondLevel(ulong page, int mode) =>
        &_secondLevel[(int)((page >> 12) ^ (page >> 25) ^ ((ulong)mode << 11)) & (SecondLevelEntries - 1)];

    private int CurrentPcid => (B->Cr4 & (1UL << 17)) != 0 ? (int)(B->Cr3 & 0xFFF) : 0;

    // An address whose index is another one, so that no look-up of this slot matches.
    private static ulong InvalidTag(int index) => (ulong)(index ^ 1) << 12;

    private static void ClearEntry(TlbEntry* entry, int index)
    {
        entry->ReadTag = InvalidTag(index);
        entry->WriteTag = InvalidTag(index);
        entry->Host = 0;
    }

    private uint NewContext()
    {
        if (_nextContext == uint.MaxValue)
        {
            ClearSecondLevel();
            Array.Clear(_contextOfPcid);
            _nextContext = 1;
        }
        if ((_nextContext & 0xFFF) == 0)
        {
            ClearJumpCache(); // keys hold 12 bits of the number
        }
        return _nextContext++;
    }

    private void AddressSpaceChanged()
    {
        for (int mode = 0; mode < ProcessorBlock.TlbModes; mode++)
        {
            if (_nonGlobalInFirstLevel[mode])
            {
                ClearFirstLevel(mode);
            }
        }
        FetchVersion++;
        Unsafe.InitBlock(B->InstructionTlb, 0, ProcessorBlock.InstructionTlbEntries * 4);
        if (_uncachedJumps)
        {
            ClearJumpCache();
        }
        ComputeJumpKeys();
    }

    // The top 16 bits, constant in canonical addresses, tell address spaces and modes apart; some low bits spread them over the cache.
    private void ComputeJumpKeys()
    {
        ulong mode = ((B->Mode & ModeBits.Code64) != 0 ? 0UL : 1UL) | ((B->Mode & 3) == 2 ? 2UL : 0UL);
        B->SupervisorJumpKey = mode << 48;
        B->UserJumpKey = ((((ulong)_context & 0xFFF) << 52) | (1UL << 51) | (mode << 48)) ^ ((_context * 0x9E5UL) << 4 & 0xFFF0);
    }

    private void ClearFirstLevel()
    {
        for (int mode = 0; mode < ProcessorBlock.TlbModes; mode++)
        {
            ClearFirstLevel(mode);
        }
    }

    private void ClearFirstLevel(int mode)
    {
        TlbEntry* entries = FirstLevel(mode);
        for (int i = 0; i < ProcessorBlock.TlbEntries; i++)
        {
            ClearEntry(entries++, i);
        }
        _nonGlobalInFirstLevel[mode] = false;
    }

    private void ClearSecondLevel()
    {
        for (int i = 0; i < SecondLevelEntries; i++)
        {
            _secondLevel[i].Page = 1;
        }
        Array.Clear(_largePages);
        _hugePages = false;
    }

    /// <summary>Empties the jump cache: an empty slot leads to the miss stub, whatever address matches it.</summary>
    internal void ClearJumpCache()
    {
        if (Blocks is null)
        {
            return; // a processor that only interprets
        }
        ulong miss = (ulong)Blocks.Stubs.IndirectMiss;
        ulong* cache = B->JumpCache;
        for (int i = 0; i < ProcessorBlock.JumpCacheEntries; i++)
        {
            cache[i * 2] = 0;
            cache[(i * 2) + 1] = miss;
        }
        _uncachedJumps = false;
        Array.Clear(_jumpPages);
    }

    /// <summary>Enters a block in the jump cache.</summary>
    internal void EnterJump(ulong rip, Execution.Block block)
    {
        bool user = (B->Mode & 3) == 1;
        bool crosses = block.SecondPage != ulong.MaxValue;
        bool global = IsGlobalCode(rip) && (!crosses || IsGlobalCode(rip + 0x1000));
        if (!user && !global)
        {
            _uncachedJumps = true;
        }
        if (crosses)
        {
            ulong second = rip + 0x1000; // its mapping counts too
            _jumpPages[(second >> 18) & 63] |= 1UL << (int)((second >> 12) & 63);
        }
        ulong key = rip ^ (user ? B->UserJumpKey : B->SupervisorJumpKey);
        int index = (int)((key >> 6) ^ key) & (ProcessorBlock.JumpCacheEntries - 1);
        B->JumpCache[index * 2] = key;
        B->JumpCache[(index * 2) + 1] = (ulong)Blocks.PackedEntry(block, false);
        _jumpPages[(rip >> 18) & 63] |= 1UL << (int)((rip >> 12) & 63);
    }

    /// <summary>Whether the code at a linear address lies in a global page of RAM.</summary>
    internal bool IsGlobalCode(ulong rip)
    {
        SecondLevelEntry* entry = TlbLookup(rip, AccessKind.Execute, TlbMode);
        return entry != null && entry->Context == 0;
    }

    private void ClearJumpCachePage(ulong page)
    {
        if ((_jumpPages[(page >> 18) & 63] & (1UL << (int)((page >> 12) & 63))) != 0)
        {
            ClearJumpCache();
        }
    }
}
