using System.Buffers.Binary;
using Lodge.Machine.Devices.Storage;
using Lodge.Machine.Virtio;
using Lodge.Storage.Disks;

namespace Lodge.Machine.Devices.Virtio.Block;

/// <summary>A request of the driver (virtio 1.2, 5.2.6): a header, data and a status byte. Used again after it is completed.</summary>
internal sealed class BlockRequest : DiskRequest
{
    private readonly byte[] _ranges = new byte[VirtioBlockRequests.MaximumRanges * VirtioBlockRequests.RangeLength];
    private Memory<byte>[] _pieces = new Memory<byte>[4];
    private IDisk _disk = null!;
    private long _offset;
    private IoVector _data;
    private WriteOptions _writeOptions;
    private int _rangeCount;

    /// <summary>Queue that the chain came from.</summary>
    public VirtQueue Queue { get; private set; } = null!;

    /// <summary>The driver's buffers.</summary>
    public DescriptorChain Chain { get; private set; } = null!;

    /// <summary>Type as the driver wrote it.</summary>
    public uint Type { get; private set; }

    /// <summary>Bytes of data lent to the disk.</summary>
    public uint Length { get; private set; }

    /// <summary>Reads the header; false when the chain has no room for header and status.</summary>
    public bool TryBegin(VirtQueue queue, DescriptorChain chain, IDisk disk)
    {
        (Queue, Chain, _disk) = (queue, chain, disk);
        Length = 0;
        Span<byte> header = stackalloc byte[VirtioBlockRequests.HeaderLength];
        if (chain.WritableLength == 0 || chain.Read(header) != header.Length)
        {
            return false;
        }
        Type = BinaryPrimitives.ReadUInt32LittleEndian(header);
        // Beyond 2^54 a sector has no byte offset; such a request fails as any other beyond the end.
        ulong sector = BinaryPrimitives.ReadUInt64LittleEndian(header[8..]);
        _offset = sector < 1UL << 54 ? (long)sector * VirtioBlockRequests.SectorSize : long.MaxValue;
        return true;
    }

    /// <summary>Takes the buffers of a read or write; false when it is not one of whole sectors within <paramref name="capacity"/> bytes.</summary>
    public bool TryTakeData(long capacity, bool forceUnitAccess)
    {
        bool read = Type == VirtioBlockRequests.In;
        uint other = read ? Chain.Unread : Chain.WritableLength - 1;
        uint length = read ? Chain.WritableLength - 1 : Chain.Unread;
        if (other != 0 || length % VirtioBlockRequests.SectorSize != 0 || length > VirtioBlockRequests.MaximumTransfer
            || _offset > capacity || length > capacity - _offset)
        {
            return false;
        }
        _writeOptions = forceUnitAccess ? WriteOptions.ForceUnitAccess : WriteOptions.None;
        bool lent = read
            ? Chain.TryLendWritable(0, length, ref _pieces, out _data)
            : Chain.TryLendReadable(VirtioBlockRequests.HeaderLength, length, ref _pieces, out _data);
        Length = lent ? length : 0;
        return lent;
    }

    /// <summary>Takes the ranges of a discard or write zeroes request; the status when it cannot be done.</summary>
    public byte? TakeRanges(long capacity, bool forceUnitAccess)
    {
        _writeOptions = forceUnitAccess ? WriteOptions.ForceUnitAccess : WriteOptions.None;
        uint length = Chain.Unread;
        if (length == 0 || length % VirtioBlockRequests.RangeLength != 0 || length > (uint)_ranges.Length)
        {
            return VirtioBlockRequests.StatusIoError;
        }
        _rangeCount = Chain.Read(_ranges.AsSpan(0, (int)length)) / VirtioBlockRequests.RangeLength;
        for (int i = 0; i < _rangeCount; i++)
        {
            (ulong sector, uint sectors, uint flags) = Range(i);
            if ((flags & ~VirtioBlockRequests.RangeUnmap) != 0 || (flags != 0 && Type == VirtioBlockRequests.Discard))
            {
                return VirtioBlockRequests.StatusUnsupported;
            }
            ulong total = (ulong)capacity / VirtioBlockRequests.SectorSize;
            if (sectors > VirtioBlockRequests.MaximumRangeSectors || sector > total || sectors > total - sector)
            {
                return VirtioBlockRequests.StatusIoError;
            }
        }
        return null;
    }

    /// <summary>Forgets the driver's buffers.</summary>
    public void End()
    {
        (Queue, Chain, _data) = (null!, null!, default);
        Array.Clear(_pieces);
    }

    /// <inheritdoc/>
    protected override ValueTask Issue(CancellationToken cancellation) => Type switch
    {
        VirtioBlockRequests.In => _disk.ReadAsync(_offset, _data, cancellation),
        VirtioBlockRequests.Out => _disk.WriteAsync(_offset, _data, _writeOptions, cancellation),
        VirtioBlockRequests.Flush => _disk.FlushAsync(cancellation),
        _ => ChangeRangesAsync(cancellation),
    };

    private async ValueTask ChangeRangesAsync(CancellationToken cancellation)
    {
        for (int i = 0; i < _rangeCount; i++)
        {
            (ulong sector, uint sectors, uint flags) = Range(i);
            long offset = (long)sector * VirtioBlockRequests.SectorSize, length = (long)sectors * VirtioBlockRequests.SectorSize;
            if (length == 0)
            {
                continue;
            }
            if (Type == VirtioBlockRequests.Discard)
            {
                await _disk.TryDiscardAsync(offset, length, cancellation).ConfigureAwait(false);
            }
            else
            {
                ZeroOptions options = ((flags & VirtioBlockRequests.RangeUnmap) != 0 ? ZeroOptions.MayUnmap : ZeroOptions.None)
                    | ((_writeOptions & WriteOptions.ForceUnitAccess) != 0 ? ZeroOptions.ForceUnitAccess : ZeroOptions.None);
                await _disk.ZeroAsync(offset, length, options, cancellation).ConfigureAwait(false);
            }
        }
    }

    private (ulong Sector, uint Sectors, uint Flags) Range(int index)
    {
        ReadOnlySpan<byte> range = _ranges.AsSpan(index * VirtioBlockRequests.RangeLength, VirtioBlockRequests.RangeLength);
        return (BinaryPrimitives.ReadUInt64LittleEndian(range), BinaryPrimitives.ReadUInt32LittleEndian(range[8..]), BinaryPrimitives.ReadUInt32LittleEndian(range[12..]));
    }
}
