using System.Buffers.Binary;
using Lodge.Engine.Memory;

namespace Lodge.Machine.Virtio;

/// <summary>A piece of a descriptor chain: <paramref name="Length"/> bytes of RAM at guest physical <paramref name="Address"/>.</summary>
public readonly record struct ChainSegment(ulong Address, uint Length);

/// <summary>
/// One request popped from a virtqueue: a device-readable part followed by a device-writable part, each read or written in order as if it were
/// contiguous. Every segment was checked to lie in RAM and the descriptors were read once, so what the driver changes afterwards has no effect on
/// the shape. Owned by the device until <see cref="VirtQueue.Complete"/>; used by one thread at a time.
/// </summary>
public sealed partial class DescriptorChain
{
    private readonly GuestMemory _memory;
    private ChainSegment[] _segments = new ChainSegment[4];
    private int _count;
    private int _readable;          // segments before this index are device-readable
    private int _readSegment;
    private uint _readOffset;
    private int _writeSegment;
    private uint _writeOffset;

    internal DescriptorChain(GuestMemory memory) => _memory = memory;

    /// <summary>Index of the first descriptor.</summary>
    public ushort Head { get; private set; }

    /// <summary>Bytes that the device may read.</summary>
    public uint ReadableLength { get; private set; }

    /// <summary>Bytes that the device may write.</summary>
    public uint WritableLength { get; private set; }

    /// <summary>Readable bytes not yet read.</summary>
    public uint Unread { get; private set; }

    /// <summary>Bytes written so far, which is what <see cref="VirtQueue.Complete"/> reports to the driver.</summary>
    public uint Written { get; private set; }

    /// <summary>Device-readable segments.</summary>
    public ReadOnlySpan<ChainSegment> Readable => _segments.AsSpan(0, _readable);

    /// <summary>Device-writable segments.</summary>
    public ReadOnlySpan<ChainSegment> Writable => _segments.AsSpan(_readable, _count - _readable);

    internal bool InFlight { get; set; }

    /// <summary>Copies the next readable bytes; returns how many (fewer than asked only at the end).</summary>
    public int Read(Span<byte> destination)
    {
        int done = 0;
        while (done < destination.Length && _readSegment < _readable)
        {
            ChainSegment segment = _segments[_readSegment];
            int step = (int)Math.Min(segment.Length - _readOffset, (uint)(destination.Length - done));
            if (!_memory.TryRead(segment.Address + _readOffset, destination.Slice(done, step)))
            {
                break;
            }
            done += step;
            AdvanceRead((uint)step);
        }
        return done;
    }

    /// <summary>Passes over readable bytes; returns how many.</summary>
    public uint Skip(uint count)
    {
        uint done = 0;
        while (done < count && _readSegment < _readable)
        {
            uint step = Math.Min(_segments[_readSegment].Length - _readOffset, count - done);
            done += step;
            AdvanceRead(step);
        }
        return done;
    }

    /// <summary>Gives the last <paramref name="count"/> read bytes back, at most what was read.</summary>
    public void Rewind(uint count)
    {
        uint position = ReadableLength - Unread;
        uint target = position - Math.Min(position, count);
        _readSegment = 0;
        _readOffset = 0;
        Unread = ReadableLength;
        Skip(target);
    }

    /// <summary>Reads a little-endian 16-bit value; false when fewer bytes are left.</summary>
    public bool TryReadUInt16(out ushort value)
    {
        Span<byte> bytes = stackalloc byte[2];
        bool ok = Read(bytes) == 2;
        value = BinaryPrimitives.ReadUInt16LittleEndian(bytes);
        return ok;
    }

    /// <summary>Reads a little-endian 32-bit value; false when fewer bytes are left.</summary>
    public bool TryReadUInt32(out uint value)
    {
        Span<byte> bytes = stackalloc byte[4];
        bool ok = Read(bytes) == 4;
        value = BinaryPrimitives.ReadUInt32LittleEndian(bytes);
        return ok;
    }

    /// <summary>Appends to the writable part; returns how many bytes fitted.</summary>
    public int Write(ReadOnlySpan<byte> source)
    {
        int done = 0;
        while (done < source.Length && _writeSegment < _count)
        {
            ChainSegment segment = _segments[_writeSegment];
            int step = (int)Math.Min(segment.Length - _writeOffset, (uint)(source.Length - done));
            if (!_memory.TryWrite(segment.Address + _writeOffset, source.Slice(done, step)))
            {
                break;
            }
            done += step;
            AdvanceWrite((uint)step);
        }
        Written += (uint)done;
        return done;
    }

    internal void Begin(ushort head)
    {
        Head = head;
        _count = _readable = _readSegment = _writeSegment = 0;
        _readOffset = _writeOffset = 0;
        ReadableLength = WritableLength = Unread = Written = 0;
        InFlight = false;
    }

    /// <summary>Adds a buffer as the table lists it, checking order, place and total.</summary>
    internal QueueViolation Add(ulong address, uint length, bool writable)
    {
        if (!writable && _count > _readable)
        {
            return QueueViolation.BufferOrder;
        }
        if (length == 0)
        {
            return QueueViolation.None;
        }
        if (!_memory.TryGetOffset(address, length, out _))
        {
            return QueueViolation.OutsideMemory;
        }
        if ((ulong)ReadableLength + WritableLength + length > uint.MaxValue)
        {
            return QueueViolation.TooManyBytes;
        }
        if (_count == _segments.Length)
        {
            Array.Resize(ref _segments, _count * 2);
        }
        _segments[_count++] = new ChainSegment(address, length);
        if (writable)
        {
            WritableLength += length;
        }
        else
        {
            _readable = _count;
            ReadableLength += length;
            Unread += length;
        }
        _writeSegment = _readable;
        return QueueViolation.None;
    }

    private void AdvanceRead(uint step)
    {
        Unread -= step;
        _readOffset += step;
        if (_readOffset == _segments[_readSegment].Length)
        {
            _readSegment++;
            _readOffset = 0;
        }
    }
}
