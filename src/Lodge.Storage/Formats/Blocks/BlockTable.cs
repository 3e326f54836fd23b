using System.Buffers.Binary;
using Lodge.Storage.Disks;
using Lodge.Storage.Files;

namespace Lodge.Storage.Formats.Blocks;

/// <summary>What a block of a disk is.</summary>
internal enum BlockKind
{
    /// <summary>Not in this image: the parent's content, or zeroes without one.</summary>
    Absent,

    /// <summary>Zeroes, without room in the file.</summary>
    Zero,

    /// <summary>All of it is in the file.</summary>
    Data,

    /// <summary>A bitmap tells which sectors are in the file; the others are the parent's.</summary>
    Partial,
}

/// <summary>A block's place.</summary>
/// <param name="Kind">What it is.</param>
/// <param name="Offset">Where its bytes begin in the file, if any are there.</param>
internal readonly record struct BlockEntry(BlockKind Kind, long Offset = 0);

/// <summary>A range of bytes that is to be written into a file.</summary>
internal readonly record struct PendingWrite(long Offset, byte[] Bytes);

/// <summary>
/// A table of whole numbers in an image's file that says where its blocks are, held in memory. Changes stay there until they are taken for writing, page by
/// page. Entries are read without a lock.
/// </summary>
internal sealed class BlockTable
{
    private const int PageLength = 4096;
    private const int LoadLength = 1 << 20;
    private readonly Lock _gate = new();
    private readonly int _width;
    private readonly bool _bigEndian;
    private readonly HashSet<long> _dirty = [];
    private volatile ulong[] _entries;

    /// <summary>A table of entries that are all <paramref name="fill"/>.</summary>
    /// <param name="offset">Its place in the file.</param>
    /// <param name="count">Entries.</param>
    /// <param name="width">Bytes in an entry, 4 or 8.</param>
    /// <param name="bigEndian">The order of an entry's bytes.</param>
    /// <param name="fill">The entries' value.</param>
    public BlockTable(long offset, int count, int width, bool bigEndian, ulong fill)
    {
        Offset = offset;
        _width = width;
        _bigEndian = bigEndian;
        _entries = new ulong[count];
        Array.Fill(_entries, fill);
    }

    /// <summary>Its place in the file.</summary>
    public long Offset { get; private set; }

    /// <summary>Entries.</summary>
    public int Count => _entries.Length;

    /// <summary>Bytes that it takes in the file.</summary>
    public long ByteLength => (long)Count * _width;

    /// <summary>Whether changes wait for being written.</summary>
    public bool IsDirty
    {
        get
        {
            lock (_gate)
            {
                return _dirty.Count != 0;
            }
        }
    }

    /// <summary>An entry.</summary>
    public ulong this[long index] => Volatile.Read(ref _entries[index]);

    /// <summary>Reads all entries from the file; the table must lie inside.</summary>
    public async ValueTask LoadAsync(IStorageFile file, CancellationToken cancellation)
    {
        if (Offset < 0 || Offset > file.Length - ByteLength)
        {
            throw new DiskException(DiskError.Corrupt, $"the table of {Count} blocks at {Offset} reaches beyond the file's end");
        }

        var buffer = new byte[(int)Math.Min(LoadLength, ByteLength)];
        for (long done = 0; done < ByteLength;)
        {
            var part = buffer.AsMemory(0, (int)Math.Min(buffer.Length, ByteLength - done));
            await file.ReadAsync(Offset + done, part, cancellation).ConfigureAwait(false);
            Decode(part.Span, (int)(done / _width));
            done += part.Length;
        }
    }

    /// <summary>Changes an entry, to be written later.</summary>
    public void Set(long index, ulong value)
    {
        lock (_gate)
        {
            Volatile.Write(ref _entries[index], value);
            _dirty.Add(index * _width / PageLength);
        }
    }

    /// <summary>Makes the table longer or shorter, and places it elsewhere where <paramref name="offset"/> is another.</summary>
    public void Reshape(long offset, int count, ulong fill)
    {
        lock (_gate)
        {
            var entries = new ulong[count];
            Array.Fill(entries, fill);
            _entries.AsSpan(0, Math.Min(count, _entries.Length)).CopyTo(entries);
            _entries = entries;
            _dirty.RemoveWhere(page => page * PageLength >= ByteLength);
            if (offset != Offset)
            {
                Offset = offset;
                _dirty.Clear();
            }
        }
    }

    /// <summary>The bytes of an entry.</summary>
    public PendingWrite Encode(long index)
    {
        var bytes = new byte[_width];
        Encode(this[index], bytes);
        return new PendingWrite(Offset + (index * _width), bytes);
    }

    /// <summary>The bytes of a run of entries.</summary>
    public byte[] Encode(int first, int count)
    {
        var bytes = new byte[count * _width];
        for (var index = 0; index < count; index++)
        {
            Encode(this[first + index], bytes.AsSpan(index * _width));
        }

        return bytes;
    }

    /// <summary>The changed pages, neighbours joined, which then count as written.</summary>
    public List<PendingWrite> TakeDirty()
    {
        var writes = new List<PendingWrite>();
        lock (_gate)
        {
            if (_dirty.Count == 0)
            {
                return writes;
            }

            var pages = _dirty.Order().ToArray();
            _dirty.Clear();
            for (int first = 0, next; first < pages.Length; first = next)
            {
                for (next = first + 1; next < pages.Length && pages[next] == pages[first] + next - first && next - first < LoadLength / PageLength; next++)
                {
                }

                var start = pages[first] * PageLength;
                var length = Math.Min((next - first) * (long)PageLength, ByteLength - start);
                writes.Add(new PendingWrite(Offset + start, Encode((int)(start / _width), (int)(length / _width))));
            }
        }

        return writes;
    }

    /// <summary>Takes pages back that could not be written.</summary>
    public void PutBack(List<PendingWrite> writes)
    {
        lock (_gate)
        {
            foreach (var write in writes)
            {
                // Of a table that moved meanwhile, all was written at its new place.
                for (var page = write.Offset < Offset ? long.MaxValue / PageLength : (write.Offset - Offset) / PageLength; page * PageLength < ByteLength && page * PageLength < write.Offset - Offset + write.Bytes.Length; page++)
                {
                    _dirty.Add(page);
                }
            }
        }
    }

    private void Encode(ulong value, Span<byte> bytes)
    {
        if (_width == 8)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        }
        else if (_bigEndian)
        {
            BinaryPrimitives.WriteUInt32BigEndian(bytes, (uint)value);
        }
        else
        {
            BinaryPrimitives.WriteUInt32LittleEndian(bytes, (uint)value);
        }
    }

    private void Decode(ReadOnlySpan<byte> bytes, int first)
    {
        var entries = _entries;
        for (var at = 0; at < bytes.Length; at += _width, first++)
        {
            var entry = bytes[at..];
            entries[first] = _width == 8
                ? BinaryPrimitives.ReadUInt64LittleEndian(entry)
                : _bigEndian ? BinaryPrimitives.ReadUInt32BigEndian(entry) : BinaryPrimitives.ReadUInt32LittleEndian(entry);
        }
    }
}
