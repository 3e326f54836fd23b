using Lodge.Network.Links;
using Lodge.Network.Packets;

namespace Lodge.Network.Offloads;

/// <summary>
/// Does in software what the link below does not: on the way out it completes checksums and cuts what is longer than the MTU, so that any link takes every offload; on the
/// way in it does the same for a guest that does not accept what the link hands out, checks checksums for one that trusts them, and merges TCP segments for
/// one that accepts large frames. Merging takes only what the link has at that moment, so that nothing waits.
/// </summary>
public sealed class OffloadingLink : LinkDecorator
{
    /// <summary>What every such link takes from its card, see <see cref="SendOffloads"/>.</summary>
    public const OffloadFeatures All = OffloadFeatures.Checksum | OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn | OffloadFeatures.UdpSegmentation;
    private const int BufferLength = 66 * 1024;
    private const int LeastBuffer = 65_562; // see ILink.TryReceive
    private const int MostDrops = 64;

    private readonly bool _trusted;
    private readonly byte[] _segment = new byte[BufferLength];
    private readonly FrameSegmenter _sends = new();

    // The frame of which some segments were sent before the link refused one: it is offered again.
    private readonly byte[] _refusedStart = new byte[256];
    private int _refusedLength;
    private int _refusedSegment;
    private FrameOffload _refusedOffload;

    // Received frames: one that is being cut, one that was taken and did not continue the one before it.
    private readonly FrameSegmenter _receives = new();
    private readonly byte[] _large = new byte[BufferLength];
    private int _largeLength;
    private int _largeSegment;
    private readonly SegmentMerger _merger = new();
    private readonly byte[] _held = new byte[BufferLength];
    private int _heldLength;
    private FrameOffload _heldOffload;

    private OffloadFeatures _accepted;
    private Action? _wake;

    /// <summary>
    /// Takes ownership of <paramref name="inner"/>. With <paramref name="trusted"/> the checksums of what it hands out are right without a look: it makes the frames itself on
    /// this host, as a user-mode stack does.
    /// </summary>
    public OffloadingLink(ILink inner, bool trusted = false)
        : base(inner) => _trusted = trusted;

    /// <summary>Frames dropped because what was to be done on them contradicts their content.</summary>
    public LinkCounters Counters { get; } = new();

    /// <inheritdoc/>
    public override OffloadFeatures SendOffloads => All;

    /// <inheritdoc/>
    public override void AcceptOffloads(OffloadFeatures accepted)
    {
        // Large frames come with partial checksums (virtio 1.2, 5.1.6.4.1): neither without the other.
        _accepted = (accepted & OffloadFeatures.Checksum) != 0 ? accepted : OffloadFeatures.None;
        Inner.AcceptOffloads(_accepted);
    }

    /// <inheritdoc/>
    public override void Connect(Action wake)
    {
        _wake = wake;
        Inner.Connect(wake);
    }

    /// <inheritdoc/>
    public override bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        var missing = Needed(offload) & ~Inner.SendOffloads;
        if (missing == 0)
        {
            return Count(Inner.TrySend(frame, offload), frame.Length);
        }
        if (frame.Length > BufferLength)
        {
            Counters.SentError();
            return true;
        }
        if (offload.Segmentation == FrameSegmentation.None)
        {
            frame.CopyTo(_segment);
            if (!InternetChecksum.TryComplete(_segment.AsSpan(0, frame.Length), offload.ChecksumStart, offload.ChecksumOffset))
            {
                Counters.SentError();
                return true;
            }
            return Count(Inner.TrySend(_segment.AsSpan(0, frame.Length), default), frame.Length);
        }

        int index = IsRefused(frame, offload) ? _refusedSegment : 0;
        _refusedLength = 0;
        if (!_sends.TryStart(frame, offload))
        {
            Counters.SentError();
            return true;
        }
        for (; index < _sends.Count; index++)
        {
            int length = _sends.Write(frame, index, _segment);
            if (!Inner.TrySend(_segment.AsSpan(0, length), default))
            {
                Refuse(frame, offload, index);
                return false;
            }
        }
        return Count(true, frame.Length);
    }

    /// <inheritdoc/>
    public override int TryReceive(Span<byte> buffer, out FrameOffload offload)
    {
        for (int drops = 0; drops < MostDrops; drops++)
        {
            int length = Take(buffer, out offload);
            if (length == 0)
            {
                return 0;
            }
            length = Complete(buffer, length, ref offload);
            if (length != 0)
            {
                Counters.Received(length);
                return length;
            }
            Counters.ReceivedError();
        }
        offload = default;
        _wake?.Invoke();
        return 0;
    }

    private static OffloadFeatures Needed(in FrameOffload offload)
    {
        var needed = offload.NeedsChecksum ? OffloadFeatures.Checksum : OffloadFeatures.None;
        needed |= offload.Segmentation switch
        {
            FrameSegmentation.None => OffloadFeatures.None,
            FrameSegmentation.TcpV4 => OffloadFeatures.TcpV4,
            FrameSegmentation.TcpV6 => OffloadFeatures.TcpV6,
            _ => OffloadFeatures.UdpSegmentation,
        };
        return offload.Segmentation != FrameSegmentation.None && offload.Ecn ? needed | OffloadFeatures.TcpEcn : needed;
    }

    private bool Count(bool sent, int length)
    {
        if (sent)
        {
            Counters.Sent(length);
        }
        return sent;
    }

    private bool IsRefused(ReadOnlySpan<byte> frame, in FrameOffload offload) => _refusedLength != 0 && _refusedLength == frame.Length && _refusedOffload == offload
        && frame[..Math.Min(frame.Length, _refusedStart.Length)].SequenceEqual(_refusedStart.AsSpan(0, Math.Min(frame.Length, _refusedStart.Length)));

    private void Refuse(ReadOnlySpan<byte> frame, in FrameOffload offload, int index)
    {
        _refusedLength = frame.Length;
        _refusedOffload = offload;
        _refusedSegment = index;
        frame[..Math.Min(frame.Length, _refusedStart.Length)].CopyTo(_refusedStart);
    }

    /// <summary>The next frame as it came; 0 when there is none.</summary>
    private int Take(Span<byte> buffer, out FrameOffload offload)
    {
        if (_largeLength != 0)
        {
            // A segment is no longer than the whole, which had room in a buffer of the least length that the card must give.
            int length = _receives.Write(_large.AsSpan(0, _largeLength), _largeSegment, buffer);
            _largeLength = ++_largeSegment == _receives.Count ? 0 : _largeLength;
            offload = new() { ChecksumValid = true };
            return length;
        }
        if (_heldLength != 0)
        {
            int length = _heldLength;
            offload = _heldOffload;
            _held.AsSpan(0, length).CopyTo(buffer);
            _heldLength = 0;
            return length;
        }
        return Inner.TryReceive(buffer, out offload);
    }

    /// <summary>Makes a frame what the guest accepts. Returns its length, 0 to drop it.</summary>
    private int Complete(Span<byte> buffer, int length, ref FrameOffload offload)
    {
        var frame = buffer[..length];
        var missing = Needed(offload) & ~_accepted;
        if (offload.Segmentation != FrameSegmentation.None && missing != 0)
        {
            if (length > LeastBuffer || !_receives.TryStart(frame, offload))
            {
                return 0;
            }
            frame.CopyTo(_large);
            _largeSegment = 1;
            _largeLength = _receives.Count > 1 ? length : 0;
            length = _receives.Write(_large.AsSpan(0, length), 0, buffer);
            offload = new() { ChecksumValid = (_accepted & OffloadFeatures.Checksum) != 0 };
            return length;
        }
        if (missing != 0)
        {
            bool isComplete = InternetChecksum.TryComplete(frame, offload.ChecksumStart, offload.ChecksumOffset);
            offload = default;
            return isComplete ? length : 0;
        }
        if (offload.NeedsChecksum || offload.Segmentation != FrameSegmentation.None)
        {
            return length;
        }
        if ((_accepted & OffloadFeatures.Checksum) == 0)
        {
            offload = default;
            return length;
        }
        return Merge(buffer, length, ref offload);
    }

    /// <summary>Checks a complete frame, and appends to it what the link has of the same connection.</summary>
    private int Merge(Span<byte> buffer, int length, ref FrameOffload offload)
    {
        var frame = buffer[..length];
        FrameLayout.Parse(frame, out var layout);
        offload = new() { ChecksumValid = IsValid(frame, layout, offload) };
        var kind = layout.Network == NetworkProtocol.Ipv4 ? OffloadFeatures.TcpV4 : OffloadFeatures.TcpV6;
        if (!offload.ChecksumValid || (_accepted & kind) == 0 || _largeLength != 0 || !_merger.TryStart(frame, layout))
        {
            return length;
        }
        while ((_heldLength = Inner.TryReceive(_held.AsSpan(0, LeastBuffer), out _heldOffload)) != 0)
        {
            if (_heldOffload.NeedsChecksum || _heldOffload.Segmentation != FrameSegmentation.None)
            {
                break;
            }
            var next = _held.AsSpan(0, _heldLength);
            FrameLayout.Parse(next, out var nextLayout);
            _heldOffload = new() { ChecksumValid = IsValid(next, nextLayout, _heldOffload) };
            if (!_heldOffload.ChecksumValid || !_merger.TryAppend(buffer, next, nextLayout))
            {
                break;
            }
        }
        return _merger.Finish(buffer, out offload);
    }

    private bool IsValid(ReadOnlySpan<byte> frame, in FrameLayout layout, in FrameOffload offload) => layout.IsIp && !layout.IsFragment
        && layout.Protocol is IpProtocol.Tcp or IpProtocol.Udp && (_trusted || offload.ChecksumValid || InternetChecksum.IsTransportValid(frame, layout));
}
