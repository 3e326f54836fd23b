using Lodge.Network.Links;
using Lodge.Network.Packets;
using Xunit;

namespace Lodge.Network.Tests;

public class DeferredLinkTests
{
    [Fact]
    public void It_is_opened_by_the_first_frame_and_knows_what_was_set_before()
    {
        Recorder inner = new();
        int opened = 0, woken = 0;
        using DeferredLink link = new(
            () =>
            {
                opened++;
                return inner;
            },
            _ => { },
            OffloadFeatures.Checksum,
            1514);
        link.Connect(() => woken++);
        link.AcceptOffloads(OffloadFeatures.Checksum);
        Assert.Equal(0, link.TryReceive(new byte[70_000], out _));
        Assert.True(link.IsUp);
        Assert.Equal((0, 0), (opened, woken));
        Assert.True(link.TrySend(new byte[60], default));
        Assert.True(link.TrySend(new byte[61], default));
        Assert.Equal((1, 1), (opened, woken));
        Assert.Equal([60, 61], inner.Sent);
        Assert.Equal(OffloadFeatures.Checksum, inner.Accepted);
        Assert.Equal(7, link.TryReceive(new byte[70_000], out _));
        link.Dispose();
        Assert.True(inner.Disposed);
    }

    [Fact]
    public void One_that_cannot_be_opened_drops_frames_and_is_told_once()
    {
        List<string> told = [];
        using DeferredLink link = new(() => throw new NetworkException("not there"), e => told.Add(e.Message), OffloadFeatures.None, 1514);
        Assert.True(link.TrySend(new byte[60], default));
        Assert.True(link.TrySend(new byte[60], default));
        Assert.Equal(["not there"], told);
        Assert.Equal(0, link.TryReceive(new byte[70_000], out _));
    }

    private sealed class Recorder : ILink
    {
        public List<int> Sent { get; } = [];

        public OffloadFeatures Accepted { get; private set; }

        public bool Disposed { get; private set; }

        public OffloadFeatures SendOffloads => OffloadFeatures.Checksum;

        public int MaximumFrame => 1514;

        public bool IsUp => true;

        public void AcceptOffloads(OffloadFeatures accepted) => Accepted = accepted;

        public void Connect(Action wake) => wake();

        public void Dispose() => Disposed = true;

        public bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
        {
            Sent.Add(frame.Length);
            return true;
        }

        public int TryReceive(Span<byte> buffer, out FrameOffload offload)
        {
            offload = default;
            return 7;
        }
    }
}
