using System.Buffers.Binary;
using System.Numerics;

namespace Lodge.Network.User;

/// <summary>
/// Frames on their way from one thread to one other, in a ring of bytes: bounded, without locks, and without allocation. Each frame lies in one piece after a word with
/// its length; a length of -1 says that the next one is at the ring's begin.
/// </summary>
internal sealed class FrameRing
{
    private const int Header = 8; // keeps frames aligned
    private readonly byte[] _bytes;

    // Bytes ever written and ever read; apart, so that the two threads do not share a cache line.
    private Position _written, _read;

    /// <summary>Creates it with a size in bytes, a power of two.</summary>
    public FrameRing(int size)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(BitOperations.IsPow2(size), true);
        _bytes = GC.AllocateUninitializedArray<byte>(size);
    }

    /// <summary>Bytes in use, for either thread.</summary>
    public int Used => (int)(Volatile.Read(ref _written.Value) - Volatile.Read(ref _read.Value));

    /// <summary>Bytes in all.</summary>
    public int Size => _bytes.Length;

    /// <summary>The writing thread's: a place for a frame, or an empty span when there is none at present. The frame is there after <see cref="Commit"/>.</summary>
    public Span<byte> Reserve(int length)
    {
        int needed = Whole(length);
        int free = _bytes.Length - Used;
        int place = Place(_written.Value);
        int toEnd = _bytes.Length - place;
        if (needed > toEnd)
        {
            if (needed > free - toEnd)
            {
                return [];
            }
            BinaryPrimitives.WriteInt32LittleEndian(_bytes.AsSpan(place), -1);
            Volatile.Write(ref _written.Value, _written.Value + toEnd);
            place = 0;
        }
        else if (needed > free)
        {
            return [];
        }
        return _bytes.AsSpan(place + Header, length);
    }

    /// <summary>The writing thread's: publishes what was written into the span of the last <see cref="Reserve"/>, of the same length.</summary>
    public void Commit(int length)
    {
        BinaryPrimitives.WriteInt32LittleEndian(_bytes.AsSpan(Place(_written.Value)), length);
        Volatile.Write(ref _written.Value, _written.Value + Whole(length));
    }

    /// <summary>The reading thread's: the next frame, in place until <see cref="Release"/>; empty when there is none.</summary>
    public Span<byte> Peek()
    {
        while (Volatile.Read(ref _written.Value) != _read.Value)
        {
            int place = Place(_read.Value);
            int length = BinaryPrimitives.ReadInt32LittleEndian(_bytes.AsSpan(place));
            if (length >= 0)
            {
                return _bytes.AsSpan(place + Header, length);
            }
            Volatile.Write(ref _read.Value, _read.Value + (_bytes.Length - place));
        }
        return [];
    }

    /// <summary>The reading thread's: gives the place of the peeked frame back.</summary>
    public void Release()
    {
        int length = BinaryPrimitives.ReadInt32LittleEndian(_bytes.AsSpan(Place(_read.Value)));
        Volatile.Write(ref _read.Value, _read.Value + Whole(length));
    }

    private int Place(long position) => (int)(position & (_bytes.Length - 1));

    private static int Whole(int length) => Header + ((length + Header - 1) & -Header);

    [System.Runtime.InteropServices.StructLayout(System.Runtime.InteropServices.LayoutKind.Explicit, Size = 192)]
    private struct Position
    {
        [System.Runtime.InteropServices.FieldOffset(64)]
        public long Value;
    }
}
