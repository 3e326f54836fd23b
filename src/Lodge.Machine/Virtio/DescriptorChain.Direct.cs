using Lodge.Storage.Disks;

namespace Lodge.Machine.Virtio;

/// <content>Direct I/O on a chain's buffers.</content>
public sealed partial class DescriptorChain
{
    /// <summary>
    /// Lends a part of the device-readable bytes without copying. The chain is not completed before the I/O is.
    /// </summary>
    /// <param name="offset">First byte, counted from the first readable one.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="pieces">Array to be used, which grows where needed; it belongs to the vector until the I/O is done.</param>
    /// <param name="vector">The bytes.</param>
    /// <returns>False when the part is not there as a whole, or has a buffer that is too long to be lent (above 1 GiB).</returns>
    internal bool TryLendReadable(uint offset, uint length, ref Memory<byte>[] pieces, out IoVector vector) =>
        TryLend(Readable, offset, length, ref pieces, out vector);

    /// <summary>Lends a part of the device-writable bytes, as <see cref="TryLendReadable"/>; see <see cref="Filled"/>.</summary>
    internal bool TryLendWritable(uint offset, uint length, ref Memory<byte>[] pieces, out IoVector vector) =>
        TryLend(Writable, offset, length, ref pieces, out vector);

    /// <summary>The next <paramref name="count"/> writable bytes were written by direct I/O: they are counted as written.</summary>
    internal void Filled(uint count)
    {
        while (count > 0 && _writeSegment < _count)
        {
            ChainSegment segment = _segments[_writeSegment];
            uint step = Math.Min(segment.Length - _writeOffset, count);
            _memory.Written(segment.Address + _writeOffset, step);
            AdvanceWrite(step);
            Written += step;
            count -= step;
        }
    }

    /// <summary>Passes over writable bytes that the device leaves alone. They count as written, as the reported length has no holes.</summary>
    internal void SkipWritable(uint count)
    {
        while (count > 0 && _writeSegment < _count)
        {
            uint step = Math.Min(_segments[_writeSegment].Length - _writeOffset, count);
            AdvanceWrite(step);
            Written += step;
            count -= step;
        }
    }

    private bool TryLend(ReadOnlySpan<ChainSegment> segments, uint offset, uint length, ref Memory<byte>[] pieces, out IoVector vector)
    {
        int count = 0;
        uint left = length;
        foreach (ChainSegment segment in segments)
        {
            if (left == 0)
            {
                break;
            }
            if (offset >= segment.Length)
            {
                offset -= segment.Length;
                continue;
            }
            uint step = Math.Min(segment.Length - offset, left);
            if (!_memory.TryLend(segment.Address + offset, step, out Memory<byte> piece))
            {
                vector = default;
                return false;
            }
            if (count == pieces.Length)
            {
                Array.Resize(ref pieces, Math.Max(4, count * 2));
            }
            pieces[count++] = piece;
            left -= step;
            offset = 0;
        }
        if (left != 0)
        {
            vector = default;
            return false;
        }
        pieces.AsSpan(count).Clear();       // what an earlier request left behind is not part of this one
        vector = count == 1 ? new IoVector(pieces[0]) : new IoVector(pieces);
        return true;
    }

    private void AdvanceWrite(uint step)
    {
        _writeOffset += step;
        if (_writeOffset == _segments[_writeSegment].Length)
        {
            _writeSegment++;
            _writeOffset = 0;
        }
    }
}
