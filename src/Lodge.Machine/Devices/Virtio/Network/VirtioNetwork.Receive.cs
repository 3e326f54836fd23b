using System.Numerics;
using Lodge.Machine.Virtio;
using Lodge.Network.Packets;

namespace Lodge.Machine.Devices.Virtio.Network;

/// <content>From the link to the guest (virtio 1.2, 5.1.6.3 and 5.1.6.4).</content>
public sealed partial class VirtioNetwork
{
    private const int FramesPerTurn = 64;
    private const int LinkBuffer = 65_562;              // what ILink.TryReceive is promised

    private readonly byte[] _received = new byte[VirtioNetworkHeader.Length + LinkBuffer];     // the packet header, then the frame
    private readonly DescriptorChain[] _chains;         // those of one frame
    private readonly Timer _patience;                   // looks after a frame that is held
    private int _frameLength;                           // 0: _received holds no frame
    private FrameOffload _frameOffload;
    private long _frameSince;                           // when it was held first, in Environment.TickCount64
    private ulong _asked;                               // receive queues whose driver is to notify of new buffers

    private enum Delivery
    {
        Done,

        /// <summary>The queue has too few buffers at present.</summary>
        TooFew,

        /// <summary>The buffers that the driver uses are too small for the frame.</summary>
        TooSmall,
    }

    private ReadOnlySpan<byte> Frame => _received.AsSpan(VirtioNetworkHeader.Length, _frameLength);

    /// <summary>Gives the guest what the link has, as long as there are buffers.</summary>
    private void Receive()
    {
        ulong touched = 0;
        int i = 0;
        for (; i < FramesPerTurn; i++)
        {
            if (_frameLength == 0 && (!HasBuffers() || !Pull()))
            {
                break;
            }
            if (_frameLength != 0 && !Deliver(ref touched))
            {
                break;
            }
        }
        for (; touched != 0; touched &= touched - 1)
        {
            Notify(Queues[BitOperations.TrailingZeroCount(touched)]);
        }
        if (i == FramesPerTurn)
        {
            Signal();
        }
    }

    /// <summary>Whether a receive queue has a buffer; otherwise its driver is asked to notify. Unplugged, none is needed: frames are taken to be dropped.</summary>
    private bool HasBuffers()
    {
        if (!_plugged)
        {
            return true;
        }
        for (int pair = 0; pair < _pairs; pair++)
        {
            if (ReceiveQueue(pair).HasAvailable)
            {
                return true;
            }
        }
        bool arrived = false;
        for (int pair = 0; pair < _pairs; pair++)
        {
            VirtQueue queue = ReceiveQueue(pair);
            _asked |= 1UL << queue.Index;
            arrived |= queue.ResumeNotifications();
        }
        return arrived;
    }

    /// <summary>Takes a frame from the link; false when there is none. One that the guest is not to have is dropped at once.</summary>
    private bool Pull()
    {
        int length = _link.TryReceive(_received.AsSpan(VirtioNetworkHeader.Length), out FrameOffload offload);
        if (length <= 0)
        {
            return false;
        }
        if (!_plugged)
        {
            Counters.ReceiveDropped();
        }
        else if (length is < VirtioNetworkRegisters.EthernetHeader or > VirtioNetworkRegisters.MaximumFrame
            || !VirtioNetworkHeader.IsAccepted(offload, _accepted, length) || IsTooLong(_received.AsSpan(VirtioNetworkHeader.Length, length), offload))
        {
            Counters.ReceiveFailed();
        }
        else if (!_filter.Accepts(_received.AsSpan(VirtioNetworkHeader.Length, length)))
        {
            Counters.Filtered();
        }
        else
        {
            (_frameLength, _frameOffload, _frameSince) = (length, offload, 0);
        }
        return true;
    }

    /// <summary>A driver that knows the MTU gets nothing longer (virtio 1.2, 5.1.4.1).</summary>
    private bool IsTooLong(ReadOnlySpan<byte> frame, in FrameOffload offload) =>
        offload.Segmentation == FrameSegmentation.None && Has(VirtioNetworkRegisters.FeatureMtu)
        && frame.Length > Mtu + VirtioNetworkRegisters.EthernetHeader + VlanTags(frame);

    /// <summary>Delivers or drops the frame; false when it is held until there are more buffers.</summary>
    private bool Deliver(ref ulong touched)
    {
        VirtQueue queue = ReceiveQueue(_pairs == 1 ? 0 : _flows.Find(Frame, _pairs));
        if (!queue.Enabled || queue.Latched)
        {
            queue = UsableQueue() ?? queue;
        }
        // Too few buffers are waited for: in another queue the frames of a flow would overtake each other.
        Delivery outcome = Deliver(queue);
        if (outcome == Delivery.Done)
        {
            ulong bit = 1UL << queue.Index;
            touched |= bit;
            if ((_asked & bit) != 0)
            {
                _asked &= ~bit;
                queue.SuppressNotifications();
            }
            Counters.Received(_frameLength);
            _frameLength = 0;
            return true;
        }
        long now = Environment.TickCount64;
        _frameSince = _frameSince == 0 ? now : _frameSince;
        if (outcome == Delivery.TooSmall || !_plugged || now - _frameSince >= _configuration.HoldMilliseconds)
        {
            Counters.ReceiveDropped();
            _frameLength = 0;
            return true;
        }
        _asked |= 1UL << queue.Index;
        bool arrived = queue.AwaitMore();
        if (!arrived)
        {
            _patience.Change(_configuration.HoldMilliseconds, Timeout.Infinite);
        }
        return arrived;
    }

    private VirtQueue? UsableQueue()
    {
        for (int pair = 0; pair < _pairs; pair++)
        {
            if (ReceiveQueue(pair) is { Enabled: true, Latched: false } queue)
            {
                return queue;
            }
        }
        return null;
    }

    private Delivery Deliver(VirtQueue queue)
    {
        int total = VirtioNetworkHeader.Length + _frameLength;
        bool mergeable = Has(VirtioNetworkRegisters.FeatureMergeableBuffers);
        int count = 0;
        for (ulong room = 0; room < (ulong)total;)
        {
            if (queue.TryPop() is not { } chain)
            {
                PutBack(queue, count);
                // All that the ring can hold was not enough, and never will be.
                return count == queue.Size ? Delivery.TooSmall : Delivery.TooFew;
            }
            _chains[count++] = chain;
            room += chain.WritableLength;
            if (chain.WritableLength < VirtioNetworkHeader.Length)
            {
                PutBack(queue, count);
                queue.Latch(QueueViolation.BadRequest);     // 5.1.6.3.1: each buffer holds at least a packet header
                return Delivery.TooFew;
            }
            if (!mergeable && room < (ulong)total)
            {
                PutBack(queue, count);
                return Delivery.TooSmall;
            }
        }
        VirtioNetworkHeader.Write(_received, _frameOffload, (_guestOffloads & VirtioNetworkRegisters.FeatureGuestChecksum) != 0);
        VirtioNetworkHeader.WriteBuffers(_received, count);
        ReadOnlySpan<byte> rest = _received.AsSpan(0, total);
        foreach (DescriptorChain chain in _chains.AsSpan(0, count))
        {
            rest = rest[chain.Write(rest)..];
        }
        queue.CompleteTogether(_chains.AsSpan(0, count));
        return Delivery.Done;
    }

    private void PutBack(VirtQueue queue, int count)
    {
        while (count > 0)
        {
            queue.PutBack(_chains[--count]);
        }
    }
}
