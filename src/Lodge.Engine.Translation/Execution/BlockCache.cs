using Iced.Intel;
using Lodge.Engine.Memory;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

/// <summary>
/// The translated code of one processor: look-up by physical address, linking, invalidation, and reuse (when the cache is full everything is dropped:
/// all links lead into it, and hot code is back in milliseconds). Used by the vCPU thread only.
/// </summary>
internal sealed unsafe class BlockCache : IDisposable
{
    /// <summary>Bytes of code before everything is dropped.</summary>
    public const int Capacity = 96 << 20;

    private const int ThunkCapacity = 1 << 20;
    private readonly Vcpu _vcpu;
    private readonly CodeMemory _memory;
    private readonly Emitter _emitter = new();
    private readonly Reencoder _reencoder = new();
    private readonly Translator _translator;
    private readonly Dictionary<(ulong Physical, ulong Rip, uint Mode), Block> _blocks = [];
    private readonly Dictionary<ulong, List<Block>> _pages = [];
    private readonly List<Block> _byAddress = [];
    private readonly Dictionary<ulong, List<int>> _globalLinks = []; // by target page (linear): links between pages
    private readonly HashSet<(ulong Physical, ulong Rip)> _checkAlone = [];
    private readonly Dictionary<ulong, nint> _thunks = [];
    private readonly byte* _thunkStart;
    private readonly byte* _blockStart;
    private byte* _thunkAt;
    private byte* _at;

    /// <summary>Direct exits by number.</summary>
    public readonly List<BlockExit> Exits = [];

    /// <summary>Counts invalidations, so that a block interrupted by one is not continued.</summary>
    public uint Generation;

    /// <summary>Blocks translated, blocks invalidated, caches dropped.</summary>
    public long Translated, Invalidated, Flushes, TranslatedInstructions;

    public BlockCache(Vcpu vcpu, delegate* unmanaged<ProcessorBlock*, ulong, uint, ulong, ulong> slowAccess, delegate* unmanaged<ProcessorBlock*, uint, ulong> interpret)
    {
        _vcpu = vcpu;
        _memory = new CodeMemory(Capacity);
        Stubs = new Stubs(_memory, slowAccess, interpret);
        _thunkStart = _thunkAt = Stubs.End;
        _blockStart = _at = _thunkStart + ThunkCapacity;
        _translator = new Translator(vcpu, this, _reencoder);
    }

    /// <summary>The fixed code.</summary>
    public Stubs Stubs { get; }

    /// <summary>
    /// Finds or translates the block at RIP of the current mode. Null with <see cref="Vcpu.PendingFault"/> set when the fetch faults; null with
    /// <paramref name="interpret"/> when it must be interpreted.
    /// </summary>
    public Block? Find(ulong rip, out bool interpret, bool careful = false)
    {
        interpret = false;
        uint mode = _vcpu.B->Mode | (careful ? ModeBits.Careful : 0);
        if ((mode & ModeBits.Code64) != 0 && (ulong)((long)(rip << 16) >> 16) != rip)
        {
            interpret = true;
            return null;
        }
        if (_vcpu.BreaksAt(rip))
        {
            interpret = true; // where the stop is made
            return null;
        }
        SecondLevelEntry* entry = _vcpu.TlbLookup(rip, AccessKind.Execute, (int)(mode & 3));
        if (entry == null)
        {
            return null;
        }
        if (entry->Host == null)
        {
            interpret = true;
            return null;
        }
        ulong physical = entry->Physical | (rip & 0xFFF);
        if (_blocks.TryGetValue((physical, rip, mode), out Block? block))
        {
            if (block.SecondPage != ulong.MaxValue && !SecondPageMatches(block, rip, mode, out bool fault))
            {
                if (fault)
                {
                    interpret = true;
                    return null;
                }
                Remove(block);
                _vcpu.ClearJumpCache();
            }
            else
            {
                return block;
            }
        }
        return Translate(rip, physical, entry->Host, entry->Context == 0, mode, out interpret);
    }

    private bool SecondPageMatches(Block block, ulong rip, uint mode, out bool fault)
    {
        SecondLevelEntry* second = _vcpu.TlbLookup((rip & ~0xFFFUL) + 0x1000, AccessKind.Execute, (int)(mode & 3));
        fault = second == null;
        return second != null && second->Physical == block.SecondPage;
    }

    private Block? Translate(ulong rip, ulong physical, byte* hostPage, bool global, uint mode, out bool interpret)
    {
        interpret = false;
        if (_at + (256 << 10) > _memory.Execute + Capacity)
        {
            Flush();
        }
        PreparePage(physical & ~0xFFFUL);
        _emitter.Begin(_memory, _at);
        int firstExit = Exits.Count;
        var block = new Block { Rip = rip, Mode = mode, Physical = physical, FirstExit = firstExit, ChecksAlone = _checkAlone.Contains((physical, rip)) };
        if (!_translator.Translate(_emitter, block, hostPage))
        {
            interpret = true;
            return null;
        }
        block.ExitCount = Exits.Count - firstExit;
        _at = (byte*)(((nint)block.End + 15) & ~15);
        _blocks[(physical, rip, mode)] = block;
        _byAddress.Add(block);
        _pages[physical & ~0xFFFUL].Add(block);
        if (block.SecondPage != ulong.MaxValue)
        {
            _pages[block.SecondPage].Add(block);
        }
        Translated++;
        TranslatedInstructions += block.Instructions;
        return block;
    }

    /// <summary>Before any byte of a page is read for translation: stores to it are seen from now on.</summary>
    public void PreparePage(ulong page)
    {
        if (!_pages.ContainsKey(page))
        {
            _pages[page] = [];
            _vcpu.Partition.Code.Hold(page);
        }
        _vcpu.Partition.Code.Mark(_vcpu, page);
    }

    /// <summary>Makes the exit jump straight to the block when that stays right whatever the guest does without invalidating.</summary>
    public void Link(int exit, Block target)
    {
        ref BlockExit e = ref System.Runtime.InteropServices.CollectionsMarshal.AsSpan(Exits)[exit];
        if (e.Linked is not null || !e.Source.Valid || !target.Valid || ((target.Mode ^ e.Source.Mode) & ~ModeBits.Careful) != 0)
        {
            return;
        }
        if (!e.SamePage)
        {
            // Between pages only while both are global: those mappings change by explicit invalidation alone.
            if (!_vcpu.IsGlobalCode(target.Rip) || (target.SecondPage != ulong.MaxValue && !_vcpu.IsGlobalCode(target.Rip + 0x1000)))
            {
                return;
            }
            AddGlobalLink(target.Rip & ~0xFFFUL, exit);
            if (target.SecondPage != ulong.MaxValue)
            {
                AddGlobalLink((target.Rip & ~0xFFFUL) + 0x1000, exit);
            }
        }
        else if (e.InterruptShadow && target.SecondPage != ulong.MaxValue)
        {
            return; // the jump cache polls, which must not happen behind STI
        }
        byte* entry = e.SamePage && target.SecondPage != ulong.MaxValue ? Probe(e) : EntryFor(target, e.Flags, e.Back);
        e.Linked = target;
        target.Incoming.Add(exit);
        _emitter.Begin(_memory, e.Displacement);
        _emitter.Patch(e.Displacement, entry);
    }

    // A block that crosses into a page whose mapping may change is reached through the jump cache, which forgets it when the mapping does.
    private byte* Probe(in BlockExit exit)
    {
        _emitter.Begin(_memory, _at);
        byte* start = _emitter.Here;
        _translator.EmitProbe(_emitter, exit.Source.Mode, exit.Target, exit.Flags);
        _at = (byte*)(((nint)_emitter.Here + 15) & ~15);
        return start;
    }

    private void AddGlobalLink(ulong page, int exit)
    {
        if (!_globalLinks.TryGetValue(page, out List<int>? list))
        {
            _globalLinks[page] = list = [];
        }
        list.Add(exit);
    }

    /// <summary>The entry of a block for the given place of the flags; makes a converting one when needed.</summary>
    public byte* EntryFor(Block block, FlagState state, bool poll)
    {
        byte* entry = block.EntryFor(state, poll);
        if (entry == null)
        {
            _emitter.Begin(_memory, _at);
            entry = _emitter.Here;
            if (block.FlagsIn == FlagState.Host)
            {
                Stubs.UnpackFlags(_emitter);
            }
            else
            {
                Stubs.PackFlags(_emitter, Field.PackedFlags);
            }
            _emitter.JumpTo(poll ? block.PollEntry : block.Entry);
            _at = (byte*)(((nint)_emitter.Here + 15) & ~15);
            block.Converting[poll ? 1 : 0] = (nint)entry;
        }
        return entry;
    }

    /// <summary>A window of the block at a host address missed. After many misses the block is translated anew without windows.</summary>
    public void NoteWindowMiss(ulong hostPc)
    {
        const int Limit = 64, MaximumRemembered = 1 << 16;
        if (TryLocate(hostPc, out Block? block, out _, out _) && block!.Valid && ++block.WindowMisses == Limit)
        {
            if (_checkAlone.Count >= MaximumRemembered)
            {
                _checkAlone.Clear();
            }
            _checkAlone.Add((block.Physical, block.Rip));
            Remove(block);
            _vcpu.ClearJumpCache();
        }
    }

    /// <summary>Unlinks what jumps to a page by its linear address (INVLPG of a global page).</summary>
    public void UnlinkPage(ulong page)
    {
        if (_globalLinks.Remove(page, out List<int>? list))
        {
            foreach (int exit in list)
            {
                Unlink(exit);
            }
        }
    }

    /// <summary>Unlinks everything between pages.</summary>
    public void UnlinkGlobal()
    {
        foreach (List<int> list in _globalLinks.Values)
        {
            foreach (int exit in list)
            {
                Unlink(exit);
            }
        }
        _globalLinks.Clear();
    }

    /// <summary>Drops all blocks of a physical page.</summary>
    public void InvalidatePage(ulong page)
    {
        if (!_pages.Remove(page, out List<Block>? list))
        {
            return;
        }
        foreach (Block block in list)
        {
            Remove(block);
        }
        _vcpu.ClearJumpCache();
        _vcpu.Partition.Code.Release(page);
    }

    /// <summary>Drops everything.</summary>
    public void Flush()
    {
        foreach (ulong page in _pages.Keys)
        {
            _vcpu.Partition.Code.Release(page);
        }
        _pages.Clear();
        _blocks.Clear();
        _byAddress.Clear();
        _globalLinks.Clear();
        _checkAlone.Clear();
        Exits.Clear();
        _at = _blockStart;
        Generation++;
        Flushes++;
        _vcpu.ClearJumpCache();
    }

    private void Remove(Block block)
    {
        if (!block.Valid)
        {
            return;
        }
        block.Valid = false;
        Invalidated++;
        Generation++;
        _blocks.Remove((block.Physical, block.Rip, block.Mode));
        foreach (int exit in block.Incoming)
        {
            Unlink(exit);
        }
        block.Incoming.Clear();
    }

    private void Unlink(int exit)
    {
        ref BlockExit e = ref System.Runtime.InteropServices.CollectionsMarshal.AsSpan(Exits)[exit];
        if (e.Linked is not null)
        {
            e.Linked = null;
            _emitter.Begin(_memory, e.Displacement);
            _emitter.Patch(e.Displacement, e.Cold);
        }
    }

    /// <summary>The block and guest RIP of a host address in generated code; whether the flags were in host RFLAGS there.</summary>
    public bool TryLocate(ulong hostPc, out Block? block, out ulong rip, out bool flagsInHost)
    {
        int low = 0, high = _byAddress.Count - 1;
        while (low <= high)
        {
            int middle = (low + high) / 2;
            if ((ulong)_byAddress[middle].Start <= hostPc)
            {
                low = middle + 1;
            }
            else
            {
                high = middle - 1;
            }
        }
        block = high >= 0 ? _byAddress[high] : null;
        if (block is null || hostPc > (ulong)block.End)
        {
            (rip, flagsInHost) = (0, false);
            return false;
        }
        uint offset = (uint)(hostPc - (ulong)block.Start);
        uint[] map = block.Map;
        int a = 0, b = map.Length - 1;
        while (a <= b)
        {
            int middle = (a + b) / 2;
            if (map[middle] >> 16 <= offset)
            {
                a = middle + 1;
            }
            else
            {
                b = middle - 1;
            }
        }
        uint entry = map[Math.Max(b, 0)];
        rip = block.Rip + ((entry >> 1) & 0x7FFF);
        flagsInHost = (entry & 1) != 0;
        return true;
    }

    /// <summary>Code that executes one copied instruction on the state in the processor block (T0).</summary>
    public byte* Thunk(in Instruction instruction, bool x87, bool bitString)
    {
        if (_thunkAt + 1024 > _thunkStart + ThunkCapacity)
        {
            _thunkAt = _thunkStart;
            _thunks.Clear();
        }
        _emitter.Begin(_memory, _thunkAt);
        byte* start = _emitter.Here;
        if (x87)
        {
            _emitter.CompareGs32(Field.X87Loaded, 0);
            byte* loaded = _emitter.Jump(Cc.Ne);
            _emitter.Call(Stubs.LoadX87);
            _emitter.Bind(loaded);
        }
        if (bitString)
        {
            Reencoder.LoadBitOffset(_emitter, instruction);
        }
        Stubs.UnpackFlags(_emitter);
        if (Reencoder.MemoryOperand(instruction) >= 0)
        {
            _emitter.Load(Host.R14, Field.Scratch2);
        }
        _reencoder.Emit(_emitter, instruction, bitString);
        Stubs.PackFlags(_emitter, Field.PackedFlags);
        _emitter.StoreImmediate64(Field.ExitInfo, ExitCode.Resume);
        // An absolute jump keeps equal thunks byte-identical wherever they lie.
        _emitter.MovImmediate(Host.R14, (ulong)Stubs.ExitPacked);
        _emitter.Byte(0x41);
        _emitter.Byte(0xFF);
        _emitter.Byte(0xE6);
        int length = (int)(_emitter.Here - start);
        var code = new ReadOnlySpan<byte>(start, length);
        var hash = new HashCode();
        hash.AddBytes(code);
        ulong key = (ulong)(uint)hash.ToHashCode() | ((ulong)length << 32);
        if (!x87 && _thunks.TryGetValue(key, out nint known) && new ReadOnlySpan<byte>((byte*)known, length).SequenceEqual(code))
        {
            return (byte*)known;
        }
        _thunks[key] = (nint)start;
        _thunkAt = (byte*)(((nint)_emitter.Here + 15) & ~15);
        return start;
    }

    /// <inheritdoc/>
    public void Dispose() => _memory.Dispose();
}
