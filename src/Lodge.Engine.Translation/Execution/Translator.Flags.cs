using Iced.Intel;
using Lodge.Engine.Translation.Emission;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

// Where the arithmetic flags are. Flags that something in the block reads are in host RFLAGS or packed. Flags that nothing reads are lost at the first
// check of an access when a recipe finds them again at every point where a fault may show them, and packed otherwise.
internal sealed unsafe partial class Translator
{
    private readonly uint[] _written = new uint[MaximumInstructions];
    private readonly FlagEffects[] _effects = new FlagEffects[MaximumInstructions];
    private readonly bool[] _observes = new bool[MaximumInstructions];
    private readonly List<int> _recipes = [];
    private FlagRecipe? _recipe; // of the flags now; null: none, or its inputs have changed
    private bool _fromEntry;
    private bool _stored;

    /// <summary>Liveness, and what the entry expects.</summary>
    private void AnalyzeFlags()
    {
        bool live = true;
        for (int i = _count - 1; i >= 0; i--)
        {
            _liveAfter[i] = live;
            _effects[i] = _steps[i] is Step.Copy or Step.CopyX87 ? InstructionFlags.Of(_instructions[i]) : FlagEffects.None;
            _observes[i] = MayFault(i);
            live = FlagsNeededBefore(i, live);
        }
        _recipes.Clear();
        _recipe = null;
        _stored = false;
        _fromEntry = !live;
        _block.EntryDead = !live;
        if (_block.EntryRecipe > 0)
        {
            _fromEntry = false;
            _recipes.Add(_block.EntryRecipe);
        }
        bool clobbered = false;
        if (!live)
        {
            uint changed = 0;
            for (int k = 0; k < _count; k++)
            {
                clobbered |= Clobbers(k);
                if (_observes[k])
                {
                    _block.EntryObserved = true;
                    _block.EntryChanges = changed;
                }
                if (WritesFlags(k))
                {
                    break;
                }
                changed |= _written[k];
            }
        }
        _block.FlagsIn = live ? PreferredEntry()
            : _block.EntryRecipe == 0 ? FlagState.Packed
            : _block.EntryRecipe > 0 || !_block.EntryObserved ? FlagState.Recipe
            : _block.PrefersPacked ? FlagState.Packed
            : clobbered ? FlagState.Recipe
            : FlagState.Host;
    }

    // Whether the emitted code for the step destroys host RFLAGS before the instruction itself runs.
    private bool Clobbers(int index) => _steps[index] switch
    {
        Step.Nop or Step.Lea or Step.Jump or Step.Conditional or Step.ReadSelector or Step.SwapGs => false,
        Step.Copy => HasMemory(_instructions[index]),
        _ => true,
    };

    // Whether the guest may see the flags before the instruction: it may fault.
    private bool MayFault(int index)
    {
        switch (_steps[index])
        {
            case Step.Nop or Step.Lea or Step.ReadSelector or Step.SwapGs or Step.Cli or Step.Rdtsc:
                return false;
            case Step.Copy:
                ref readonly Instruction i = ref _instructions[index];
                for (int k = 0; k < i.OpCount; k++)
                {
                    if (i.GetOpKind(k) == OpKind.Memory || (i.GetOpKind(k) == OpKind.Register && !i.GetOpRegister(k).IsGPR()))
                    {
                        return true;
                    }
                }
                return false;
            default:
                return true;
        }
    }

    private bool WritesFlags(int index) => (_effects[index] & FlagEffects.Modifies) != 0;

    private static bool HasMemory(in Instruction i) => Reencoder.MemoryOperand(i) >= 0;

    private bool FlagsNeededBefore(int index, bool liveAfter)
    {
        return _steps[index] switch
        {
            Step.Copy or Step.CopyX87 => (_effects[index] & FlagEffects.Uses) != 0 || (liveAfter && (_effects[index] & FlagEffects.Kills) == 0),
            Step.Nop or Step.Lea or Step.ReadSelector or Step.SwapGs or Step.Push or Step.Pop or Step.Leave or Step.Cli or Step.Rdtsc => liveAfter,
            _ => true,
        };
    }

    private FlagState PreferredEntry()
    {
        for (int k = 0; k < _count; k++)
        {
            Step step = _steps[k];
            if (step == Step.Conditional)
            {
                return FlagState.Host;
            }
            if (Clobbers(k))
            {
                return FlagState.Packed;
            }
            if ((_effects[k] & FlagEffects.Uses) != 0)
            {
                return FlagState.Host;
            }
        }
        return FlagState.Host;
    }

    // Whether the recipe of the flags now holds wherever they may be seen, from the current instruction to the one that writes them next.
    private bool RecipeHolds()
    {
        if (_recipe is not { } recipe || _recipes.Count >= FlagSource.Count - FlagSource.FirstRecipe)
        {
            return false;
        }
        uint changed = 0, inputs = recipe.Inputs;
        for (int k = _current; k < _count; k++)
        {
            if ((changed & inputs) != 0 && _observes[k])
            {
                return false;
            }
            if (WritesFlags(k))
            {
                return true;
            }
            changed |= _written[k];
        }
        return false;
    }

    /// <summary>Before code that destroys host flags: packs them when somebody still needs them or nothing else can tell them.</summary>
    private void SecureFlags()
    {
        if (_flags == FlagState.Host)
        {
            if (!FlagsNeededBefore(_current, _liveAfter[_current]) && RecipeHolds())
            {
                _recipes.Add(_cache.RecipeNumber(_recipe!.Value));
                _flags = FlagState.Recipe;
            }
            else
            {
                Stubs.PackFlags(_e, Field.PackedFlags);
                _flags = FlagState.Packed;
            }
        }
        else if (_flags == FlagState.Both)
        {
            _flags = FlagState.Packed;
        }
    }

    private void NeedHostFlags(bool keepR14 = false)
    {
        if (_flags == FlagState.Packed)
        {
            Stubs.UnpackFlags(_e, keepR14);
            _flags = FlagState.Both;
        }
    }

    private void NeedPackedFlags()
    {
        if (_flags == FlagState.Host)
        {
            Stubs.PackFlags(_e, Field.PackedFlags);
            _flags = FlagState.Packed;
        }
        else if (_flags == FlagState.Both)
        {
            _flags = FlagState.Packed;
        }
    }

    /// <summary>Follows the recipe over the instruction that was emitted.</summary>
    private void AdvanceRecipe()
    {
        if (WritesFlags(_current))
        {
            _fromEntry = false;
            _recipe = (_effects[_current] & FlagEffects.Kills) != 0 ? FlagRecipe.Of(_instructions[_current]) ?? ComparesForBranch() : null;
        }
        else if (_recipe is { } recipe && (recipe.Inputs & _written[_current]) != 0)
        {
            _recipe = null;
        }
    }

    private int SourceOf(FlagState state) => state switch
    {
        FlagState.Host => FlagSource.Host,
        FlagState.Recipe => _fromEntry ? FlagSource.Entry : FlagSource.FirstRecipe + _recipes.Count - 1,
        _ => FlagSource.Packed,
    };

    private void Map() => MapTo(_current, SourceOf(_flags));

    private void MapTo(int index, int source) =>
        _map.Add(((uint)(_e.Here - _block.Start) << 16) | ((uint)(_instructions[index].IP - _block.Rip) << 6) | (uint)source);

    /// <summary>
    /// A comparison of registers in front of the branch that ends the block: the recipe is left before both, so that the host fuses the two. Nothing can
    /// be seen in between.
    /// </summary>
    private void LeaveRecipeBeforeBranch()
    {
        if (_current == _count - 2 && _steps[_count - 1] == Step.Conditional && (_effects[_current] & FlagEffects.Kills) != 0 && !_observes[_current] && BranchWantsRecipe()
            && FlagRecipe.Of(_instructions[_current]) is { } recipe)
        {
            Leave(_cache.RecipeNumber(recipe));
        }
    }

    // A comparison with memory in front of the branch that ends the block: the operand stays in R15.
    private FlagRecipe? ComparesForBranch() =>
        _current == _count - 2 && _steps[_count - 1] == Step.Conditional ? FlagRecipe.OfComparisonInMemory(_instructions[_current]) : null;

    private bool BranchWantsRecipe()
    {
        ref readonly Instruction last = ref _instructions[_count - 1];
        return WantsRecipe(last.NearBranchTarget) || WantsRecipe(last.NextIP);
    }

    /// <summary>Before a direct exit: says how the flags are found again, when a block behind it may have to know.</summary>
    private void LeaveRecipe(bool wanted)
    {
        if (!_stored && wanted)
        {
            if (_flags != FlagState.Host)
            {
                Leave(0);
            }
            else if (_recipe is { } recipe)
            {
                if (recipe.NeedsOperand)
                {
                    _e.Store(Host.R15, Field.EntryOperand);
                }
                Leave(_cache.RecipeNumber(recipe));
            }
        }
    }

    private void Leave(int recipe)
    {
        _e.StoreImmediate32(Field.EntryRecipe, recipe);
        if (recipe != 0)
        {
            _e.NoteFixup(FixupKind.Recipe);
        }
        _stored = true;
    }

    private bool WantsRecipe(ulong target)
    {
        bool back = target <= _instructions[_count - 1].IP; // those have variants
        return !back && ((target ^ _block.Rip) & ~0xFFFUL) == 0 && _cache.Known(_block, target) is { } block && block.NeedsRecipe(false);
    }
}
