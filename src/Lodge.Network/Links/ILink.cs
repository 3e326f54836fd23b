using Lodge.Network.Packets;

namespace Lodge.Network.Links;

/// <summary>
/// What a machine's network card is plugged into: a tap, a user-mode stack, a filter before another link, ... It passes Ethernet frames without their frame check sequence.
/// <para>
/// The card pulls: nothing is buffered without bound, and a card without receive buffers leaves the frames where they are. <see cref="TrySend"/> and
/// <see cref="TryReceive"/> are called by one thread at a time (the card's worker), never block, and never throw for what a frame contains; an error of the
/// host drops the frame. A frame is private memory that neither the guest nor anybody else changes meanwhile, so that a filter can rely on what it read.
/// </para>
/// </summary>
public interface ILink : IDisposable
{
    /// <summary>Offloads that frames may use on their way out (from the card). The card completes in software, or does not offer its guest, what is not here.</summary>
    OffloadFeatures SendOffloads { get; }

    /// <summary>
    /// Tells the link which offloads the guest accepts on frames that it receives; the link then hands out no others. Called before the first
    /// <see cref="TryReceive"/> and again whenever the driver changes its mind (VIRTIO_NET_CTRL_GUEST_OFFLOADS, a reset).
    /// </summary>
    void AcceptOffloads(OffloadFeatures accepted);

    /// <summary>Largest frame without offload, in bytes: the MTU and 14 bytes of Ethernet header (18 with a VLAN tag).</summary>
    int MaximumFrame { get; }

    /// <summary>Whether the other end is there; a card shows it as its link state.</summary>
    bool IsUp { get; }

    /// <summary>
    /// Connects the card: <paramref name="wake"/> is called, on any thread, whenever <see cref="TryReceive"/> may have a frame after it had none, <see cref="TrySend"/> may take
    /// one after it refused, or <see cref="IsUp"/> changed. It returns at once, and may be called too often but never too rarely.
    /// </summary>
    void Connect(Action wake);

    /// <summary>
    /// Sends a frame, or drops it as a network may. False when the link takes none at present (rate limit, full socket): the same frame is offered again
    /// after the wake. The frame may be up to 65,535 bytes and headers with a <see cref="FrameOffload.Segmentation"/>.
    /// </summary>
    bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload);

    /// <summary>Takes the next frame. Returns its length, 0 when there is none at present. A frame that is longer than <paramref name="buffer"/> (which has at least 65,562 bytes) is dropped.</summary>
    int TryReceive(Span<byte> buffer, out FrameOffload offload);
}
