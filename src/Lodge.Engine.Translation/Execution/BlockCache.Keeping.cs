using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Lodge.Engine.Memory;
using Lodge.Engine.Translation.Emission;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Engine.Translation.Execution;

// Blocks that were kept in a file, and those that are to be.
internal sealed unsafe partial class BlockCache
{
    private readonly List<CodeFixup> _fixups = [];
    private readonly List<(Block Block, nint Record)> _following = [];
    private static ReadOnlySpan<byte> TimestampRead => [0x0F, 0x31];

    private const int InitialBlocks = 1 << 14;
    private int[] _keptRecipes = []; // number of this cache by number of the file; 0: not known yet
    private KeptCode? _kept;

    /// <summary>Whether blocks are made such that they can be kept.</summary>
    public bool Records;

    /// <summary>Blocks taken from the file.</summary>
    public long Adopted;

    /// <summary>Whether blocks come from a file.</summary>
    public bool HasKept => _kept is not null;

    /// <summary>Bytes of fixed code before the first block.</summary>
    public uint BlockStart => (uint)(_blockStart - _memory.Execute);

    /// <summary>Takes blocks from a file from now on.</summary>
    public void Use(KeptCode kept)
    {
        _kept = kept;
        _keptRecipes = new int[kept.RecipeCount];
        _blocks.EnsureCapacity(InitialBlocks);
    }

    /// <summary>Writes the blocks that are valid to a file. Left out are variants of loops, which their loops ask for again, and blocks of two pages.</summary>
    /// <returns>Bytes written.</returns>
    public long Save(SafeFileHandle file)
    {
        if (!Records || _blocks.Count == 0)
        {
            return 0;
        }
        KeptCodeWriter writer = new(file, BlockStart);
        GuestMemory memory = _vcpu.Partition.Options.Memory;
        byte[] data = [];
        // By address: what is of one page of the guest lies together.
        foreach (Block block in _blocks.Values.OrderBy(static b => b.Physical))
        {
            if (block.Fixups is null || block.SecondPage != ulong.MaxValue || !memory.TryGetOffset(block.Physical, (ulong)block.Length, out ulong offset))
            {
                continue;
            }
            KeptBlock record = new()
            {
                Physical = block.Physical,
                Rip = block.Rip,
                Mode = block.Mode,
                Place = (uint)(block.Start - _memory.Execute),
                EntryChanges = block.EntryChanges,
                CodeLength = (ushort)(block.End - block.Start),
                Entry = (ushort)(block.Entry - block.Start),
                GuestLength = (ushort)block.Length,
                Instructions = (ushort)block.Instructions,
                MapCount = (ushort)block.Map.Length,
                RecipeCount = (ushort)block.Recipes.Length,
                FixupCount = (ushort)block.Fixups.Length,
                ExitCount = (ushort)block.ExitCount,
                FlagsIn = block.FlagsIn,
                EntryDead = Bit(block.EntryDead),
                EntryObserved = Bit(block.EntryObserved),
                PrefersPacked = Bit(block.PrefersPacked),
                ChecksAlone = Bit(block.ChecksAlone),
            };
            if (data.Length < record.DataLength)
            {
                data = new byte[record.DataLength * 2];
            }
            Span<byte> exits = data, maps = exits[(block.ExitCount * sizeof(KeptExit))..], rest = maps[((block.Map.Length + block.Recipes.Length + block.Fixups.Length) * sizeof(uint))..];
            MemoryMarshal.AsBytes(block.Map.AsSpan()).CopyTo(maps);
            MemoryMarshal.AsBytes(block.Recipes.AsSpan()).CopyTo(maps[(block.Map.Length * sizeof(uint))..]);
            MemoryMarshal.AsBytes(block.Fixups.AsSpan()).CopyTo(maps[((block.Map.Length + block.Recipes.Length) * sizeof(uint))..]);
            Span<byte> code = rest[..record.CodeLength];
            new ReadOnlySpan<byte>(block.Start, record.CodeLength).CopyTo(code);
            foreach (uint fixup in block.Fixups)
            {
                if ((FixupKind)(fixup & 3) == FixupKind.Exit)
                {
                    Unsafe.As<byte, int>(ref code[(int)(fixup >> 2)]) -= block.FirstExit;
                }
            }
            for (int i = 0; i < block.ExitCount; i++)
            {
                ref readonly BlockExit exit = ref CollectionsMarshal.AsSpan(Exits)[block.FirstExit + i];
                KeptExit kept = new()
                {
                    Target = exit.Target,
                    Recipe = exit.Recipe,
                    Displacement = (ushort)(exit.Displacement - block.Start),
                    Cold = (ushort)(exit.Cold - block.Start),
                    Flags = exit.Flags,
                    RecipeLeft = Bit(exit.RecipeLeft),
                    Back = Bit(exit.Back),
                    InterruptShadow = Bit(exit.InterruptShadow),
                    SamePage = Bit(exit.SamePage),
                    Taken = Bit(exit.Linked is not null),
                };
                MemoryMarshal.Write(exits[(i * sizeof(KeptExit))..], kept);
                Unsafe.WriteUnaligned(ref code[kept.Displacement], kept.Cold - (kept.Displacement + 4));
            }
            new ReadOnlySpan<byte>(memory.HostBase + offset, block.Length).CopyTo(rest[record.CodeLength..]);
            writer.Add(record, data.AsSpan(0, record.DataLength));
        }
        return writer.Complete(CollectionsMarshal.AsSpan(_recipes));
    }

    /// <summary>The block as the file has it, in place and not yet looked up; null when the file does not have it, or it was made of other code than memory holds.</summary>
    private Block? Adopt(ulong rip, ulong physical, byte* hostPage, uint mode, out KeptBlock* record)
    {
        record = null;
        if (_kept is not { } kept || _vcpu.HasBreakpoints)
        {
            return null;
        }
        record = kept.Find(new BlockKey(physical, rip, mode));
        if (record == null || (physical & 0xFFF) + record->GuestLength > 4096 || (record->ChecksAlone == 0 && _checkAlone.Contains((physical, rip))))
        {
            return null;
        }
        // Marked first: no store after the look at it goes unseen.
        _vcpu.Partition.Code.MarkGrains(physical, record->GuestLength);
        ReadOnlySpan<byte> guest = kept.GuestOf(record);
        if (!guest.SequenceEqual(new ReadOnlySpan<byte>(hostPage + (physical & 0xFFF), record->GuestLength)))
        {
            return null;
        }
        if (_vcpu.Comparison is not null && guest.IndexOf(TimestampRead) >= 0)
        {
            return null; // is made in another way then
        }
        byte* start = _at, written = start - _memory.Delta;
        int firstExit = Exits.Count, moved = (int)record->Place - (int)(start - _memory.Execute);
        Span<byte> code = new(written, record->CodeLength);
        kept.CodeOf(record).CopyTo(code);
        foreach (uint fixup in kept.FixupsOf(record))
        {
            ref int value = ref Unsafe.As<byte, int>(ref code.Slice((int)(fixup >> 2), sizeof(int))[0]);
            value = (FixupKind)(fixup & 3) switch
            {
                FixupKind.Stub => value + moved,
                FixupKind.Exit => value + firstExit,
                _ => KeptRecipe(value),
            };
        }
        ReadOnlySpan<int> recipes = kept.RecipesOf(record);
        var block = new Block
        {
            Rip = rip,
            Mode = mode,
            Physical = physical,
            Length = record->GuestLength,
            Instructions = record->Instructions,
            FlagsIn = record->FlagsIn,
            EntryDead = record->EntryDead != 0,
            EntryObserved = record->EntryObserved != 0,
            PrefersPacked = record->PrefersPacked != 0,
            ChecksAlone = record->ChecksAlone != 0,
            EntryChanges = record->EntryChanges,
            Start = start,
            PollEntry = start,
            Entry = start + record->Entry,
            End = start + record->CodeLength,
            Map = kept.MapOf(record).ToArray(),
            Recipes = recipes.Length == 0 ? [] : new int[recipes.Length],
            FirstExit = firstExit,
        };
        for (int i = 0; i < recipes.Length; i++)
        {
            block.Recipes[i] = KeptRecipe(recipes[i]);
        }
        foreach (ref readonly KeptExit exit in kept.ExitsOf(record))
        {
            Exits.Add(new BlockExit
            {
                Source = block,
                Target = exit.Target,
                Displacement = start + exit.Displacement,
                Cold = start + exit.Cold,
                Flags = exit.Flags,
                Recipe = KeptRecipe(exit.Recipe),
                RecipeLeft = exit.RecipeLeft != 0,
                Back = exit.Back != 0,
                InterruptShadow = exit.InterruptShadow != 0,
                SamePage = exit.SamePage != 0,
            });
        }
        Adopted++;
        return block;
    }

    // Blocks of the same page that ran behind a block that was taken from the file are taken with it, and linked: they are not looked for one by one.
    private void AdoptWhatFollows(Block first, KeptBlock* firstRecord, byte* hostPage)
    {
        const int MaximumBlocks = 64;
        if (_vcpu.Comparison is not null)
        {
            return; // which says itself what is linked
        }
        _following.Clear();
        _following.Add((first, (nint)firstRecord));
        for (int i = 0; i < _following.Count; i++)
        {
            (Block block, nint record) = _following[i];
            ReadOnlySpan<KeptExit> exits = _kept!.ExitsOf((KeptBlock*)record);
            for (int k = 0; k < exits.Length; k++)
            {
                if ((exits[k].SamePage & exits[k].Taken) == 0)
                {
                    continue;
                }
                ulong physical = (block.Physical & ~0xFFFUL) | (exits[k].Target & 0xFFF);
                if (!_blocks.TryGetValue(new BlockKey(physical, exits[k].Target, block.Mode), out Block? next))
                {
                    if (_following.Count == MaximumBlocks || _at + BlockReserve > _memory.Execute + Capacity
                        || Adopt(exits[k].Target, physical, hostPage, block.Mode, out KeptBlock* found) is not { } adopted)
                    {
                        continue;
                    }
                    Enter(next = adopted);
                    _following.Add((next, (nint)found));
                }
                if (next.SecondPage == ulong.MaxValue)
                {
                    Link(block.FirstExit + k, next);
                }
            }
        }
    }

    // Number of this cache for a recipe of the file.
    private int KeptRecipe(int number)
    {
        if ((uint)number >= (uint)_keptRecipes.Length || number == 0)
        {
            return 0;
        }
        ref int known = ref _keptRecipes[number];
        return known != 0 ? known : known = RecipeNumber(_kept!.Recipe(number)!.Value);
    }

    // What was noted while a block was emitted, as offsets.
    private uint[] NotedFixups(Block block)
    {
        uint[] fixups = new uint[_fixups.Count];
        for (int i = 0; i < fixups.Length; i++)
        {
            fixups[i] = ((uint)(_fixups[i].At - block.Start) << 2) | (uint)_fixups[i].Kind;
        }
        return fixups;
    }

    private static byte Bit(bool value) => value ? (byte)1 : (byte)0;
}
