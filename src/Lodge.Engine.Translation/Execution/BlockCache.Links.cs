using Iced.Intel;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

// How blocks jump to each other, and where flags are moved on the way.
internal sealed unsafe partial class BlockCache
{
    /// <summary>Makes the exit jump straight to the block when that stays right whatever the guest does without invalidating.</summary>
    public void Link(int exit, Block target)
    {
        if (Exits[exit].Linked is not null || !Exits[exit].Source.Valid || !target.Valid || ((target.Mode ^ Exits[exit].Source.Mode) & ~ModeBits.Careful) != 0)
        {
            return;
        }
        bool hot = HotLoop == exit;
        if (hot)
        {
            target = LoopHead(Exits[exit], target);
        }
        ref BlockExit e = ref System.Runtime.InteropServices.CollectionsMarshal.AsSpan(Exits)[exit];
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
        if (hot)
        {
            e.EdgeTarget = null; // not the counting one again
        }
        byte* entry = e.SamePage && target.SecondPage != ulong.MaxValue ? Probe(e) : e.Back && e.SamePage && !hot && target.EntryDead && target.FlagsIn != FlagState.Host ? BackEdge(exit, ref e, target) : EntryFor(target, ref e);
        e.Linked = target;
        target.Incoming.Add(exit);
        _emitter.Begin(_memory, e.Displacement);
        _emitter.Patch(e.Displacement, entry);
    }

    // The head of a loop is translated once more for where the flags are at the backward jump, so that the loop need not say so each time.
    private Block LoopHead(in BlockExit exit, Block block)
    {
        const int MaximumVariants = 4;
        if (!exit.Back || !exit.SamePage || !block.EntryDead || block.SecondPage != ulong.MaxValue)
        {
            return block;
        }
        int recipe = exit.Flags == FlagState.Host && Holds(exit.Recipe, block) ? exit.Recipe : 0;
        if (recipe == 0 && block.FlagsIn == FlagState.Packed)
        {
            return block;
        }
        if (_variants.TryGetValue((block.Key, recipe), out Block? variant))
        {
            return variant;
        }
        SecondLevelEntry* entry = _vcpu.TlbLookup(block.Rip, AccessKind.Execute, (int)(block.Mode & 3));
        if (block.Variants == MaximumVariants || _at + (2 * BlockReserve) > _memory.Execute + Capacity || entry == null || entry->Host == null
            || (entry->Physical | (block.Rip & 0xFFF)) != block.Physical)
        {
            return block;
        }
        block.Variants++;
        variant = Translate(block.Rip, block.Physical, entry->Host, block.Mode, recipe, false);
        // Another processor may have changed the code meanwhile.
        return variant is null || (recipe > 0 && (variant.FlagsIn != FlagState.Recipe || !Holds(recipe, variant))) ? block : variant;
    }

    private bool Holds(int recipe, Block block) => recipe > 0 && (_recipes[recipe].Inputs & block.EntryChanges) == 0;

    // A backward jump that has not been seen often: it says where the flags are. Every so often one is looked at by C#, which makes the loop's variant.
    private byte* BackEdge(int number, ref BlockExit exit, Block block)
    {
        byte* plain = block.PollEntry;
        if (exit.EdgeTarget == plain)
        {
            return exit.Edge;
        }
        _emitter.Begin(_memory, _at);
        exit.Edge = _emitter.Here;
        exit.EdgeTarget = plain;
        bool host = exit.Flags == FlagState.Host, holds = host && block.FlagsIn == FlagState.Recipe && Holds(exit.Recipe, block);
        if (host && !holds)
        {
            Stubs.PackFlags(_emitter, Field.PackedFlags);
        }
        _emitter.StoreImmediate32(Field.EntryRecipe, holds ? exit.Recipe : 0);
        if (holds && _recipes[exit.Recipe].NeedsOperand)
        {
            _emitter.Store(Host.R15, Field.EntryOperand);
        }
        _emitter.SubtractGs32(Field.LoopsLeft, 1);
        byte* often = _emitter.Jump(Cc.S);
        _emitter.JumpTo(plain);
        _emitter.Bind(often);
        _emitter.StoreImmediate64(Field.ExitTarget, number);
        _emitter.StoreImmediate64(Field.ExitInfo, ExitCode.HotLoop);
        _emitter.JumpTo(Stubs.ExitPacked);
        _at = (byte*)(((nint)_emitter.Here + 15) & ~15);
        return exit.Edge;
    }

    /// <summary>Undoes the link of a loop, so that the next link makes a variant of it; says where it leads.</summary>
    public ulong NoteHotLoop(int exit)
    {
        Unlink(exit);
        HotLoop = exit;
        return Exits[exit].Target;
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

    /// <summary>The entry of a block for flags that are packed; makes a converting one when needed.</summary>
    public byte* PackedEntry(Block block, bool poll) =>
        block.FlagsIn == FlagState.Packed || (block.FlagsIn == FlagState.Recipe && !block.NeedsRecipe(poll)) ? poll ? block.PollEntry : block.Entry : Converting(block, false, poll);

    private byte* EntryFor(Block block, ref BlockExit exit)
    {
        byte* plain = exit.Back ? block.PollEntry : block.Entry;
        bool host = exit.Flags == FlagState.Host;
        if (block.FlagsIn != FlagState.Recipe)
        {
            return exit.Flags == FlagState.Both || exit.Flags == block.FlagsIn ? plain : Converting(block, host, exit.Back);
        }
        if (!block.NeedsRecipe(exit.Back))
        {
            return plain;
        }
        if (host && !Holds(exit.Recipe, block))
        {
            return Converting(block, true, exit.Back);
        }
        bool operand = host && block.EntryObserved && _recipes[exit.Recipe].NeedsOperand;
        if (exit.RecipeLeft || (block.EntryRecipe > 0 && !operand))
        {
            return plain; // said already, or what a variant was made for
        }
        if (!host)
        {
            return Converting(block, false, exit.Back);
        }
        if (exit.EdgeTarget != plain)
        {
            _emitter.Begin(_memory, _at);
            exit.Edge = _emitter.Here;
            exit.EdgeTarget = plain;
            if (operand)
            {
                _emitter.Store(Host.R15, Field.EntryOperand);
            }
            if (block.EntryRecipe < 0)
            {
                _emitter.StoreImmediate32(Field.EntryRecipe, exit.Recipe);
            }
            _emitter.JumpTo(plain);
            _at = (byte*)(((nint)_emitter.Here + 15) & ~15);
        }
        return exit.Edge;
    }

    // An entry that moves flags from host RFLAGS or from the processor block to where the block expects them.
    private byte* Converting(Block block, bool host, bool poll)
    {
        ref nint made = ref block.Converting[(poll ? 1 : 0) + (host ? 2 : 0)];
        if (made == 0)
        {
            _emitter.Begin(_memory, _at);
            made = (nint)_emitter.Here;
            if (block.FlagsIn == FlagState.Host)
            {
                Stubs.UnpackFlags(_emitter);
            }
            else if (host)
            {
                Stubs.PackFlags(_emitter, Field.PackedFlags);
            }
            if (block.FlagsIn == FlagState.Recipe)
            {
                _emitter.StoreImmediate32(Field.EntryRecipe, 0);
            }
            _emitter.JumpTo(poll ? block.PollEntry : block.Entry);
            _at = (byte*)(((nint)_emitter.Here + 15) & ~15);
        }
        return (byte*)made;
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
}
