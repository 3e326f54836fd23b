using System.Collections.Concurrent;
using System.Numerics;
using System.Runtime.InteropServices;

namespace Lodge.Storage.Nbd;

/// <summary>
/// Pinned memory for a request's payload. The payload begins at a multiple of 4096 (so that it may go to a file without the page cache), and before it is room for
/// a reply's header, so that both are sent by one call.
/// </summary>
internal sealed class NbdBuffer
{
    /// <summary>Room before the payload, in bytes.</summary>
    public const int HeaderRoom = 64;

    private const int Alignment = 4096;
    private const int SmallestShift = 12;
    private const int LargestKeptShift = 22;
    private const long MostKept = 64 << 20;
    private static readonly ConcurrentQueue<NbdBuffer>[] Kept = [.. Enumerable.Range(0, LargestKeptShift - SmallestShift + 1).Select(_ => new ConcurrentQueue<NbdBuffer>())];
    private static long keptBytes;

    private readonly int _shift;

    private NbdBuffer(int shift)
    {
        _shift = shift;
        Bytes = GC.AllocateUninitializedArray<byte>((1 << shift) + (2 * Alignment), pinned: true);
        var address = Marshal.UnsafeAddrOfPinnedArrayElement(Bytes, HeaderRoom);
        Start = HeaderRoom + (int)(-address & (Alignment - 1));
    }

    /// <summary>The whole memory.</summary>
    public byte[] Bytes { get; }

    /// <summary>Where the payload begins in <see cref="Bytes"/>.</summary>
    public int Start { get; }

    /// <summary>The payload's memory.</summary>
    public Memory<byte> Payload(int length) => Bytes.AsMemory(Start, length);

    /// <summary>Takes a buffer for a payload of <paramref name="length"/> bytes, at most 2^26.</summary>
    public static NbdBuffer Rent(int length)
    {
        var shift = Math.Max(SmallestShift, BitOperations.Log2((uint)Math.Max(length, 2) - 1) + 1);
        if (shift <= LargestKeptShift && Kept[shift - SmallestShift].TryDequeue(out var buffer))
        {
            Interlocked.Add(ref keptBytes, -(1L << shift));
            return buffer;
        }

        return new NbdBuffer(shift);
    }

    /// <summary>Gives the buffer back; nobody uses it any more.</summary>
    public void Return()
    {
        if (_shift > LargestKeptShift)
        {
            return;
        }

        if (Interlocked.Add(ref keptBytes, 1L << _shift) > MostKept)
        {
            Interlocked.Add(ref keptBytes, -(1L << _shift));
            return;
        }

        Kept[_shift - SmallestShift].Enqueue(this);
    }
}
