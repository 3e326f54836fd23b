using Lodge.Network.Offloads;
using Lodge.Network.Packets;

namespace Lodge.Network.Links;

/// <summary>How a pair of <see cref="MemoryLink"/> is set up.</summary>
public sealed record MemoryLinkOptions
{
    /// <summary>Frames that may be under way in each direction.</summary>
    public int Capacity { get; init; } = 256;

    /// <summary>Largest packet of a frame without offload, in bytes.</summary>
    public int Mtu { get; init; } = 1500;

    /// <summary>What frames may leave to do; it is done here when the receiving end does not accept it.</summary>
    public OffloadFeatures Offloads { get; init; }

    /// <summary>Whether a frame that finds the queue full is dropped, as in a switch; otherwise the sender waits.</summary>
    public bool DropsWhenFull { get; init; }
}

/// <summary>One end of a cable between two machines of this process, or between a machine and a test. Each direction is a bounded queue.</summary>
public sealed class MemoryLink : ILink
{
    private readonly Lane _outward;
    private readonly Lane _inward;
    private readonly MemoryLinkOptions _options;
    private Action? _wake;
    private MemoryLink _other = null!;
    private volatile bool _disposed;
    private volatile bool _connected = true;

    private MemoryLink(Lane outward, Lane inward, MemoryLinkOptions options) => (_outward, _inward, _options) = (outward, inward, options);

    /// <summary>Makes both ends of a cable.</summary>
    public static (MemoryLink First, MemoryLink Second) CreatePair(MemoryLinkOptions? options = null)
    {
        options ??= new MemoryLinkOptions();
        ArgumentOutOfRangeException.ThrowIfLessThan(options.Capacity, 1, nameof(options));
        Lane there = new(options.Capacity), back = new(options.Capacity);
        MemoryLink first = new(there, back, options), second = new(back, there, options);
        (first._other, second._other) = (second, first);
        return (first, second);
    }

    /// <summary>Frames that this end sent and that were dropped because the queue was full or the other end is gone.</summary>
    public long Dropped => _outward.Dropped;

    /// <summary>Frames for this end that were dropped because it does not accept what they leave to do, and that cannot be done as their content is no such packet.</summary>
    public long Undeliverable => _inward.Undeliverable;

    /// <inheritdoc/>
    public OffloadFeatures SendOffloads => _options.Offloads;

    /// <inheritdoc/>
    public int MaximumFrame => _options.Mtu + 14;

    /// <inheritdoc/>
    public bool IsUp => _connected && !_disposed && !_other._disposed;

    /// <summary>Whether the cable is whole; both ends see a change.</summary>
    public void SetConnected(bool connected)
    {
        _connected = _other._connected = connected;
        _wake?.Invoke();
        _other._wake?.Invoke();
    }

    /// <inheritdoc/>
    public void AcceptOffloads(OffloadFeatures accepted) => _inward.Accept(accepted);

    /// <inheritdoc/>
    public void Connect(Action wake) => _wake = wake;

    /// <inheritdoc/>
    public bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        bool taken = _outward.TryAdd(frame, offload, _options.DropsWhenFull || !IsUp, IsUp, out bool first);
        if (first)
        {
            _other._wake?.Invoke();
        }
        return taken;
    }

    /// <inheritdoc/>
    public int TryReceive(Span<byte> buffer, out FrameOffload offload)
    {
        int length = _inward.TryTake(buffer, out offload, out bool awaited);
        if (awaited)
        {
            _other._wake?.Invoke();
        }
        return length;
    }

    /// <summary>Unplugs this end; the other one sees the link down.</summary>
    public void Dispose()
    {
        _disposed = true;
        _other._wake?.Invoke();
    }

    /// <summary>The frames of one direction. Places are used again, so that nothing is allocated once they have grown.</summary>
    private sealed class Lane(int capacity)
    {
        private readonly Lock _gate = new();
        private readonly byte[][] _frames = new byte[capacity][];
        private readonly int[] _lengths = new int[capacity];
        private readonly FrameOffload[] _offloads = new FrameOffload[capacity];
        private int _first;
        private int _count;
        private bool _refused;
        private OffloadFeatures _accepted = (OffloadFeatures)~0;        // until the receiver says otherwise
        private readonly FrameSegmenter _segmenter = new();
        private int _segment;       // of the first frame, which is being cut; 0: it is not
        private long _dropped;
        private long _undeliverable;

        public long Dropped => Volatile.Read(ref _dropped);

        public long Undeliverable => Volatile.Read(ref _undeliverable);

        public void Accept(OffloadFeatures accepted)
        {
            lock (_gate)
            {
                _accepted = accepted;
                if (_segment != 0)
                {
                    // The rest of a frame that was being cut is lost, as a network may.
                    _segment = 0;
                    _first = (_first + 1) % capacity;
                    _count--;
                }
            }
        }

        /// <summary>False when full and nothing may be dropped.</summary>
        public bool TryAdd(ReadOnlySpan<byte> frame, in FrameOffload offload, bool mayDrop, bool up, out bool first)
        {
            lock (_gate)
            {
                first = false;
                if (_count == capacity && !mayDrop)
                {
                    _refused = true;
                    return false;
                }
                if (_count == capacity || !up)
                {
                    Volatile.Write(ref _dropped, _dropped + 1);
                    return true;
                }
                int place = (_first + _count) % capacity;
                byte[] bytes = _frames[place];
                if (bytes is null || bytes.Length < frame.Length)
                {
                    _frames[place] = bytes = new byte[Math.Max(2048, (int)System.Numerics.BitOperations.RoundUpToPowerOf2((uint)frame.Length))];
                }
                frame.CopyTo(bytes);
                _lengths[place] = frame.Length;
                _offloads[place] = offload;
                first = _count++ == 0;
                return true;
            }
        }

        /// <summary>0 when empty. One frame that the receiver does not accept as it is becomes as many as are needed.</summary>
        public int TryTake(Span<byte> buffer, out FrameOffload offload, out bool awaited)
        {
            lock (_gate)
            {
                awaited = false;
                offload = default;
                while (_count != 0)
                {
                    int length = _lengths[_first];
                    ReadOnlySpan<byte> frame = _frames[_first].AsSpan(0, length);
                    ref readonly FrameOffload left = ref _offloads[_first];
                    int done = length > buffer.Length ? 0
                        : (left.Required & ~_accepted) == 0 ? Whole(frame, buffer)
                        : left.Segmentation == FrameSegmentation.None ? Complete(frame, buffer, left)
                        : NextSegment(frame, buffer, left);
                    if (done != 0 && (left.Required & ~_accepted) == 0)
                    {
                        offload = left;
                    }
                    if (done == 0)
                    {
                        Volatile.Write(ref _undeliverable, _undeliverable + 1);
                        _segment = 0;
                    }
                    if (_segment == 0)
                    {
                        _first = (_first + 1) % capacity;
                        _count--;
                        awaited |= _refused;
                        _refused = false;
                    }
                    if (done != 0)
                    {
                        return done;
                    }
                }
                return 0;
            }
        }

        private static int Whole(ReadOnlySpan<byte> frame, Span<byte> buffer)
        {
            frame.CopyTo(buffer);
            return frame.Length;
        }

        private static int Complete(ReadOnlySpan<byte> frame, Span<byte> buffer, in FrameOffload offload)
        {
            frame.CopyTo(buffer);
            return InternetChecksum.TryComplete(buffer[..frame.Length], offload.ChecksumStart, offload.ChecksumOffset) ? frame.Length : 0;
        }

        private int NextSegment(ReadOnlySpan<byte> frame, Span<byte> buffer, in FrameOffload offload)
        {
            if (_segment == 0 && !_segmenter.TryStart(frame, offload))
            {
                return 0;
            }
            int length = _segmenter.Write(frame, _segment, buffer);
            _segment = _segment + 1 == _segmenter.Count ? 0 : _segment + 1;
            return length;
        }
    }
}
