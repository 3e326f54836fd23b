using Lodge.Network.Links;
using Lodge.Network.Offloads;
using Lodge.Network.Packets;

namespace Lodge.Network.Limits;

/// <summary>
/// Holds a link's traffic to limits by token buckets. Nothing is dropped: a card that sends too much is refused until its time comes, and received frames stay in the link
/// below, which drops what it has no room for. A timer wakes the card.
/// </summary>
public sealed class RateLimitedLink : LinkDecorator
{
    private readonly Lock _gate = new();
    private readonly Direction _sends;
    private readonly Direction _receives;
    private LinkLimits _limits = LinkLimits.None;
    private Action? _wake;
    private bool _disposed;

    /// <summary>Takes ownership of <paramref name="inner"/>.</summary>
    /// <exception cref="NetworkException">The limits contradict themselves.</exception>
    public RateLimitedLink(ILink inner, LinkLimits limits, TimeProvider? time = null)
        : base(inner)
    {
        limits.Check();
        time ??= TimeProvider.System;
        _sends = new(time, Wake);
        _receives = new(time, Wake);
        Limits = limits;
    }

    /// <summary>The limits; a change holds at once, also for a card that waits. Any thread may set them.</summary>
    /// <exception cref="NetworkException">They contradict themselves.</exception>
    public LinkLimits Limits
    {
        get
        {
            lock (_gate)
            {
                return _limits;
            }
        }

        set
        {
            value.Check();
            lock (_gate)
            {
                _limits = value;
                _sends.Set(value.SendBytes, value.SendPackets);
                _receives.Set(value.ReceiveBytes, value.ReceivePackets);
            }
            Wake();
        }
    }

    /// <inheritdoc/>
    public override void Connect(Action wake)
    {
        Volatile.Write(ref _wake, wake);
        Inner.Connect(wake);
    }

    /// <inheritdoc/>
    public override bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        lock (_gate)
        {
            if (_sends.IsLimited)
            {
                var (bytes, packets) = Cost(frame, offload);
                if (!_sends.IsDue(bytes, packets))
                {
                    return false;
                }
                if (!Inner.TrySend(frame, offload))
                {
                    return false;
                }
                _sends.Take(bytes, packets);
                return true;
            }
        }
        return Inner.TrySend(frame, offload);
    }

    /// <inheritdoc/>
    public override int TryReceive(Span<byte> buffer, out FrameOffload offload)
    {
        lock (_gate)
        {
            if (_receives.IsLimited)
            {
                // How long the next frame is shows when it is taken: it is taken when there is no debt, and may leave one.
                offload = default;
                if (!_receives.IsDue(1, 1))
                {
                    return 0;
                }
                int length = Inner.TryReceive(buffer, out offload);
                if (length != 0)
                {
                    var (bytes, packets) = Cost(buffer[..length], offload);
                    _receives.Take(bytes, packets);
                }
                return length;
            }
        }
        return Inner.TryReceive(buffer, out offload);
    }

    /// <inheritdoc/>
    protected override void Dispose(bool disposing)
    {
        lock (_gate)
        {
            _disposed = true;
            _sends.Dispose();
            _receives.Dispose();
        }
        base.Dispose(disposing);
    }

    /// <summary>Bytes and packets of a frame on a wire.</summary>
    internal static (long Bytes, long Packets) Cost(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        if (offload.Segmentation == FrameSegmentation.None || offload.SegmentSize == 0)
        {
            return (frame.Length, 1);
        }
        FrameLayout.Parse(frame, out var layout);
        int headers = FrameSegmenter.HeaderLength(frame, layout, offload.Segmentation);
        if (headers == 0)
        {
            return (frame.Length, 1);
        }
        long packets = Math.Max(1, (frame.Length - headers + offload.SegmentSize - 1) / offload.SegmentSize);
        return (frame.Length + ((packets - 1) * headers), packets);
    }

    private void Wake()
    {
        if (!Volatile.Read(ref _disposed))
        {
            Volatile.Read(ref _wake)?.Invoke();
        }
    }

    private sealed class Direction(TimeProvider time, Action wake) : IDisposable
    {
        private readonly TokenBucket _bytes = new(time);
        private readonly TokenBucket _packets = new(time);
        private readonly ITimer _timer = time.CreateTimer(static state => ((Action)state!)(), wake, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);

        public bool IsLimited { get; private set; }

        public void Set(LinkRate bytes, LinkRate packets)
        {
            _bytes.Set(bytes);
            _packets.Set(packets);
            IsLimited = bytes.PerSecond != 0 || packets.PerSecond != 0;
        }

        /// <summary>Whether so much may go now; otherwise the card is woken when it may.</summary>
        public bool IsDue(long bytes, long packets)
        {
            var wait = _bytes.Wait(bytes);
            var other = _packets.Wait(packets);
            wait = other > wait ? other : wait;
            if (wait == TimeSpan.Zero)
            {
                return true;
            }
            // Timers count whole milliseconds.
            _timer.Change(TimeSpan.FromMilliseconds(Math.Ceiling(wait.TotalMilliseconds)), Timeout.InfiniteTimeSpan);
            return false;
        }

        public void Take(long bytes, long packets)
        {
            _bytes.Take(bytes);
            _packets.Take(packets);
        }

        public void Dispose() => _timer.Dispose();
    }
}
