using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Engine.Translation.Execution;

/// <summary>A file of kept code, mapped; all processors of a partition read it. Every place in it that is used is looked at first: damage makes a block unknown, no more.</summary>
internal sealed unsafe partial class KeptCode : IDisposable
{
    private readonly byte* _file;
    private readonly nuint _length;
    private readonly KeptBlock* _records;
    private readonly uint* _table;
    private readonly KeptCodeHeader _header;

    private KeptCode(byte* file, nuint length)
    {
        _file = file;
        _length = length;
        _header = *(KeptCodeHeader*)file;
        _records = (KeptBlock*)(file + _header.Records);
        _table = (uint*)(file + _header.Table);
    }

    /// <summary>Opens such a file; null when it is none, or damaged, or of code memory that is laid out in another way.</summary>
    /// <param name="file">The file; it may be closed afterwards.</param>
    /// <param name="blockStart">Bytes of fixed code before the first block.</param>
    /// <exception cref="IOException">The host refuses.</exception>
    public static KeptCode? TryOpen(SafeFileHandle file, uint blockStart)
    {
        long length = RandomAccess.GetLength(file);
        if (length < Unsafe.SizeOf<KeptCodeHeader>() || length > int.MaxValue)
        {
            return null;
        }
        byte* mapped = (byte*)mmap(null, (nuint)length, 1, 2, file, 0);
        if (mapped == (byte*)-1)
        {
            throw new IOException($"cannot map the file of kept code: error {Marshal.GetLastPInvokeError()}");
        }
        KeptCodeHeader header = *(KeptCodeHeader*)mapped;
        if (header.Magic == KeptCodeHeader.ExpectedMagic && header.Version == KeptCodeHeader.CurrentVersion && header.BlockStart == blockStart && header.Checksum == KeptCodeSums.Of(header)
            && uint.IsPow2(header.TableSize) && header.TableSize > header.RecordCount
            && Lies(header.Records, header.RecordCount, Unsafe.SizeOf<KeptBlock>(), length) && Lies(header.Table, header.TableSize, sizeof(uint), length)
            && Lies(header.Recipes, header.RecipeCount, Unsafe.SizeOf<KeptRecipe>(), length))
        {
            return new KeptCode(mapped, (nuint)length);
        }
        munmap(mapped, (nuint)length);
        return null;
    }

    /// <summary>Number of recipes.</summary>
    public int RecipeCount => (int)_header.RecipeCount;

    /// <summary>Finds a block; null when it is not there, or damaged.</summary>
    public KeptBlock* Find(in BlockKey key)
    {
        uint place = KeptCodeSums.PlaceOf(key, _header.TableSize);
        for (uint looked = 0; looked < _header.TableSize && _table[place] is var number && number != 0; looked++)
        {
            if (number > _header.RecordCount)
            {
                return null;
            }
            KeptBlock* record = _records + (number - 1);
            if (record->Physical == key.Physical && record->Rip == key.Rip && record->Mode == key.Mode)
            {
                return IsWhole(record) ? record : null;
            }
            place = (place + 1) & (_header.TableSize - 1);
        }
        return null;
    }

    /// <summary>Exits of a block that was found.</summary>
    public ReadOnlySpan<KeptExit> ExitsOf(KeptBlock* record) => new(_file + record->Data, record->ExitCount);

    /// <summary>Its <see cref="Block.Map"/>.</summary>
    public ReadOnlySpan<uint> MapOf(KeptBlock* record) => new(_file + record->Data + (record->ExitCount * sizeof(KeptExit)), record->MapCount);

    /// <summary>Its <see cref="Block.Recipes"/>, numbers of this file.</summary>
    public ReadOnlySpan<int> RecipesOf(KeptBlock* record) => new(_file + record->Data + (record->ExitCount * sizeof(KeptExit)) + (record->MapCount * sizeof(uint)), record->RecipeCount);

    /// <summary>Its <see cref="Block.Fixups"/>.</summary>
    public ReadOnlySpan<uint> FixupsOf(KeptBlock* record) =>
        new(_file + record->Data + (record->ExitCount * sizeof(KeptExit)) + ((record->MapCount + record->RecipeCount) * sizeof(uint)), record->FixupCount);

    /// <summary>Its code: exits lead to their cold ends; numbers of exits are counted from its first, those of recipes are of this file.</summary>
    public ReadOnlySpan<byte> CodeOf(KeptBlock* record) => new(_file + record->Data + record->DataLength - record->GuestLength - record->CodeLength, record->CodeLength);

    /// <summary>The guest's code that it was made of.</summary>
    public ReadOnlySpan<byte> GuestOf(KeptBlock* record) => new(_file + record->Data + record->DataLength - record->GuestLength, record->GuestLength);

    /// <summary>A recipe of this file; null when there is none of that number.</summary>
    public FlagRecipe? Recipe(int number)
    {
        if (number <= 0 || number >= RecipeCount)
        {
            return null;
        }
        KeptRecipe kept = ((KeptRecipe*)(_file + _header.Recipes))[number];
        return new FlagRecipe(kept.Operation, kept.Size, kept.Left, kept.Right, kept.Immediate);
    }

    /// <inheritdoc/>
    public void Dispose() => munmap(_file, _length);

    private bool IsWhole(KeptBlock* record) =>
        record->Data >= sizeof(KeptCodeHeader) && (record->Data & 7) == 0 && record->Data <= _header.Records - record->DataLength
        && record->Entry < record->CodeLength && record->MapCount != 0
        && record->Checksum == KeptCodeSums.Of(*record, new ReadOnlySpan<byte>(_file + record->Data, record->DataLength));

    private static bool Lies(long offset, uint count, int size, long length) => offset >= Unsafe.SizeOf<KeptCodeHeader>() && (offset & 7) == 0 && offset <= length - ((long)count * size);

    [LibraryImport("libc", SetLastError = true)]
    private static partial void* mmap(void* address, nuint length, int protection, int flags, SafeFileHandle file, long offset);

    [LibraryImport("libc")]
    private static partial int munmap(void* address, nuint length);
}
