using System.Buffers.Binary;
using Lodge.Engine.Memory;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Storage.Nvme;

/// <summary>
/// A command as it was fetched (NVM Express 1.4, 4.2), its data buffers, and the disk's work on it. Each field of guest memory is read once. Used again after
/// it is completed.
/// </summary>
internal sealed class NvmeCommand(GuestMemory memory, IDisk disk) : DiskRequest
{
    private readonly byte[] _entry = new byte[NvmeRegisters.SubmissionEntry];
    private readonly byte[] _ranges = new byte[4096];
    private (ulong Address, uint Length)[] _segments = new (ulong, uint)[4];
    private Memory<byte>[] _pieces = new Memory<byte>[4];
    private int _count;
    private long _offset;
    private WriteOptions _options;
    private int _blockShift;

    /// <summary>Where it came from.</summary>
    public NvmeSubmissionQueue Queue { get; private set; } = null!;

    public byte Opcode => _entry[0];

    /// <summary>FUSE and PSDT with the reserved bits between; all must be 0: no fused operations, PRPs only.</summary>
    public byte Flags => _entry[1];

    /// <summary>CID.</summary>
    public ushort Identifier => BinaryPrimitives.ReadUInt16LittleEndian(_entry.AsSpan(2));

    /// <summary>NSID.</summary>
    public uint Namespace => BinaryPrimitives.ReadUInt32LittleEndian(_entry.AsSpan(4));

    public ulong Prp1 => BinaryPrimitives.ReadUInt64LittleEndian(_entry.AsSpan(24));

    public ulong Prp2 => BinaryPrimitives.ReadUInt64LittleEndian(_entry.AsSpan(32));

    /// <summary>Bytes of data lent to the disk.</summary>
    public uint Length { get; private set; }

    /// <summary>The data buffers after <see cref="Map"/>.</summary>
    public IoVector Data { get; private set; }

    /// <summary>Dword 10 to 15 of the command.</summary>
    public uint Dword(int index) => BinaryPrimitives.ReadUInt32LittleEndian(_entry.AsSpan(index * 4));

    /// <summary>First logical block (dwords 10 and 11).</summary>
    public ulong StartingBlock => BinaryPrimitives.ReadUInt64LittleEndian(_entry.AsSpan(40));

    /// <summary>Fetches the queue's next entry.</summary>
    public bool TryFetch(NvmeSubmissionQueue queue)
    {
        Queue = queue;
        Length = 0;
        _count = 0;
        return memory.TryRead(queue.NextEntry, _entry);
    }

    /// <summary>Becomes a Flush that no queue knows.</summary>
    public void BecomeFlush()
    {
        Array.Clear(_entry);
        Length = 0;
        _count = 0;
    }

    /// <summary>Finds the data buffers by PRP1 and PRP2 (4.3): the first entry may have an offset, the others are whole pages.</summary>
    /// <param name="length">Bytes, 1 to <see cref="NvmeRegisters.MaximumTransfer"/>.</param>
    public NvmeStatus Map(uint length)
    {
        const uint Page = NvmeRegisters.PageSize;
        _count = 0;
        if (length is 0 or > NvmeRegisters.MaximumTransfer)
        {
            return NvmeStatus.InvalidField | NvmeStatus.DoNotRetry;
        }
        ulong prp1 = Prp1, prp2 = Prp2;
        if ((prp1 & 3) != 0)
        {
            return NvmeStatus.PrpOffsetInvalid | NvmeStatus.DoNotRetry;
        }
        uint first = Math.Min(length, Page - (uint)(prp1 & (Page - 1)));
        Add(prp1, first);
        uint left = length - first;
        if (left != 0 && left <= Page)
        {
            if ((prp2 & (Page - 1)) != 0)
            {
                return NvmeStatus.PrpOffsetInvalid | NvmeStatus.DoNotRetry;
            }
            Add(prp2, left);
        }
        else if (left != 0 && MapList(prp2, left) is not NvmeStatus.Success and var status)
        {
            return status;
        }
        if (_pieces.Length < _count)
        {
            Array.Resize(ref _pieces, _segments.Length);
        }
        for (int i = 0; i < _count; i++)
        {
            if (!memory.TryLend(_segments[i].Address, _segments[i].Length, out _pieces[i]))
            {
                return NvmeStatus.DataTransferError | NvmeStatus.DoNotRetry;
            }
        }
        _pieces.AsSpan(_count).Clear();
        Data = _count == 1 ? new IoVector(_pieces[0]) : new IoVector(_pieces);
        return NvmeStatus.Success;
    }

    /// <summary>The data buffers were written.</summary>
    public void Filled()
    {
        for (int i = 0; i < _count; i++)
        {
            memory.Written(_segments[i].Address, _segments[i].Length);
        }
    }

    /// <summary>Readies a read, write, or write zeroes of whole blocks; the range lies in the disk.</summary>
    public void Prepare(long offset, uint length, bool forceUnitAccess)
    {
        (_offset, Length) = (offset, length);
        _options = forceUnitAccess ? WriteOptions.ForceUnitAccess : WriteOptions.None;
    }

    /// <summary>Takes the ranges of a Dataset Management command; they must lie within <paramref name="blocks"/>.</summary>
    public NvmeStatus TakeRanges(int count, ulong blocks, int blockShift)
    {
        NvmeStatus status = Map((uint)count * 16);
        if (status != NvmeStatus.Success)
        {
            return status;
        }
        Data.CopyTo(_ranges);
        _blockShift = blockShift;
        for (int i = 0; i < count; i++)
        {
            (ulong start, uint length) = Range(i);
            if (start > blocks || length > blocks - start)
            {
                return NvmeStatus.LbaOutOfRange | NvmeStatus.DoNotRetry;
            }
        }
        return NvmeStatus.Success;
    }

    /// <summary>Forgets queue and buffers.</summary>
    public void End()
    {
        (Queue, Data) = (null!, default);
        _pieces.AsSpan(0, Math.Min(_count, _pieces.Length)).Clear();
    }

    /// <inheritdoc/>
    protected override ValueTask Issue(CancellationToken cancellation) => (NvmeOpcode)Opcode switch
    {
        NvmeOpcode.Read => disk.ReadAsync(_offset, Data, cancellation),
        NvmeOpcode.Write => disk.WriteAsync(_offset, Data, _options, cancellation),
        NvmeOpcode.WriteZeroes => disk.ZeroAsync(_offset, WriteZeroesLength, ZeroOptions, cancellation),
        NvmeOpcode.DatasetManagement => DeallocateAsync((int)(Dword(10) & 0xFF) + 1, cancellation),
        _ => disk.FlushAsync(cancellation),
    };

    /// <summary>Bytes of a Write Zeroes command, which lends none.</summary>
    public long WriteZeroesLength { get; set; }

    /// <summary>DEAC: the blocks may be deallocated.</summary>
    private ZeroOptions ZeroOptions => ((Dword(12) & (1 << 25)) != 0 ? ZeroOptions.MayUnmap : ZeroOptions.None)
        | ((_options & WriteOptions.ForceUnitAccess) != 0 ? ZeroOptions.ForceUnitAccess : ZeroOptions.None);

    private async ValueTask DeallocateAsync(int count, CancellationToken cancellation)
    {
        for (int i = 0; i < count; i++)
        {
            (ulong start, uint length) = Range(i);
            if (length != 0)
            {
                await disk.TryDiscardAsync((long)start << _blockShift, (long)length << _blockShift, cancellation).ConfigureAwait(false);
            }
        }
    }

    private (ulong Start, uint Length) Range(int index)
    {
        ReadOnlySpan<byte> range = _ranges.AsSpan(index * 16, 16);
        return (BinaryPrimitives.ReadUInt64LittleEndian(range[8..]), BinaryPrimitives.ReadUInt32LittleEndian(range[4..]));
    }

    private NvmeStatus MapList(ulong list, uint left)
    {
        const uint Page = NvmeRegisters.PageSize;
        Span<ulong> entries = stackalloc ulong[(int)Page / 8];
        if ((list & 7) != 0)
        {
            return NvmeStatus.PrpOffsetInvalid | NvmeStatus.DoNotRetry;
        }
        while (true)
        {
            // A page of the list that does not hold all that is left ends with a pointer to the next, which begins at a page: each turn gets on.
            int room = (int)(Page - (uint)(list & (Page - 1))) / 8;
            int pages = (int)((left + Page - 1) / Page);
            bool last = pages <= room;
            Span<ulong> part = entries[..(last ? pages : room)];
            if (!memory.TryRead(list, System.Runtime.InteropServices.MemoryMarshal.AsBytes(part)))
            {
                return NvmeStatus.DataTransferError | NvmeStatus.DoNotRetry;
            }
            foreach (ulong entry in part)
            {
                if ((entry & (Page - 1)) != 0)
                {
                    return NvmeStatus.PrpOffsetInvalid | NvmeStatus.DoNotRetry;
                }
            }
            foreach (ulong entry in last ? part : part[..^1])
            {
                uint step = Math.Min(left, Page);
                Add(entry, step);
                left -= step;
            }
            if (last)
            {
                return NvmeStatus.Success;
            }
            list = part[^1];
        }
    }

    private void Add(ulong address, uint length)
    {
        if (_count != 0 && _segments[_count - 1] is var previous && previous.Address + previous.Length == address)
        {
            _segments[_count - 1].Length += length;
            return;
        }
        if (_count == _segments.Length)
        {
            Array.Resize(ref _segments, _count * 2);
        }
        _segments[_count++] = (address, length);
    }
}
