using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Engine.Translation.Execution;

/// <summary>Writes a file that <see cref="KeptCode"/> reads.</summary>
/// <param name="file">An empty file.</param>
/// <param name="blockStart">Bytes of fixed code before the first block.</param>
internal sealed class KeptCodeWriter(SafeFileHandle file, uint blockStart)
{
    private const int BufferLength = 1 << 20;
    private readonly byte[] _buffer = new byte[BufferLength];
    private readonly List<KeptBlock> _records = [];
    private long _written = Unsafe.SizeOf<KeptCodeHeader>();
    private int _buffered;

    /// <summary>Adds a block.</summary>
    /// <param name="record">What it is; place and checksum of its data are filled in.</param>
    /// <param name="data">Its data.</param>
    public void Add(KeptBlock record, ReadOnlySpan<byte> data)
    {
        record.Data = _written + _buffered;
        record.Checksum = KeptCodeSums.Of(record, data);
        _records.Add(record);
        Append(data);
        Align();
    }

    /// <summary>Writes the rest.</summary>
    /// <param name="recipes">All recipes, by number.</param>
    /// <returns>Bytes of the file.</returns>
    public long Complete(ReadOnlySpan<FlagRecipe> recipes)
    {
        KeptCodeHeader header = new()
        {
            Magic = KeptCodeHeader.ExpectedMagic,
            Version = KeptCodeHeader.CurrentVersion,
            BlockStart = blockStart,
            RecordCount = (uint)_records.Count,
            RecipeCount = (uint)recipes.Length,
            TableSize = BitOperations.RoundUpToPowerOf2((uint)(_records.Count * 2) + 1),
            Records = _written + _buffered,
        };
        Append(MemoryMarshal.AsBytes(CollectionsMarshal.AsSpan(_records)));
        Align();
        header.Table = _written + _buffered;
        Append(MemoryMarshal.AsBytes<uint>(Table(header.TableSize)));
        Align();
        header.Recipes = _written + _buffered;
        foreach (FlagRecipe recipe in recipes)
        {
            KeptRecipe kept = new() { Operation = recipe.Operation, Size = recipe.Size, Left = recipe.Left, Right = recipe.Right, Immediate = recipe.Immediate };
            Append(MemoryMarshal.AsBytes(new ReadOnlySpan<KeptRecipe>(in kept)));
        }
        Flush();
        header.Checksum = KeptCodeSums.Of(header);
        RandomAccess.Write(file, MemoryMarshal.AsBytes(new ReadOnlySpan<KeptCodeHeader>(in header)), 0);
        return _written;
    }

    private uint[] Table(uint size)
    {
        uint[] table = new uint[size];
        for (int i = 0; i < _records.Count; i++)
        {
            uint place = KeptCodeSums.PlaceOf(new BlockKey(_records[i].Physical, _records[i].Rip, _records[i].Mode), size);
            while (table[place] != 0)
            {
                place = (place + 1) & (size - 1);
            }
            table[place] = (uint)i + 1;
        }
        return table;
    }

    private void Append(ReadOnlySpan<byte> data)
    {
        while (data.Length > BufferLength - _buffered)
        {
            int part = BufferLength - _buffered;
            data[..part].CopyTo(_buffer.AsSpan(_buffered));
            _buffered = BufferLength;
            data = data[part..];
            Flush();
        }
        data.CopyTo(_buffer.AsSpan(_buffered));
        _buffered += data.Length;
    }

    private void Align()
    {
        ReadOnlySpan<byte> zeros = stackalloc byte[8];
        Append(zeros[..(int)(-(_written + _buffered) & 7)]);
    }

    private void Flush()
    {
        RandomAccess.Write(file, _buffer.AsSpan(0, _buffered), _written);
        _written += _buffered;
        _buffered = 0;
    }
}
