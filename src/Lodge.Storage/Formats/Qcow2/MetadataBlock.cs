using System.Buffers.Binary;
using System.Numerics;
using System.Runtime.CompilerServices;

namespace Lodge.Storage.Formats.Qcow2;

/// <summary>Bytes of a metadata structure that are to be written, copied at one moment.</summary>
internal readonly record struct MetadataWrite(MetadataBlock Block, int Start, byte[] Bytes)
{
    public long Offset => Block.Offset + Start;
}

/// <summary>
/// A metadata structure in memory: a table or a refcount block, big endian as in the file. Words are read without a lock; changes and <see cref="TakeDirty"/>
/// happen under the lock of the metadata. Remembers which sectors differ from the file.
/// </summary>
internal sealed class MetadataBlock(long index, long offset, byte[] bytes)
{
    private const int SectorBits = 9;
    private readonly ulong[] _dirty = new ulong[((bytes.Length >> SectorBits) / 64) + 1];

    /// <summary>Which one it is of its kind.</summary>
    public long Index { get; } = index;

    /// <summary>Where it stands in the file, in bytes.</summary>
    public long Offset { get; set; } = offset;

    public byte[] Bytes { get; } = bytes;

    /// <summary>Nothing in the file points to it yet, so that it may be written as a whole before all else.</summary>
    public bool IsNew { get; set; }

    public bool IsDirty { get; private set; }

    /// <summary>Users that keep it from being dropped from memory.</summary>
    public int Pins { get; set; }

    /// <summary>Set by each use, cleared by the search for one to drop.</summary>
    public bool Used { get; set; }

    public int Count => Bytes.Length / 8;

    /// <summary>A 64-bit word.</summary>
    public ulong this[int index]
    {
        get => BinaryPrimitives.ReverseEndianness(Volatile.Read(ref Unsafe.As<byte, ulong>(ref Bytes[index * 8])));
        set
        {
            Volatile.Write(ref Unsafe.As<byte, ulong>(ref Bytes[index * 8]), BinaryPrimitives.ReverseEndianness(value));
            Touch(index * 8);
        }
    }

    /// <summary>Notes that the sector of a byte differs from the file.</summary>
    public void Touch(int at)
    {
        var sector = at >> SectorBits;
        _dirty[sector >> 6] |= 1UL << (sector & 63);
        IsDirty = true;
    }

    /// <summary>Notes that all differs from the file.</summary>
    public void TouchAll()
    {
        for (var at = 0; at < Bytes.Length; at += 1 << SectorBits)
        {
            Touch(at);
        }
    }

    /// <summary>Notes again what <see cref="TakeDirty"/> took, after a write failed.</summary>
    public void TouchAgain(MetadataWrite write)
    {
        for (var at = write.Start; at < write.Start + write.Bytes.Length; at += 1 << SectorBits)
        {
            Touch(at);
        }
    }

    /// <summary>Copies what differs from the file, in runs of sectors, and takes it as written.</summary>
    public void TakeDirty(List<MetadataWrite> into)
    {
        var sectors = (Bytes.Length + (1 << SectorBits) - 1) >> SectorBits;
        for (var sector = 0; sector < sectors;)
        {
            var word = _dirty[sector >> 6] >> (sector & 63);
            if (word == 0)
            {
                sector = (sector | 63) + 1;
                continue;
            }

            sector += BitOperations.TrailingZeroCount(word);
            var first = sector;
            while (sector < sectors && (_dirty[sector >> 6] & (1UL << (sector & 63))) != 0)
            {
                sector++;
            }

            var start = first << SectorBits;
            into.Add(new MetadataWrite(this, start, Bytes[start..Math.Min(sector << SectorBits, Bytes.Length)]));
        }

        Forget();
    }

    /// <summary>Takes the whole as written.</summary>
    public void Forget()
    {
        _dirty.AsSpan().Clear();
        IsDirty = false;
    }
}
