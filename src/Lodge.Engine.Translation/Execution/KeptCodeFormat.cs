using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Lodge.Engine.Translation.Execution;

/// <summary>
/// The file of kept code: this header, then the data of each block, the records of the blocks, a hash table of their numbers, and the flag recipes. Little-endian. A build of Lodge reads its own
/// files only: neither the emitted code nor the fields of <c>ProcessorBlock</c> are the same in two builds, and who keeps the file sees to that.
/// </summary>
[StructLayout(LayoutKind.Sequential, Pack = 8)]
internal struct KeptCodeHeader
{
    /// <summary>"LODGECOD".</summary>
    public const ulong ExpectedMagic = 0x444F_4345_4744_4F4C;

    /// <summary>This version of the form.</summary>
    public const uint CurrentVersion = 1;

    /// <summary><see cref="ExpectedMagic"/>.</summary>
    public ulong Magic;

    /// <summary><see cref="CurrentVersion"/>.</summary>
    public uint Version;

    /// <summary>Bytes of fixed code before the first block: displacements to it are right only where it is as long.</summary>
    public uint BlockStart;

    /// <summary>Where the data ends and the records begin.</summary>
    public long Records;

    /// <summary>Where the table begins: numbers of records plus one, 0 where there is none.</summary>
    public long Table;

    /// <summary>Where the recipes begin.</summary>
    public long Recipes;

    /// <summary>Number of records.</summary>
    public uint RecordCount;

    /// <summary>Places of the table, a power of two larger than the number of records.</summary>
    public uint TableSize;

    /// <summary>Number of recipes; number 0 is not used.</summary>
    public uint RecipeCount;

    /// <summary>CRC-32C of all before.</summary>
    public uint Checksum;
}

/// <summary>A block in the file.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 8)]
internal struct KeptBlock
{
    /// <summary><see cref="Block.Physical"/>.</summary>
    public ulong Physical;

    /// <summary><see cref="Block.Rip"/>.</summary>
    public ulong Rip;

    /// <summary>Where its data begins: exits, map, recipes, fixups, code, and the guest's code that it was made of.</summary>
    public long Data;

    /// <summary><see cref="Block.Mode"/>.</summary>
    public uint Mode;

    /// <summary>Where its code stood, from the begin of the code memory.</summary>
    public uint Place;

    /// <summary><see cref="Block.EntryChanges"/>.</summary>
    public uint EntryChanges;

    /// <summary>CRC-32C of the record with 0 here, and of its data.</summary>
    public uint Checksum;

    /// <summary>Bytes of code.</summary>
    public ushort CodeLength;

    /// <summary>From the first byte to <see cref="Block.Entry"/>.</summary>
    public ushort Entry;

    /// <summary><see cref="Block.Length"/>.</summary>
    public ushort GuestLength;

    /// <summary><see cref="Block.Instructions"/>.</summary>
    public ushort Instructions;

    /// <summary>Numbers of <see cref="Block.Map"/>.</summary>
    public ushort MapCount;

    /// <summary>Numbers of <see cref="Block.Recipes"/>.</summary>
    public ushort RecipeCount;

    /// <summary>Numbers of <see cref="Block.Fixups"/>.</summary>
    public ushort FixupCount;

    /// <summary>Number of <see cref="KeptExit"/>.</summary>
    public ushort ExitCount;

    /// <summary><see cref="Block.FlagsIn"/>.</summary>
    public FlagState FlagsIn;

    /// <summary>Whether <see cref="Block.EntryDead"/>, and so on: 0 or 1.</summary>
    public byte EntryDead, EntryObserved, PrefersPacked, ChecksAlone;

    /// <summary>0: without it the last bytes of a copy are whatever they are.</summary>
    public byte Reserved0, Reserved1, Reserved2;

    /// <summary>Bytes of its data.</summary>
    public readonly int DataLength => (ExitCount * Unsafe.SizeOf<KeptExit>()) + ((MapCount + RecipeCount + FixupCount) * sizeof(uint)) + CodeLength + GuestLength;
}

/// <summary>A direct exit of a block in the file.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 8)]
internal struct KeptExit
{
    /// <summary><see cref="BlockExit.Target"/>.</summary>
    public ulong Target;

    /// <summary><see cref="BlockExit.Recipe"/>.</summary>
    public int Recipe;

    /// <summary>From the first byte of code to <see cref="BlockExit.Displacement"/>.</summary>
    public ushort Displacement;

    /// <summary>From the first byte of code to <see cref="BlockExit.Cold"/>.</summary>
    public ushort Cold;

    /// <summary><see cref="BlockExit.Flags"/>.</summary>
    public FlagState Flags;

    /// <summary>Whether <see cref="BlockExit.RecipeLeft"/>, and so on: 0 or 1.</summary>
    public byte RecipeLeft, Back, InterruptShadow, SamePage;

    /// <summary>Whether it was taken: the block that it leads to ran too.</summary>
    public byte Taken;

    /// <summary>0.</summary>
    public byte Reserved0, Reserved1;
}

/// <summary>A flag recipe in the file.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 8)]
internal struct KeptRecipe
{
    /// <summary><see cref="FlagRecipe.Immediate"/>.</summary>
    public ulong Immediate;

    /// <summary><see cref="FlagRecipe.Operation"/>.</summary>
    public FlagOperation Operation;

    /// <summary>The other fields of <see cref="FlagRecipe"/>.</summary>
    public byte Size, Left;

    /// <inheritdoc cref="Size"/>
    public sbyte Right;

    /// <summary>0.</summary>
    public uint Reserved;
}

/// <summary>What reader and writer of kept code compute alike.</summary>
internal static class KeptCodeSums
{
    /// <summary>Place in a table of a power of two places where the search for a block begins.</summary>
    public static uint PlaceOf(in BlockKey key, uint size) => (uint)key.GetHashCode() & (size - 1);

    /// <summary>CRC-32C, continued.</summary>
    public static uint Crc(uint crc, ReadOnlySpan<byte> data)
    {
        int whole = data.Length & ~7;
        foreach (ulong word in MemoryMarshal.Cast<byte, ulong>(data[..whole]))
        {
            crc = BitOperations.Crc32C(crc, word);
        }
        foreach (byte b in data[whole..])
        {
            crc = BitOperations.Crc32C(crc, b);
        }
        return crc;
    }

    /// <summary>CRC-32C of a record and its data.</summary>
    public static uint Of(KeptBlock record, ReadOnlySpan<byte> data)
    {
        record.Checksum = 0;
        return ~Crc(Crc(uint.MaxValue, MemoryMarshal.AsBytes(new ReadOnlySpan<KeptBlock>(in record))), data);
    }

    /// <summary>CRC-32C of a header.</summary>
    public static uint Of(in KeptCodeHeader header) => ~Crc(uint.MaxValue, MemoryMarshal.AsBytes(new ReadOnlySpan<KeptCodeHeader>(in header))[..^sizeof(uint)]);
}
