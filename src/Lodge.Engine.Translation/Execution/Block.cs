using System.Numerics;
using Lodge.Engine.Translation.Processor;

namespace Lodge.Engine.Translation.Execution;

/// <summary>Where the guest's arithmetic flags are at a point of generated code.</summary>
internal enum FlagState : byte
{
    /// <summary>In neither place, since they will be written before they are read: a recipe finds them again when a fault or an interrupt shows them.</summary>
    Recipe,

    /// <summary>In host RFLAGS.</summary>
    Host,

    /// <summary>Packed in the processor block.</summary>
    Packed,

    /// <summary>In both places.</summary>
    Both,
}

/// <summary>By what a block is looked up.</summary>
/// <param name="Physical"><see cref="Block.Physical"/>.</param>
/// <param name="Rip"><see cref="Block.Rip"/>.</param>
/// <param name="Mode"><see cref="Block.Mode"/>.</param>
internal readonly record struct BlockKey(ulong Physical, ulong Rip, uint Mode)
{
    /// <inheritdoc/>
    public bool Equals(BlockKey other) => Physical == other.Physical && Rip == other.Rip && Mode == other.Mode;

    /// <inheritdoc/>
    public override int GetHashCode() => (int)(((Physical ^ BitOperations.RotateLeft(Rip, 29) ^ ((ulong)Mode << 47)) * 0x9E37_79B9_7F4A_7C15) >> 32);
}

/// <summary>A translated basic block.</summary>
internal sealed unsafe class Block
{
    /// <summary>By what it is looked up.</summary>
    public BlockKey Key => new(Physical, Rip, Mode);

    /// <summary>Guest RIP of the first instruction.</summary>
    public ulong Rip;

    /// <summary>Mode that it was translated for.</summary>
    public uint Mode;

    /// <summary>Guest physical address of the first byte.</summary>
    public ulong Physical;

    /// <summary>Guest physical page of the part after a page boundary (single instruction blocks), or ulong.MaxValue.</summary>
    public ulong SecondPage = ulong.MaxValue;

    /// <summary>Bytes of guest code.</summary>
    public int Length;

    /// <summary>Number of guest instructions.</summary>
    public int Instructions;

    /// <summary>What the entry expects: Recipe (in <c>ProcessorBlock.EntryRecipe</c>, when anything can show them), Host or Packed.</summary>
    public FlagState FlagsIn;

    /// <summary>Nothing reads the flags at the entry.</summary>
    public bool EntryDead;

    /// <summary>A fault may show them all the same.</summary>
    public bool EntryObserved;

    /// <summary>It was first reached with packed flags, as after a call or a return: it expects them there when a fault may show them.</summary>
    public bool PrefersPacked;

    /// <summary>The recipe (0: packed) that a variant for a backward jump was made for, -1 for the block that all others reach.</summary>
    public int EntryRecipe = -1;

    /// <summary>Number of variants made of it.</summary>
    public int Variants;

    /// <summary>Registers that change before the last such fault, bit n for register n: a recipe must not need them.</summary>
    public uint EntryChanges;

    /// <summary>Entry.</summary>
    public byte* Entry;

    /// <summary>Entry that polls for exit requests first.</summary>
    public byte* PollEntry;

    /// <summary>Entries that convert flags first; made when needed: [poll ? 1 : 0, and 2 more for flags in host RFLAGS].</summary>
    public readonly nint[] Converting = new nint[4];

    /// <summary>First byte of its code.</summary>
    public byte* Start;

    /// <summary>End of its code.</summary>
    public byte* End;

    /// <summary>For each instruction and each slow path: host offset &lt;&lt; 16 | guest offset &lt;&lt; 6 | <see cref="FlagSource"/>; ascending host offsets.</summary>
    public uint[] Map = [];

    /// <summary>Numbers of the recipes that <see cref="Map"/> refers to.</summary>
    public int[] Recipes = [];

    /// <summary>What has to be changed in its code when it stands elsewhere: offset &lt;&lt; 2 | <see cref="Emission.FixupKind"/>; null: it was not noted.</summary>
    public uint[]? Fixups;

    /// <summary>Exits of other blocks that jump here.</summary>
    public readonly List<int> Incoming = [];

    /// <summary>Its own exits: first number and count.</summary>
    public int FirstExit, ExitCount;

    /// <summary>How often a window of accesses could not be checked as one.</summary>
    public int WindowMisses;

    /// <summary>Translated without windows, since they missed too often (data across a page boundary).</summary>
    public bool ChecksAlone;

    /// <summary>Executions from the run loop, and whether one was compared with T0; counted in a comparison of the tiers only.</summary>
    public long Executions;

    /// <inheritdoc cref="Executions"/>
    public bool Compared;

    /// <summary>Still looked up.</summary>
    public bool Valid = true;

    /// <summary>A jump to it has to say in <c>ProcessorBlock.EntryRecipe</c> where the flags are.</summary>
    public bool NeedsRecipe(bool poll) => FlagsIn == FlagState.Recipe && (EntryObserved || poll);
}

/// <summary>A direct exit of a block.</summary>
internal unsafe struct BlockExit
{
    /// <summary>The block that it leaves.</summary>
    public Block Source;

    /// <summary>Guest RIP that it leads to.</summary>
    public ulong Target;

    /// <summary>The displacement to patch.</summary>
    public byte* Displacement;

    /// <summary>Where it leads while not linked.</summary>
    public byte* Cold;

    /// <summary>Flags at the jump.</summary>
    public FlagState Flags;

    /// <summary>Number of the recipe of flags in host RFLAGS, 0 when there is none.</summary>
    public int Recipe;

    /// <summary>The code before it has set <c>ProcessorBlock.EntryRecipe</c>.</summary>
    public bool RecipeLeft;

    /// <summary>Code that sets it on the way to <see cref="EdgeTarget"/>.</summary>
    public byte* Edge;

    /// <summary>Where <see cref="Edge"/> leads.</summary>
    public byte* EdgeTarget;

    /// <summary>Leads backwards or to the block itself: polls.</summary>
    public bool Back;

    /// <summary>The fall-through of STI: no interrupt may be taken before the next instruction.</summary>
    public bool InterruptShadow;

    /// <summary>Stays in the page of the block.</summary>
    public bool SamePage;

    /// <summary>Where it is linked to.</summary>
    public Block? Linked;
}
