using Lodge.Network.Links;
using Lodge.Network.Packets;

namespace Lodge.Network.Tests.Harness;

/// <summary>A link whose other end is the test: it keeps what was sent and hands out what the test put there, whatever the card accepts.</summary>
public sealed class QueueLink : ILink
{
    public Queue<(byte[] Frame, FrameOffload Offload)> Incoming { get; } = new();

    public List<(byte[] Frame, FrameOffload Offload)> Sent { get; } = [];

    public OffloadFeatures SendOffloads { get; set; }

    public OffloadFeatures Accepted { get; private set; }

    /// <summary>Frames it takes until the test sets it again.</summary>
    public int Room { get; set; } = int.MaxValue;

    /// <summary>Whether it forgets what was sent.</summary>
    public bool Forgets { get; set; }

    public Action? Wake { get; private set; }

    public bool IsDisposed { get; private set; }

    public int MaximumFrame => 1514;

    public bool IsUp => true;

    public void AcceptOffloads(OffloadFeatures accepted) => Accepted = accepted;

    public void Connect(Action wake) => Wake = wake;

    public bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        if (Room == 0)
        {
            return false;
        }
        Room--;
        if (!Forgets)
        {
            Sent.Add((frame.ToArray(), offload));
        }
        return true;
    }

    public int TryReceive(Span<byte> buffer, out FrameOffload offload)
    {
        offload = default;
        if (!Incoming.TryDequeue(out var next))
        {
            return 0;
        }
        next.Frame.CopyTo(buffer);
        offload = next.Offload;
        return next.Frame.Length;
    }

    public void Dispose() => IsDisposed = true;
}
