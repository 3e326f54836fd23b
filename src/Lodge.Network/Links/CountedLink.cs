using Lodge.Network.Packets;

namespace Lodge.Network.Links;

/// <summary>Counts the frames and bytes that pass; drops and errors are with the links that drop.</summary>
public sealed class CountedLink(ILink inner) : LinkDecorator(inner)
{
    /// <summary>The counts.</summary>
    public LinkCounters Counters { get; } = new();

    /// <inheritdoc/>
    public override bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        if (!Inner.TrySend(frame, offload))
        {
            return false;
        }
        Counters.Sent(frame.Length);
        return true;
    }

    /// <inheritdoc/>
    public override int TryReceive(Span<byte> buffer, out FrameOffload offload)
    {
        int length = Inner.TryReceive(buffer, out offload);
        if (length != 0)
        {
            Counters.Received(length);
        }
        return length;
    }
}
