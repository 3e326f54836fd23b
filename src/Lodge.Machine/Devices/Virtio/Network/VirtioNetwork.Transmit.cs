using System.Buffers.Binary;
using System.Numerics;
using Lodge.Machine.Virtio;
using Lodge.Network.Packets;

namespace Lodge.Machine.Devices.Virtio.Network;

/// <content>From the guest to the link (virtio 1.2, 5.1.6.2).</content>
public sealed partial class VirtioNetwork
{
    private const ushort TypeVlan = 0x8100;
    private const ushort TypeServiceVlan = 0x88A8;
    private const int VlanTag = 4;

    private readonly byte[] _sent = new byte[VirtioNetworkHeader.Length + VirtioNetworkRegisters.MaximumFrame];
    private DescriptorChain? _refused;      // the frame in _sent is the chain's, and the link takes none at present
    private VirtQueue? _refusedQueue;
    private int _refusedLength;
    private FrameOffload _refusedOffload;
    private ulong _waiting;                 // transmit queues that may have more once the link takes it

    /// <summary>Sends the frame of a chain. False when the link takes none at present.</summary>
    private bool Transmit(VirtQueue queue, DescriptorChain chain)
    {
        if (chain.Unread < VirtioNetworkHeader.Length)
        {
            Reject(queue, chain);
            return false;
        }
        uint length = chain.Unread - VirtioNetworkHeader.Length;
        if (length is < VirtioNetworkRegisters.EthernetHeader or > VirtioNetworkRegisters.MaximumFrame)
        {
            Counters.SendFailed();
            queue.Complete(chain);
            return true;
        }
        // The copy is what is checked and sent: the guest may change its memory at any time.
        chain.Read(_sent.AsSpan(0, VirtioNetworkHeader.Length + (int)length));
        ReadOnlySpan<byte> frame = _sent.AsSpan(VirtioNetworkHeader.Length, (int)length);
        if (!VirtioNetworkHeader.TryRead(_sent, DriverFeatures, frame.Length, out FrameOffload offload)
            || (offload.Segmentation == FrameSegmentation.None && frame.Length > _link.MaximumFrame + VlanTags(frame)))
        {
            Counters.SendFailed();
            queue.Complete(chain);
            return true;
        }
        if (!LinkUp)
        {
            Counters.SendDropped();
            queue.Complete(chain);
            return true;
        }
        if (_pairs > 1)
        {
            _flows.Learn(frame, queue.Index / 2);
        }
        if (!_link.TrySend(frame, offload))
        {
            (_refused, _refusedQueue, _refusedLength, _refusedOffload) = (chain, queue, frame.Length, offload);
            _waiting |= 1UL << queue.Index;
            return false;
        }
        Counters.Sent(frame.Length);
        queue.Complete(chain);
        return true;
    }

    /// <summary>Offers the link again what it refused.</summary>
    private void Retransmit()
    {
        if (_refused is not { } chain || _refusedQueue is not { } queue)
        {
            return;
        }
        if (!LinkUp)
        {
            Counters.SendDropped();
        }
        else if (_link.TrySend(_sent.AsSpan(VirtioNetworkHeader.Length, _refusedLength), _refusedOffload))
        {
            Counters.Sent(_refusedLength);
        }
        else
        {
            return;
        }
        _refused = null;
        _refusedQueue = null;
        queue.Complete(chain);
        Notify(queue);
        KickWaiting();
    }

    private void KickWaiting()
    {
        for (; _waiting != 0; _waiting &= _waiting - 1)
        {
            Kick(BitOperations.TrailingZeroCount(_waiting));
        }
    }

    /// <summary>Bytes that a frame has more than its MTU and Ethernet header because of VLAN tags, at most two (IEEE 802.1ad).</summary>
    private static int VlanTags(ReadOnlySpan<byte> frame)
    {
        int length = 0;
        while (length < 2 * VlanTag && frame.Length >= length + 18
            && BinaryPrimitives.ReadUInt16BigEndian(frame[(12 + length)..]) is TypeVlan or TypeServiceVlan)
        {
            length += VlanTag;
        }
        return length;
    }
}
