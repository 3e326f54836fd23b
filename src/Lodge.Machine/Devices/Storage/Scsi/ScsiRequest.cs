using System.Buffers.Binary;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Storage.Scsi;

/// <summary>What a command asks of the disk.</summary>
internal enum ScsiTransfer
{
    Read,
    Write,
    Flush,
    Unmap,
    WriteSame,
}

/// <summary>
/// A SCSI command on its way: the CDB, the initiator's buffers, which the transport provides, and the result. Either a unit answers it at once
/// (<see cref="Reply"/>, <see cref="Fail"/>, <see cref="Good"/>), or it becomes a request to the disk.
/// </summary>
internal abstract class ScsiRequest : DiskRequest
{
    /// <summary>Bytes of a CDB at most.</summary>
    public const int CdbLength = 32;

    /// <summary>Most ranges in an UNMAP command.</summary>
    public const int MaximumRanges = 255;

    private const int PatternChunk = 1 << 20;
    private readonly byte[] _parameters = new byte[8 + (MaximumRanges * 16)];
    private readonly byte[] _sense = new byte[18];
    private IDisk _disk = null!;
    private ScsiTransfer _transfer;
    private long _offset;
    private long _length;
    private bool _durable;
    private bool _mayUnmap;
    private int _blockSize;
    private int _ranges;
    private IoVector _data;

    /// <summary>The command descriptor block; bytes that the initiator did not send are zero.</summary>
    public byte[] Cdb { get; } = new byte[CdbLength];

    /// <summary>Bytes that the initiator's data-in buffer has.</summary>
    public abstract uint InLength { get; }

    /// <summary>Bytes that the initiator's data-out buffer has.</summary>
    public abstract uint OutLength { get; }

    /// <summary>Status (SAM-5, 5.3): 0 good, 2 check condition.</summary>
    public byte Status { get; private set; }

    /// <summary>Sense data in fixed format; empty without check condition.</summary>
    public ReadOnlySpan<byte> Sense => Status == 2 ? _sense : [];

    /// <summary>Bytes transferred either way.</summary>
    public uint Transferred { get; private set; }

    /// <summary>Bytes lent to the disk.</summary>
    public uint Lent { get; private set; }

    public byte Operation => Cdb[0];

    /// <summary>Ends the command without data.</summary>
    public void Good() => Status = 0;

    /// <summary>Ends the command with data-in, as much as fits and was asked for.</summary>
    public void Reply(ReadOnlySpan<byte> data, uint allocationLength)
    {
        int length = (int)Math.Min(Math.Min((uint)data.Length, allocationLength), InLength);
        CopyIn(data[..length]);
        Transferred = (uint)length;
        Status = 0;
    }

    /// <summary>Ends the command with sense data.</summary>
    public void Fail(ScsiSense sense)
    {
        Status = 2;
        Transferred = 0;
        _sense.AsSpan().Clear();
        _sense[0] = 0x70;       // current error, fixed format
        _sense[2] = (byte)((int)sense >> 16);
        _sense[7] = 10;         // additional length
        _sense[12] = (byte)((int)sense >> 8);
        _sense[13] = (byte)sense;
    }

    /// <summary>Copies parameter data from the data-out buffer; returns how many bytes there were, at most <paramref name="length"/>.</summary>
    public ReadOnlySpan<byte> Parameters(int length)
    {
        Span<byte> data = _parameters.AsSpan(0, Math.Min(length, _parameters.Length));
        return data[..CopyOut(data)];
    }

    /// <summary>Readies a transfer of <paramref name="length"/> bytes between disk and buffer; false when the buffer is too small for it.</summary>
    public bool TryTransfer(IDisk disk, bool write, long offset, uint length, bool durable)
    {
        if (!(write ? TryLendOut(length, out _data) : TryLendIn(length, out _data)))
        {
            return false;
        }
        (_disk, _transfer, _offset, _length, _durable) = (disk, write ? ScsiTransfer.Write : ScsiTransfer.Read, offset, length, durable);
        Lent = length;
        return true;
    }

    /// <summary>Readies a flush.</summary>
    public void Flush(IDisk disk) => (_disk, _transfer) = (disk, ScsiTransfer.Flush);

    /// <summary>Readies an UNMAP of the ranges that <see cref="Parameters"/> fetched.</summary>
    public void Unmap(IDisk disk, int ranges, int blockSize) => (_disk, _transfer, _ranges, _blockSize) = (disk, ScsiTransfer.Unmap, ranges, blockSize);

    /// <summary>Readies a WRITE SAME of the block that <see cref="Parameters"/> fetched, or of zeroes.</summary>
    public void WriteSame(IDisk disk, long offset, long length, int blockSize, bool zeroes, bool mayUnmap, bool durable)
    {
        (_disk, _transfer, _offset, _length, _blockSize) = (disk, ScsiTransfer.WriteSame, offset, length, blockSize);
        (_mayUnmap, _durable) = (mayUnmap, durable);
        if (zeroes)
        {
            _parameters.AsSpan(0, blockSize).Clear();
        }
    }

    /// <summary>A range of UNMAP's parameter list (SBC-3, 5.28.2).</summary>
    public (ulong Block, uint Count) Range(int index)
    {
        ReadOnlySpan<byte> range = _parameters.AsSpan(8 + (index * 16));
        return (BinaryPrimitives.ReadUInt64BigEndian(range), BinaryPrimitives.ReadUInt32BigEndian(range[8..]));
    }

    /// <summary>The disk has done its part.</summary>
    public void Complete()
    {
        if (_transfer == ScsiTransfer.Read && Lent != 0)
        {
            Filled(Lent);
        }
        switch (Error)
        {
            case null:
                Status = 0;
                Transferred = _transfer is ScsiTransfer.Read or ScsiTransfer.Write ? Lent : OutLength;
                break;
            case DiskError.NoSpace:
                Fail(ScsiSense.SpaceAllocationFailed);
                break;
            case DiskError.ReadOnly:
                Fail(ScsiSense.WriteProtected);
                break;
            case DiskError.OutOfRange:
                Fail(ScsiSense.LbaOutOfRange);
                break;
            case DiskError.Unsupported:
                Fail(ScsiSense.InvalidOperation);
                break;
            default:
                Fail(_transfer == ScsiTransfer.Read ? ScsiSense.UnrecoveredReadError : ScsiSense.WriteError);
                break;
        }
    }

    /// <summary>Begins anew with another command.</summary>
    protected void Clear()
    {
        Array.Clear(Cdb);
        Status = 0;
        Transferred = Lent = 0;
        _data = default;
        _durable = _mayUnmap = false;
    }

    /// <summary>Copies to the beginning of the data-in buffer; the length fits.</summary>
    protected abstract void CopyIn(ReadOnlySpan<byte> data);

    /// <summary>Copies from the beginning of the data-out buffer; returns how many bytes there were.</summary>
    protected abstract int CopyOut(Span<byte> data);

    /// <summary>Lends the beginning of the data-in buffer.</summary>
    protected abstract bool TryLendIn(uint length, out IoVector vector);

    /// <summary>Lends the beginning of the data-out buffer.</summary>
    protected abstract bool TryLendOut(uint length, out IoVector vector);

    /// <summary>The disk wrote the beginning of the data-in buffer.</summary>
    protected abstract void Filled(uint length);

    /// <inheritdoc/>
    protected override ValueTask Issue(CancellationToken cancellation) => _transfer switch
    {
        ScsiTransfer.Read => _disk.ReadAsync(_offset, _data, cancellation),
        ScsiTransfer.Write => _disk.WriteAsync(_offset, _data, _durable ? WriteOptions.ForceUnitAccess : WriteOptions.None, cancellation),
        ScsiTransfer.Flush => _disk.FlushAsync(cancellation),
        ScsiTransfer.Unmap => UnmapAsync(cancellation),
        _ => WriteSameAsync(cancellation),
    };

    private async ValueTask UnmapAsync(CancellationToken cancellation)
    {
        for (int i = 0; i < _ranges; i++)
        {
            (ulong block, uint count) = Range(i);
            if (count != 0)
            {
                await _disk.TryDiscardAsync((long)block * _blockSize, (long)count * _blockSize, cancellation).ConfigureAwait(false);
            }
        }
    }

    private async ValueTask WriteSameAsync(CancellationToken cancellation)
    {
        WriteOptions options = _durable ? WriteOptions.ForceUnitAccess : WriteOptions.None;
        if (!_parameters.AsSpan(0, _blockSize).ContainsAnyExcept((byte)0))
        {
            ZeroOptions zero = (_mayUnmap ? ZeroOptions.MayUnmap : ZeroOptions.None) | (_durable ? ZeroOptions.ForceUnitAccess : ZeroOptions.None);
            await _disk.ZeroAsync(_offset, _length, zero, cancellation).ConfigureAwait(false);
            return;
        }
        byte[] pattern = new byte[Math.Min(_length, PatternChunk)];
        for (int at = 0; at < pattern.Length; at += _blockSize)
        {
            _parameters.AsSpan(0, _blockSize).CopyTo(pattern.AsSpan(at));
        }
        for (long done = 0; done < _length; done += pattern.Length)
        {
            int step = (int)Math.Min(pattern.Length, _length - done);
            await _disk.WriteAsync(_offset + done, pattern.AsMemory(0, step), options, cancellation).ConfigureAwait(false);
        }
    }
}
