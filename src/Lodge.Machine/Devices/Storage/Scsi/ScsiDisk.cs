using System.Buffers.Binary;
using System.Numerics;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Storage.Scsi;

/// <summary>A direct access block device (SBC-3).</summary>
internal sealed class ScsiDisk : ScsiUnit
{
    private const uint MaximumWriteSame = 1 << 30;      // bytes
    private readonly IDisk _disk;
    private readonly bool _readOnly;
    private readonly bool _discard;
    private readonly int _blockSize;
    private long _blocks;
    private bool _writeCache = true;

    /// <summary>Creates a unit over a disk.</summary>
    public ScsiDisk(IDisk disk, string serial, int blockSize, bool readOnly, bool discard) : base(serial)
    {
        _disk = disk;
        _blockSize = blockSize;
        _readOnly = readOnly || disk.IsReadOnly;
        _discard = discard && !_readOnly && disk is IDiscard;
        _blocks = disk.Length / blockSize;
    }

    /// <summary>WCE of the caching mode page.</summary>
    public bool WriteCache
    {
        get => _writeCache;
        set => _writeCache = value;
    }

    /// <summary>The disk.</summary>
    public IDisk Disk => _disk;

    protected override byte DeviceType => 0;

    protected override string Product => "Lodge SCSI Disk";

    protected override bool Removable => false;

    protected override ReadOnlySpan<byte> VitalPages => [0xB0, 0xB1, 0xB2];

    protected override ReadOnlySpan<byte> ModePages => [0x01, 0x08, 0x0A];

    /// <summary>WP and DPOFUA.</summary>
    protected override byte ModeParameter => (byte)((_readOnly ? 0x80 : 0) | 0x10);

    /// <summary>Looks at the disk's length again; true when it changed.</summary>
    public bool LengthChanged()
    {
        long blocks = _disk.Length / _blockSize;
        if (Interlocked.Exchange(ref _blocks, blocks) == blocks)
        {
            return false;
        }
        Attention = ScsiSense.CapacityChanged;
        return true;
    }

    protected override bool ExecuteOwn(ScsiRequest request)
    {
        byte[] cdb = request.Cdb;
        switch (request.Operation)
        {
            case ScsiOperation.TestUnitReady:
            case ScsiOperation.StartStopUnit:
            case ScsiOperation.PreventAllowMediumRemoval:
                request.Good();
                return true;
            case ScsiOperation.Read6:
            case ScsiOperation.Write6:
                return Transfer(request, (uint)(((cdb[1] & 0x1F) << 16) | (cdb[2] << 8) | cdb[3]), cdb[4] == 0 ? 256u : cdb[4], 0);
            case ScsiOperation.Read10:
            case ScsiOperation.Write10:
                return Transfer(request, BinaryPrimitives.ReadUInt32BigEndian(cdb.AsSpan(2)), BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(7)), cdb[1]);
            case ScsiOperation.Read12:
            case ScsiOperation.Write12:
                return Transfer(request, BinaryPrimitives.ReadUInt32BigEndian(cdb.AsSpan(2)), BinaryPrimitives.ReadUInt32BigEndian(cdb.AsSpan(6)), cdb[1]);
            case ScsiOperation.Read16:
            case ScsiOperation.Write16:
                return Transfer(request, BinaryPrimitives.ReadUInt64BigEndian(cdb.AsSpan(2)), BinaryPrimitives.ReadUInt32BigEndian(cdb.AsSpan(10)), cdb[1]);
            case ScsiOperation.Verify10:
                return Verify(request, BinaryPrimitives.ReadUInt32BigEndian(cdb.AsSpan(2)), BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(7)));
            case ScsiOperation.Verify16:
                return Verify(request, BinaryPrimitives.ReadUInt64BigEndian(cdb.AsSpan(2)), BinaryPrimitives.ReadUInt32BigEndian(cdb.AsSpan(10)));
            case ScsiOperation.SynchronizeCache10:
            case ScsiOperation.SynchronizeCache16:
                if (_readOnly)
                {
                    request.Good();
                    return true;
                }
                request.Flush(_disk);
                return false;
            case ScsiOperation.WriteSame10:
                return WriteSame(request, BinaryPrimitives.ReadUInt32BigEndian(cdb.AsSpan(2)), BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(7)), false);
            case ScsiOperation.WriteSame16:
                return WriteSame(request, BinaryPrimitives.ReadUInt64BigEndian(cdb.AsSpan(2)), BinaryPrimitives.ReadUInt32BigEndian(cdb.AsSpan(10)), (cdb[1] & 1) != 0);
            case ScsiOperation.Unmap when _discard:
                return Unmap(request);
            case ScsiOperation.ReadCapacity10:
                ReadCapacity10(request);
                return true;
            case ScsiOperation.ServiceActionIn16 when (cdb[1] & 0x1F) == ScsiOperation.ReadCapacity16:
                ReadCapacity16(request);
                return true;
            case ScsiOperation.ModeSense6:
                ModeSense(request, false);
                return true;
            case ScsiOperation.ModeSense10:
                ModeSense(request, true);
                return true;
            case ScsiOperation.ModeSelect6:
                return ModeSelect(request, 4, cdb[4]);
            case ScsiOperation.ModeSelect10:
                return ModeSelect(request, 8, BinaryPrimitives.ReadUInt16BigEndian(cdb.AsSpan(7)));
            default:
                request.Fail(ScsiSense.InvalidOperation);
                return true;
        }
    }

    protected override int WriteVitalPage(byte page, Span<byte> body)
    {
        switch (page)
        {
            case 0xB0:      // block limits (SBC-3, 6.6.4); offsets count from the page's fifth byte
                body[0] = 1;        // WSNZ: WRITE SAME of 0 blocks is refused
                BinaryPrimitives.WriteUInt16BigEndian(body[2..], (ushort)(Physical / _blockSize));
                BinaryPrimitives.WriteUInt32BigEndian(body[4..], MaximumTransfer / (uint)_blockSize);
                if (_discard)
                {
                    BinaryPrimitives.WriteUInt32BigEndian(body[16..], MaximumWriteSame / (uint)_blockSize);
                    BinaryPrimitives.WriteUInt32BigEndian(body[20..], ScsiRequest.MaximumRanges);
                    BinaryPrimitives.WriteUInt32BigEndian(body[24..], (uint)Math.Max(1, ((IDiscard)_disk).DiscardGranularity / _blockSize));
                }
                BinaryPrimitives.WriteUInt64BigEndian(body[32..], MaximumWriteSame / (uint)_blockSize);
                return 0x3C;
            case 0xB1:      // block device characteristics: does not rotate
                body[1] = 1;
                return 0x3C;
            default:        // logical block provisioning: UNMAP and WRITE SAME unmap; thin
                body[1] = _discard ? (byte)0xE0 : (byte)0;
                body[2] = _discard ? (byte)2 : (byte)0;
                return 4;
        }
    }

    protected override int WriteModePage(byte page, Span<byte> destination, bool changeable)
    {
        destination[0] = page;
        switch (page)
        {
            case 0x01:      // read-write error recovery
                destination[1] = 10;
                return 12;
            case 0x08:      // caching: WCE
                destination[1] = 18;
                destination[2] = changeable || _writeCache ? (byte)4 : (byte)0;
                return 20;
            default:        // control: commands may be reordered
                destination[1] = 10;
                destination[3] = changeable ? (byte)0 : (byte)0x10;
                return 12;
        }
    }

    private int Physical => Math.Clamp((int)BitOperations.RoundUpToPowerOf2((uint)Math.Clamp(_disk.RequestAlignment, 1, 4096)), _blockSize, 4096);

    private bool InRange(ulong block, ulong count) => (ulong)Volatile.Read(ref _blocks) is var blocks && block <= blocks && count <= blocks - block;

    private bool Transfer(ScsiRequest request, ulong block, uint count, byte flags)
    {
        bool write = (request.Operation & 0x0F) == 0x0A;
        if (write && _readOnly)
        {
            request.Fail(ScsiSense.WriteProtected);
        }
        else if ((flags & 0xE0) != 0)
        {
            request.Fail(ScsiSense.InvalidField);       // no protection information
        }
        else if (!InRange(block, count))
        {
            request.Fail(ScsiSense.LbaOutOfRange);
        }
        else if (count == 0)
        {
            request.Good();
        }
        else if (count > MaximumTransfer / (uint)_blockSize
            || !request.TryTransfer(_disk, write, (long)block * _blockSize, count * (uint)_blockSize, (flags & 8) != 0 || !_writeCache))
        {
            request.Fail(ScsiSense.InvalidField);
        }
        else
        {
            return false;
        }
        return true;
    }

    /// <summary>VERIFY without comparison: what is in range is readable as far as can be told without transferring it.</summary>
    private bool Verify(ScsiRequest request, ulong block, uint count)
    {
        if ((request.Cdb[1] & 0xE6) != 0)
        {
            request.Fail(ScsiSense.InvalidField);       // BYTCHK
        }
        else if (!InRange(block, count))
        {
            request.Fail(ScsiSense.LbaOutOfRange);
        }
        else
        {
            request.Good();
        }
        return true;
    }

    private bool WriteSame(ScsiRequest request, ulong block, uint count, bool noData)
    {
        byte flags = request.Cdb[1];
        bool unmap = (flags & 8) != 0;
        if (_readOnly)
        {
            request.Fail(ScsiSense.WriteProtected);
        }
        else if ((flags & 0xF6) != 0 || (unmap && !_discard) || count == 0 || count > MaximumWriteSame / (uint)_blockSize
            || (!noData && request.Parameters(_blockSize).Length != _blockSize))
        {
            request.Fail(ScsiSense.InvalidField);
        }
        else if (!InRange(block, count))
        {
            request.Fail(ScsiSense.LbaOutOfRange);
        }
        else
        {
            request.WriteSame(_disk, (long)block * _blockSize, (long)count * _blockSize, _blockSize, noData, unmap, !_writeCache);
            return false;
        }
        return true;
    }

    private bool Unmap(ScsiRequest request)
    {
        int length = BinaryPrimitives.ReadUInt16BigEndian(request.Cdb.AsSpan(7));
        if (length == 0)
        {
            request.Good();
            return true;
        }
        ReadOnlySpan<byte> list = request.Parameters(length);
        int described = list.Length < 8 ? -1 : BinaryPrimitives.ReadUInt16BigEndian(list[2..]);
        if (described < 0 || described > list.Length - 8 || described % 16 != 0)
        {
            request.Fail(ScsiSense.ParameterListLength);
            return true;
        }
        ulong total = 0;
        for (int i = 0; i < described / 16; i++)
        {
            (ulong block, uint count) = request.Range(i);
            total += count;
            if (!InRange(block, count))
            {
                request.Fail(ScsiSense.LbaOutOfRange);
                return true;
            }
        }
        if (total > MaximumWriteSame / (uint)_blockSize)
        {
            request.Fail(ScsiSense.InvalidParameterField);
            return true;
        }
        request.Unmap(_disk, described / 16, _blockSize);
        return false;
    }

    private void ReadCapacity10(ScsiRequest request)
    {
        Span<byte> data = stackalloc byte[8];
        BinaryPrimitives.WriteUInt32BigEndian(data, (uint)Math.Min(Math.Max(Volatile.Read(ref _blocks) - 1, 0), uint.MaxValue));
        BinaryPrimitives.WriteUInt32BigEndian(data[4..], (uint)_blockSize);
        request.Reply(data, 8);
    }

    private void ReadCapacity16(ScsiRequest request)
    {
        Span<byte> data = stackalloc byte[32];
        data.Clear();
        BinaryPrimitives.WriteUInt64BigEndian(data, (ulong)Math.Max(Volatile.Read(ref _blocks) - 1, 0));
        BinaryPrimitives.WriteUInt32BigEndian(data[8..], (uint)_blockSize);
        data[13] = (byte)BitOperations.Log2((uint)(Physical / _blockSize));
        data[14] = _discard ? (byte)0x80 : (byte)0;     // LBPME
        request.Reply(data, BinaryPrimitives.ReadUInt32BigEndian(request.Cdb.AsSpan(10)));
    }

    /// <summary>MODE SELECT (SPC-4, 6.9): WCE is what can be changed.</summary>
    private bool ModeSelect(ScsiRequest request, int header, int length)
    {
        if ((request.Cdb[1] & 1) != 0 || (request.Cdb[1] & 0x10) == 0)
        {
            request.Fail(ScsiSense.InvalidField);       // saves pages, or not in page format
            return true;
        }
        ReadOnlySpan<byte> list = request.Parameters(length);
        if (list.Length < header)
        {
            if (length == 0)
            {
                request.Good();
            }
            else
            {
                request.Fail(ScsiSense.ParameterListLength);
            }
            return true;
        }
        int descriptors = header == 4 ? list[3] : BinaryPrimitives.ReadUInt16BigEndian(list[6..]);
        bool? cache = null;
        if (descriptors > list.Length - header)
        {
            request.Fail(ScsiSense.ParameterListLength);
            return true;
        }
        for (ReadOnlySpan<byte> rest = list[(header + descriptors)..]; rest.Length != 0;)
        {
            int size = rest.Length < 2 ? int.MaxValue : rest[1] + 2;
            if (size > rest.Length)
            {
                request.Fail(ScsiSense.ParameterListLength);
                return true;
            }
            if ((rest[0] & 0x3F) == 8 && size == 20)
            {
                cache = (rest[2] & 4) != 0;
            }
            else if ((rest[0] & 0x7F) is not (1 or 0x0A))
            {
                request.Fail(ScsiSense.InvalidParameterField);
                return true;
            }
            rest = rest[size..];
        }
        bool flush = _writeCache && cache == false;
        _writeCache = cache ?? _writeCache;
        if (flush && !_readOnly)
        {
            request.Flush(_disk);       // what is in caches must not stay there
            return false;
        }
        request.Good();
        return true;
    }
}
