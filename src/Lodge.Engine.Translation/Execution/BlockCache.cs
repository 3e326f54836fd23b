using Iced.Intel;
using Lodge.Engine.Memory;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

/// <summary>
/// The translated code of one processor: look-up by physical address, linking, invalidation, and reuse (when the cache is full everything is dropped:
/// all links lead into it, and hot code is back in milliseconds). Used by the vCPU thread only.
/// </summary>
internal sealed unsafe partial class BlockCache : IDisposable
{
    /// <summary>Bytes of code before everything is dropped.</summary>
    public const int Capacity = 96 << 20;

    private const int ThunkCapacity = 1 << 20, BlockReserve = 256 << 10, StubReserve = 128 << 10;
    private readonly Vcpu _vcpu;
    private readonly CodeMemory _memory;
    private readonly Emitter _emitter = new();
    private readonly Reencoder _reencoder = new();
    private readonly Translator _translator;
    private readonly Dictionary<BlockKey, Block> _blocks = [];
    private readonly Dictionary<(BlockKey Key, int Recipe), Block> _variants = []; // loop heads for one recipe each
    private readonly Dictionary<ulong, List<Block>> _pages = [];
    private readonly List<Block> _byAddress = [];
    private readonly Dictionary<ulong, List<int>> _globalLinks = []; // by target page (linear): links between pages
    private readonly HashSet<(ulong Physical, ulong Rip)> _checkAlone = [];
    private readonly Dictionary<ulong, nint> _thunks = [];
    private readonly List<FlagRecipe> _recipes = [default]; // 0: packed
    private readonly Dictionary<FlagRecipe, int> _recipeNumbers = [];
    private readonly byte* _thunkStart;
    private readonly byte* _blockStart;
    private byte* _thunkAt;
    private byte* _at;

    /// <summary>Direct exits by number.</summary>
    public readonly List<BlockExit> Exits = [];

    /// <summary>Counts invalidations, so that a block interrupted by one is not continued.</summary>
    public uint Generation;

    /// <summary>Backward jumps to blocks that expect a recipe between two such jumps that lead to C#, which makes a variant of the loop.</summary>
    public const int LoopInterval = 64;

    /// <summary>The exit of the loop to make a variant of, or -1.</summary>
    public int HotLoop = -1;

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
    /// <param name="packed">It is reached with packed flags, by a jump that will come often.</param>
    public Block? Find(ulong rip, out bool interpret, bool careful = false, bool packed = false)
    {
        interpret = false;
        if (_at + StubReserve > _memory.Execute + Capacity)
        {
            Flush(); // entries and links made since the last translation have used up the room
        }
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
        if (_blocks.TryGetValue(new BlockKey(physical, rip, mode), out Block? block))
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
        Block? made = Translate(rip, physical, entry->Host, mode, -1, packed);
        interpret = made is null;
        return made;
    }

    private bool SecondPageMatches(Block block, ulong rip, uint mode, out bool fault)
    {
        SecondLevelEntry* second = _vcpu.TlbLookup((rip & ~0xFFFUL) + 0x1000, AccessKind.Execute, (int)(mode & 3));
        fault = second == null;
        return second != null && second->Physical == block.SecondPage;
    }

    private Block? Translate(ulong rip, ulong physical, byte* hostPage, uint mode, int recipe, bool packed)
    {
        if (_at + BlockReserve > _memory.Execute + Capacity)
        {
            Flush();
        }
        PreparePage(physical & ~0xFFFUL);
        KeptBlock* record = null;
        Block? block = recipe < 0 ? Adopt(rip, physical, hostPage, mode, out record) : null;
        if (block is not null)
        {
            Enter(block);
            AdoptWhatFollows(block, record, hostPage);
            return block;
        }
        block = new Block { Rip = rip, Mode = mode, Physical = physical, FirstExit = Exits.Count, EntryRecipe = recipe, PrefersPacked = packed, ChecksAlone = _checkAlone.Contains((physical, rip)) };
        if (!Emit(block, hostPage))
        {
            return null;
        }
        Translated++;
        TranslatedInstructions += block.Instructions;
        Enter(block);
        return block;
    }

    // A block that was put at the end of the code is looked up from now on.
    private void Enter(Block block)
    {
        block.ExitCount = Exits.Count - block.FirstExit;
        _at = (byte*)(((nint)block.End + 15) & ~15);
        if (block.EntryRecipe < 0)
        {
            _blocks[block.Key] = block;
        }
        else
        {
            _variants[(block.Key, block.EntryRecipe)] = block;
        }
        _byAddress.Add(block);
        _pages[block.Physical & ~0xFFFUL].Add(block);
        if (block.SecondPage != ulong.MaxValue)
        {
            _pages[block.SecondPage].Add(block);
        }
    }

    private bool Emit(Block block, byte* hostPage)
    {
        _emitter.Begin(_memory, _at);
        if (!Records)
        {
            return _translator.Translate(_emitter, block, hostPage);
        }
        _fixups.Clear();
        _emitter.Note(_fixups, _blockStart);
        bool done = _translator.Translate(_emitter, block, hostPage);
        _emitter.Note(null);
        block.Fixups = done ? NotedFixups(block) : null;
        return done;
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

    /// <summary>Number of a recipe, for generated code and side tables; valid until everything is dropped.</summary>
    public int RecipeNumber(FlagRecipe recipe)
    {
        if (!_recipeNumbers.TryGetValue(recipe, out int number))
        {
            _recipeNumbers[recipe] = number = _recipes.Count;
            _recipes.Add(recipe);
        }
        return number;
    }

    /// <summary>The recipe that generated code has left in <c>ProcessorBlock.EntryRecipe</c>; null: the flags are packed.</summary>
    public FlagRecipe? EntryRecipe(uint number) => number == 0 ? null : _recipes[(int)number];

    /// <summary>A block that is translated already, in the page and mode of another.</summary>
    public Block? Known(Block source, ulong rip) =>
        _blocks.GetValueOrDefault(new BlockKey((source.Physical & ~0xFFFUL) | (rip & 0xFFF), rip, source.Mode & ~ModeBits.Careful));

    /// <summary>A window of the block at a host address missed. After many misses the block is translated anew without windows.</summary>
    public void NoteWindowMiss(ulong hostPc)
    {
        const int Limit = 64, MaximumRemembered = 1 << 16;
        if (TryLocate(hostPc, out Block? block, out _, out _, out _) && block!.Valid && ++block.WindowMisses == Limit)
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
        _variants.Clear();
        _recipes.RemoveRange(1, _recipes.Count - 1);
        _recipeNumbers.Clear();
        Array.Clear(_keptRecipes);
        Exits.Clear();
        _at = _blockStart;
        Generation++;
        Flushes++;
        _vcpu.ClearJumpCache();
    }

    /// <summary>Bytes of code of blocks.</summary>
    public long Used => _at - _blockStart;

    /// <summary>Drops everything and gives its memory back to the host.</summary>
    public void Trim()
    {
        Flush();
        _pages.TrimExcess();
        _blocks.TrimExcess();
        _byAddress.TrimExcess();
        _globalLinks.TrimExcess();
        _checkAlone.TrimExcess();
        _variants.TrimExcess();
        _recipes.TrimExcess();
        _recipeNumbers.TrimExcess();
        Exits.TrimExcess();
        _memory.Release(_blockStart);
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
        if (block.EntryRecipe < 0)
        {
            _blocks.Remove(block.Key);
        }
        else
        {
            _variants.Remove((block.Key, block.EntryRecipe));
        }
        foreach (int exit in block.Incoming)
        {
            Unlink(exit);
        }
        block.Incoming.Clear();
    }

    /// <summary>The block and guest RIP of a host address in generated code; where the flags are there: packed or in host RFLAGS, or else their recipe.</summary>
    public bool TryLocate(ulong hostPc, out Block? block, out ulong rip, out int source, out FlagRecipe recipe)
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
            (rip, source, recipe) = (0, FlagSource.Packed, default);
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
        rip = block.Rip + ((entry >> 6) & 0x3FF);
        source = (int)(entry & (FlagSource.Count - 1));
        recipe = source >= FlagSource.FirstRecipe ? _recipes[block.Recipes[source - FlagSource.FirstRecipe]] : default;
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
