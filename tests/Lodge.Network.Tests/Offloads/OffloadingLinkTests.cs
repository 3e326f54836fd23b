using System.Buffers.Binary;
using Lodge.Network.Offloads;
using Lodge.Network.Packets;
using Lodge.Network.Tests.Harness;
using Xunit;

namespace Lodge.Network.Tests.Offloads;

public class OffloadingLinkTests
{
    private const OffloadFeatures All = OffloadFeatures.Checksum | OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn | OffloadFeatures.UdpSegmentation;

    private readonly byte[] _buffer = new byte[66000];

    private static byte[] Random(int seed, int length)
    {
        byte[] data = new byte[length];
        new Random(seed).NextBytes(data);
        return data;
    }

    /// <summary>A frame whose transport checksum holds the pseudo header's sum only, as a guest leaves it.</summary>
    private static byte[] Partial(byte[] frame, int place)
    {
        bool isIpv6 = frame[12] == 0x86;
        int start = isIpv6 ? 54 : 34;
        byte[] pseudo = [.. isIpv6 ? frame[22..54] : frame[26..34], 0, isIpv6 ? frame[20] : frame[23], .. Frames.Be16(frame.Length - start)];
        Frames.Be16((int)Frames.NaiveSum(pseudo)).CopyTo(frame, start + place);
        return frame;
    }

    private static FrameOffload Offload(FrameSegmentation segmentation, int size, int start, int place) => new()
    {
        NeedsChecksum = true,
        ChecksumStart = (ushort)start,
        ChecksumOffset = (ushort)place,
        Segmentation = segmentation,
        SegmentSize = (ushort)size,
    };

    private int Receive(OffloadingLink link, out FrameOffload offload) => link.TryReceive(_buffer, out offload);

    [Theory]
    [InlineData("10.0.0.5", "10.0.0.1", FrameSegmentation.TcpV4, 34)]
    [InlineData("fd00::5", "fd00::1", FrameSegmentation.TcpV6, 54)]
    public void Tcp_is_segmented(string from, string to, FrameSegmentation segmentation, int start)
    {
        var inner = new QueueLink();
        using var link = new OffloadingLink(inner);
        byte[] data = Random(1, 40001);
        const TcpFlags flags = TcpFlags.Ack | TcpFlags.Psh | TcpFlags.Fin | TcpFlags.Cwr | TcpFlags.Ece;
        byte[] frame = Partial(Frames.Ip(Frames.Guest, Frames.Other, from, to, 6, Frames.Tcp(from, to, 1, 2, flags, data, 0xFFFFF000, [1, 1, 1, 1]), id: 0xFFF0), 16);
        Assert.True(link.TrySend(frame, Offload(segmentation, 1440, start, 16) with { Ecn = true }));
        Assert.Equal(28, inner.Sent.Count);
        var stream = new List<byte>();
        for (int i = 0; i < inner.Sent.Count; i++)
        {
            var (segment, offload) = inner.Sent[i];
            Assert.Equal(default, offload);
            Assert.Equal(0xFFFFu, Frames.TransportSum(segment));
            if (start == 34)
            {
                Assert.Equal(0xFFFFu, Frames.NaiveSum(segment.AsSpan(14, 20)));
                Assert.Equal(segment.Length - 14, BinaryPrimitives.ReadUInt16BigEndian(segment.AsSpan(16)));
                Assert.Equal((ushort)(0xFFF0 + i), BinaryPrimitives.ReadUInt16BigEndian(segment.AsSpan(18)));
            }
            else
            {
                Assert.Equal(segment.Length - 54, BinaryPrimitives.ReadUInt16BigEndian(segment.AsSpan(18)));
            }
            Assert.Equal(0xFFFFF000 + (uint)(i * 1440), BinaryPrimitives.ReadUInt32BigEndian(segment.AsSpan(start + 4)));
            var expected = TcpFlags.Ack | TcpFlags.Ece | (i == 0 ? TcpFlags.Cwr : 0) | (i == 27 ? TcpFlags.Psh | TcpFlags.Fin : 0);
            Assert.Equal(expected, (TcpFlags)segment[start + 13]);
            stream.AddRange(segment[(start + 24)..]);
        }
        Assert.Equal(data, stream);
    }

    [Theory]
    [InlineData("10.0.0.5", "10.0.0.1", 34)]
    [InlineData("fd00::5", "fd00::1", 54)]
    public void Udp_is_segmented_into_datagrams(string from, string to, int start)
    {
        var inner = new QueueLink();
        using var link = new OffloadingLink(inner);
        byte[] data = Random(2, 10000);
        Assert.True(link.TrySend(Partial(Frames.Out(from, to, 17, Frames.Udp(from, to, 1, 2, data)), 6), Offload(FrameSegmentation.Udp, 1400, start, 6)));
        Assert.Equal(8, inner.Sent.Count);
        Assert.All(inner.Sent, sent => Assert.Equal(0xFFFFu, Frames.TransportSum(sent.Frame)));
        Assert.All(inner.Sent, sent => Assert.Equal(sent.Frame.Length - start, BinaryPrimitives.ReadUInt16BigEndian(sent.Frame.AsSpan(start + 4))));
        Assert.Equal(data, inner.Sent.SelectMany(sent => sent.Frame[(start + 8)..]));
    }

    [Fact]
    public void A_link_that_refuses_in_the_middle_gets_the_rest_later()
    {
        var inner = new QueueLink { Room = 3 };
        using var link = new OffloadingLink(inner);
        byte[] data = Random(3, 10000);
        byte[] frame = Frames.Out("10.0.0.5", "10.0.0.1", 6, Frames.Tcp("10.0.0.5", "10.0.0.1", 1, 2, TcpFlags.Ack, data));
        var offload = Offload(FrameSegmentation.TcpV4, 1000, 34, 16);
        Assert.False(link.TrySend(frame, offload));
        Assert.False(link.TrySend(frame, offload));
        inner.Room = 4;
        Assert.False(link.TrySend(frame, offload));
        inner.Room = 100;
        Assert.True(link.TrySend(frame, offload));
        Assert.Equal(data, inner.Sent.SelectMany(sent => sent.Frame[54..]));
        // Another frame than the one that was refused starts at its start.
        inner.Room = 3;
        Assert.False(link.TrySend(frame, offload));
        inner.Room = 100;
        inner.Sent.Clear();
        byte[] other = Frames.Out("10.0.0.5", "10.0.0.1", 6, Frames.Tcp("10.0.0.5", "10.0.0.1", 3, 2, TcpFlags.Ack, data));
        Assert.True(link.TrySend(other, offload));
        Assert.Equal(10, inner.Sent.Count);
    }

    [Fact]
    public void A_checksum_is_completed_and_what_the_link_can_do_is_left_to_it()
    {
        var inner = new QueueLink();
        using var link = new OffloadingLink(inner);
        byte[] frame = Partial(Frames.Out("10.0.0.5", "10.0.0.1", 17, Frames.Udp("10.0.0.5", "10.0.0.1", 1, 2)), 6);
        byte[] before = [.. frame];
        var offload = Offload(FrameSegmentation.None, 0, 34, 6);
        Assert.True(link.TrySend(frame, offload));
        Assert.Equal(0xFFFFu, Frames.TransportSum(inner.Sent[0].Frame));
        Assert.Equal(before, frame);
        inner.SendOffloads = OffloadFeatures.Checksum;
        Assert.True(link.TrySend(frame, offload));
        Assert.Equal(offload, inner.Sent[1].Offload);
        Assert.Equal(before, inner.Sent[1].Frame);
    }

    [Fact]
    public void Absurd_offloads_are_dropped_and_counted()
    {
        var inner = new QueueLink();
        using var link = new OffloadingLink(inner);
        byte[] frame = Frames.Out("10.0.0.5", "10.0.0.1", 6, Frames.Tcp("10.0.0.5", "10.0.0.1", 1, 2, TcpFlags.Ack, new byte[6000]));
        Assert.True(link.TrySend(frame, Offload(FrameSegmentation.None, 0, 60000, 60000)));
        Assert.True(link.TrySend(frame, Offload(FrameSegmentation.TcpV4, 0, 34, 16)));
        Assert.True(link.TrySend(frame, Offload(FrameSegmentation.TcpV4, 1, 34, 16)));
        Assert.True(link.TrySend(frame, Offload(FrameSegmentation.TcpV6, 1000, 34, 16)));
        Assert.True(link.TrySend(frame, Offload(FrameSegmentation.Udp, 1000, 34, 16)));
        Assert.True(link.TrySend(frame[..40], Offload(FrameSegmentation.TcpV4, 1000, 34, 16)));
        Assert.Empty(inner.Sent);
        Assert.Equal(6, link.Counters.SentErrors);
    }

    [Fact]
    public void A_guest_without_offloads_gets_complete_frames()
    {
        var inner = new QueueLink();
        using var link = new OffloadingLink(inner);
        link.AcceptOffloads(OffloadFeatures.None);
        byte[] data = Random(4, 5000);
        inner.Incoming.Enqueue((Partial(Frames.In("10.0.0.1", "10.0.0.5", 6, Frames.Tcp("10.0.0.1", "10.0.0.5", 1, 2, TcpFlags.Ack, data)), 16), Offload(FrameSegmentation.TcpV4, 1448, 34, 16)));
        inner.Incoming.Enqueue((Partial(Frames.In("fd00::1", "fd00::5", 17, Frames.Udp("fd00::1", "fd00::5", 1, 2)), 6), Offload(FrameSegmentation.None, 0, 54, 6)));
        var stream = new List<byte>();
        for (int i = 0; i < 4; i++)
        {
            int length = Receive(link, out var offload);
            Assert.Equal(default, offload);
            Assert.Equal(0xFFFFu, Frames.TransportSum(_buffer[..length]));
            stream.AddRange(_buffer[54..length]);
        }
        Assert.Equal(data, stream);
        int last = Receive(link, out var none);
        Assert.Equal(default, none);
        Assert.Equal(0xFFFFu, Frames.TransportSum(_buffer[..last]));
        Assert.Equal(0, Receive(link, out _));
    }

    [Theory]
    [InlineData("10.0.0.1", "10.0.0.5", FrameSegmentation.TcpV4, 54)]
    [InlineData("fd00::1", "fd00::5", FrameSegmentation.TcpV6, 74)]
    public void Segments_are_merged_for_a_guest_that_takes_large_frames(string from, string to, FrameSegmentation segmentation, int headers)
    {
        var inner = new QueueLink();
        using var link = new OffloadingLink(inner);
        link.AcceptOffloads(All);
        byte[] data = Random(5, 9900);
        for (int i = 0; i < 10; i++)
        {
            var flags = i == 9 ? TcpFlags.Ack | TcpFlags.Psh : TcpFlags.Ack;
            inner.Incoming.Enqueue((Frames.Ip(Frames.Other, Frames.Guest, from, to, 6, Frames.Tcp(from, to, 1, 2, flags, data[(i * 1000)..Math.Min(data.Length, (i + 1) * 1000)], 500 + (uint)(i * 1000)),
                id: i, fragment: 0), default));
        }
        int length = Receive(link, out var offload);
        Assert.Equal(Offload(segmentation, 1000, headers - 20, 16) with { HeaderLength = (ushort)headers }, offload);
        Assert.Equal(headers + data.Length, length);
        Assert.Equal(data, _buffer[headers..length]);
        Assert.Equal(TcpFlags.Ack | TcpFlags.Psh, (TcpFlags)_buffer[headers - 7]);
        Assert.Equal(0, Receive(link, out _));
    }

    [Fact]
    public void What_does_not_continue_the_connection_is_not_merged()
    {
        const string a = "10.0.0.1", b = "10.0.0.5";
        byte[] data = new byte[1000];
        byte[] Segment(uint sequence, TcpFlags flags = TcpFlags.Ack, int port = 1, byte[]? options = null, int id = 2, int hops = 64, byte[]? content = null) =>
            Frames.Ip(Frames.Other, Frames.Guest, a, b, 6, Frames.Tcp(a, b, port, 2, flags, content ?? data, sequence, options), id: id, fragment: 0, hops: hops);
        byte[] first = Segment(1, id: 1);
        byte[] wrong = Segment(1001);
        wrong[60] ^= 1;
        (string, byte[])[] others =
        [
            ("gap", Segment(1002)), ("SYN", Segment(1001, TcpFlags.Syn | TcpFlags.Ack)), ("FIN", Segment(1001, TcpFlags.Fin | TcpFlags.Ack)), ("port", Segment(1001, port: 3)),
            ("options", Segment(1001, options: [1, 1, 1, 1])), ("identification", Segment(1001, id: 3)), ("hops", Segment(1001, hops: 63)),
            ("larger", Segment(1001, content: new byte[1001])), ("empty", Segment(1001, content: [])), ("checksum", wrong), ("CWR", Segment(1001, TcpFlags.Ack | TcpFlags.Cwr)),
            ("tag", Frames.Tagged(Segment(1001), 0x8100, 5)),
        ];
        foreach (var (what, other) in others)
        {
            var inner = new QueueLink();
            using var link = new OffloadingLink(inner);
            link.AcceptOffloads(All);
            inner.Incoming.Enqueue((first, default));
            inner.Incoming.Enqueue((other, default));
            int length = Receive(link, out var offload);
            Assert.True(first.AsSpan().SequenceEqual(_buffer.AsSpan(0, length)), what);
            Assert.True(offload == new FrameOffload { ChecksumValid = true }, what);
            length = Receive(link, out offload);
            Assert.True(other.AsSpan().SequenceEqual(_buffer.AsSpan(0, length)), what);
            Assert.True(offload.ChecksumValid == (what != "checksum"), what);
            Assert.Equal(0, Receive(link, out _));
        }
    }

    [Fact]
    public void Segmenting_and_merging_give_the_same_bytes()
    {
        var random = new Random(6);
        for (int i = 0; i < 200; i++)
        {
            bool isIpv6 = random.Next(2) == 0;
            var (from, to) = isIpv6 ? ("fd00::1", "fd00::5") : ("10.0.0.1", "10.0.0.5");
            byte[] data = Random(i, random.Next(1, 65000));
            int size = random.Next(8, 9000);
            int start = isIpv6 ? 54 : 34;
            byte[] frame = Partial(Frames.Ip(Frames.Other, Frames.Guest, from, to, 6,
                Frames.Tcp(from, to, 1, 2, random.Next(2) == 0 ? TcpFlags.Ack : TcpFlags.Ack | TcpFlags.Psh, data, (uint)random.NextInt64(1L << 32), [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
                id: random.Next(65536)), 16);
            var there = new QueueLink();
            using var cut = new OffloadingLink(there);
            var offload = Offload(isIpv6 ? FrameSegmentation.TcpV6 : FrameSegmentation.TcpV4, size, start, 16);
            Assert.True(cut.TrySend(frame, offload));
            Assert.Equal((data.Length + size - 1) / size, there.Sent.Count);

            var back = new QueueLink();
            using var merge = new OffloadingLink(back, trusted: random.Next(2) == 0);
            merge.AcceptOffloads(All);
            there.Sent.ForEach(back.Incoming.Enqueue);
            int length = Receive(merge, out var merged);
            // A last segment below the least size stays alone.
            int rest = data.Length % size;
            int expected = rest is > 0 and < 8 && data.Length > size ? frame.Length - rest : frame.Length;
            Assert.True(expected == length, $"case {i}: {length} of {frame.Length}, size {size}");
            Assert.Equal(frame[(start + 32)..expected], _buffer[(start + 32)..length]);
            if (there.Sent.Count > 1 && expected == frame.Length)
            {
                Assert.Equal(frame, _buffer[..length]);
                Assert.Equal((offload.Segmentation, (ushort)size), (merged.Segmentation, merged.SegmentSize));
            }
        }
    }

    [Fact]
    public void Nothing_is_allocated_per_frame()
    {
        var inner = new QueueLink { Forgets = true };
        using var link = new OffloadingLink(inner);
        byte[] frame = Frames.Out("10.0.0.5", "10.0.0.1", 6, Frames.Tcp("10.0.0.5", "10.0.0.1", 1, 2, TcpFlags.Ack, new byte[60000]));
        var offload = Offload(FrameSegmentation.TcpV4, 1448, 34, 16);
        link.TrySend(frame, offload);
        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 100; i++)
        {
            link.TrySend(frame, offload);
        }
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }
}
