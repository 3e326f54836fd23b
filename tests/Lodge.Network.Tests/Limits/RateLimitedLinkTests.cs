using Lodge.Network.Limits;
using Lodge.Network.Packets;
using Lodge.Network.Tests.Harness;
using Xunit;

namespace Lodge.Network.Tests.Limits;

public class RateLimitedLinkTests
{
    private static readonly byte[] Frame = new byte[1500];

    /// <summary>A card that sends or receives all it may for a time whose timers are late by a random while; bytes and frames.</summary>
    private static (long Bytes, long Frames) Run(LinkLimits limits, bool sends, double seconds, int latest)
    {
        var time = new ManualTime();
        var inner = new QueueLink { Forgets = true };
        using var link = new RateLimitedLink(inner, limits, time);
        bool awake = true;
        link.Connect(() => awake = true);
        byte[] buffer = new byte[66000];
        var random = new Random(1);
        long bytes = 0, frames = 0;
        while (time.GetTimestamp() < seconds * TimeSpan.TicksPerSecond)
        {
            if (awake)
            {
                while (true)
                {
                    if (sends ? !link.TrySend(Frame, default) : Receive() == 0)
                    {
                        break;
                    }
                    bytes += Frame.Length;
                    frames++;
                    Assert.True(frames < 10_000_000);
                }
                awake = false;
            }
            time.Advance(TimeSpan.FromMicroseconds(random.Next(1, latest)));
        }
        return (bytes, frames);

        int Receive()
        {
            if (inner.Incoming.Count == 0)
            {
                inner.Incoming.Enqueue((Frame, default));
            }
            return link.TryReceive(buffer, out _);
        }
    }

    [Theory]
    [InlineData(true, 1_000_000, 0)]
    [InlineData(false, 1_000_000, 0)]
    [InlineData(true, 12_500_000, 1500)]
    [InlineData(false, 12_500_000, 1500)]
    [InlineData(true, 50_000, 100)]
    [InlineData(false, 50_000, 100)]
    [InlineData(true, 40_000_000, 1_000_000)]
    public void Bytes_per_second_hold_within_5_percent_over_ten_seconds(bool sends, double rate, double burst)
    {
        var limit = new LinkRate(rate, burst);
        var (bytes, _) = Run(sends ? new() { SendBytes = limit } : new() { ReceiveBytes = limit }, sends, 10, 8000);
        Assert.InRange(bytes / (rate * 10), 0.95, 1.05);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Packets_per_second_hold_within_5_percent_over_ten_seconds(bool sends)
    {
        var limit = new LinkRate(3000, 10);
        var (_, frames) = Run(sends ? new() { SendPackets = limit } : new() { ReceivePackets = limit }, sends, 10, 8000);
        Assert.InRange(frames / 30_000.0, 0.95, 1.05);
    }

    [Fact]
    public void The_narrower_of_two_limits_holds()
    {
        var (bytes, _) = Run(new() { SendBytes = new(1_000_000), SendPackets = new(100) }, true, 10, 3000);
        Assert.InRange(bytes / 1_500_000.0, 0.95, 1.05);
    }

    [Fact]
    public void A_burst_goes_at_once_and_the_card_is_woken_for_the_rest()
    {
        var time = new ManualTime();
        var inner = new QueueLink();
        using var link = new RateLimitedLink(inner, new() { SendBytes = new(15_000, 4500) }, time);
        int woken = 0;
        link.Connect(() => woken++);
        Assert.True(link.TrySend(Frame, default) && link.TrySend(Frame, default) && link.TrySend(Frame, default));
        Assert.False(link.TrySend(Frame, default));
        Assert.Equal(3, inner.Sent.Count);
        time.Advance(TimeSpan.FromMilliseconds(99));
        Assert.Equal(0, woken);
        time.Advance(TimeSpan.FromMilliseconds(2));
        Assert.Equal(1, woken);
        Assert.True(link.TrySend(Frame, default));
        Assert.False(link.TrySend(Frame, default));
        link.Limits = LinkLimits.None;
        Assert.Equal(2, woken);
        Assert.True(link.TrySend(Frame, default));
    }

    [Fact]
    public void A_frame_that_the_link_refuses_costs_nothing()
    {
        var inner = new QueueLink { Room = 0 };
        using var link = new RateLimitedLink(inner, new() { SendBytes = new(1500, 1500) }, new ManualTime());
        Assert.False(link.TrySend(Frame, default));
        inner.Room = 1;
        Assert.True(link.TrySend(Frame, default));
    }

    [Fact]
    public void A_large_frame_costs_what_its_segments_cost()
    {
        byte[] frame = Frames.Out("10.0.0.5", "10.0.0.1", 6, Frames.Tcp("10.0.0.5", "10.0.0.1", 1, 2, TcpFlags.Ack, new byte[14_480]));
        Assert.Equal((frame.Length + (9 * 54), 10), RateLimitedLink.Cost(frame, new() { Segmentation = FrameSegmentation.TcpV4, SegmentSize = 1448 }));
        Assert.Equal((frame.Length, 1), RateLimitedLink.Cost(frame, new() { Segmentation = FrameSegmentation.Udp, SegmentSize = 1448 }));
    }

    [Fact]
    public void Limits_are_set_by_name()
    {
        var limits = LinkLimits.None.With("bytes-out", "10M").With("bytes-out-max", "64K").With("packets-in", "500");
        Assert.Equal(new LinkRate(10 << 20, 64 << 10), limits.SendBytes);
        Assert.Equal(new LinkRate(500), limits.ReceivePackets);
        Assert.Equal("the limit 'bytes-in' has the value '-1'; give a number above 0 such as 500 or 20M", Assert.Throws<NetworkException>(() => limits.With("bytes-in", "-1")).Message);
        Assert.Contains("there is no limit 'bps'", Assert.Throws<NetworkException>(() => limits.With("bps", "1")).Message);
        Assert.Equal("the burst 'bytes-in-max' needs the limit 'bytes-in'",
            Assert.Throws<NetworkException>(() => new RateLimitedLink(new QueueLink(), LinkLimits.None.With("bytes-in-max", "1"))).Message);
    }
}
