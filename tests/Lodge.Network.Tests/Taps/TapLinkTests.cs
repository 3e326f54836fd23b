using System.Buffers.Binary;
using System.Diagnostics;
using Lodge.Network.Links;
using Lodge.Network.Packets;
using Lodge.Network.Taps;
using Lodge.Network.Tests.Harness;
using Xunit;

namespace Lodge.Network.Tests.Taps;

public class TapLinkTests
{
    private static readonly MacAddress One = new(0x5254_0000_0001), Two = new(0x5254_0000_0002);
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    [Fact]
    public void A_frame_goes_from_tap_to_tap_over_a_bridge()
    {
        NetworkNamespace.Need();
        NetworkNamespace.Test(space =>
        {
            (TapLink one, TapLink two) = Pair(space);
            using (one)
            using (two)
            {
                byte[] frame = Frame(One, Two, 100);
                Assert.True(one.TrySend(frame, default));
                Assert.Equal(frame, Receive(two, out _));
                Assert.Equal((1, 100), (one.Counters.SentFrames, one.Counters.SentBytes));
                Assert.Equal((1, 100), (two.Counters.ReceivedFrames, two.Counters.ReceivedBytes));
                Assert.True(one.TrySend(frame.AsSpan(0, 13), default)); // no frame
                Assert.Equal(1, one.Counters.SentDrops);
            }
            Assert.DoesNotContain("lt", space.Shell("ip -o link show type tun"));
        });
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_long_TCP_frame_stays_whole_for_a_receiver_that_accepts_it_and_is_segmented_for_others(bool accepted)
    {
        NetworkNamespace.Need();
        NetworkNamespace.Test(space =>
        {
            (TapLink one, TapLink two) = Pair(space);
            using (one)
            using (two)
            {
                two.AcceptOffloads(accepted ? OffloadFeatures.Checksum | OffloadFeatures.TcpV4 : OffloadFeatures.None);
                byte[] frame = TcpFrame(4000);
                FrameOffload offload = new() { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 16, Segmentation = FrameSegmentation.TcpV4, SegmentSize = 1000, HeaderLength = 54 };
                Assert.True(one.TrySend(frame, offload));
                if (accepted)
                {
                    Assert.Equal(frame, Receive(two, out FrameOffload got));
                    Assert.Equal(offload with { HeaderLength = got.HeaderLength }, got);
                }
                else
                {
                    for (int i = 0; i < 4; i++)
                    {
                        byte[] segment = Receive(two, out FrameOffload got);
                        Assert.Equal(FrameSegmentation.None, got.Segmentation);
                        Assert.False(got.NeedsChecksum);
                        Assert.Equal(1054, segment.Length);
                        Assert.Equal((uint)(1 + (i * 1000)), BinaryPrimitives.ReadUInt32BigEndian(segment.AsSpan(38)));
                    }
                }
            }
        });
    }

    [Fact]
    public void Hostile_offloads_are_dropped()
    {
        NetworkNamespace.Need();
        NetworkNamespace.Test(space =>
        {
            (TapLink one, TapLink two) = Pair(space);
            using (one)
            using (two)
            {
                Random random = new(1);
                byte[] frame = new byte[3000];
                for (int i = 0; i < 20_000; i++)
                {
                    Span<byte> some = frame.AsSpan(0, random.Next(3000));
                    random.NextBytes(some);
                    Assert.True(one.TrySend(some, new FrameOffload
                    {
                        NeedsChecksum = random.Next(2) == 0,
                        ChecksumStart = (ushort)random.Next(65536),
                        ChecksumOffset = (ushort)random.Next(65536),
                        Segmentation = (FrameSegmentation)random.Next(4),
                        Ecn = random.Next(2) == 0,
                        SegmentSize = (ushort)random.Next(65536),
                        HeaderLength = (ushort)random.Next(65536),
                    }));
                }
                Assert.NotEqual(0, one.Counters.SentDrops);
            }
        });
    }

    [Fact]
    public void A_VLAN_tag_is_on_the_tap_and_not_at_the_card()
    {
        NetworkNamespace.Need();
        NetworkNamespace.Test(space =>
        {
            using TapLink trunk = TapLink.Create("lt%d"), five = TapLink.Create("lt%d", vlan: 5), six = TapLink.Create("lt%d", vlan: 6);
            Connect(space, trunk, five, six);
            byte[] frame = Frame(One, MacAddress.Broadcast, 200);
            Assert.True(five.TrySend(frame, default));
            byte[] tagged = Receive(trunk, out _);
            Assert.Equal([.. frame[..12], 0x81, 0, 0, 5, .. frame[12..]], tagged);
            Assert.True(trunk.TrySend(frame, default)); // without a tag: for neither
            tagged[15] = 6;
            Assert.True(trunk.TrySend(tagged, default));
            Assert.Equal(frame, Receive(six, out _));
            Assert.Equal(0, Next(five, out _));

            // Its own checksum work survives the tag.
            byte[] tcp = TcpFrame(1000);
            BinaryPrimitives.WriteUInt16BigEndian(tcp.AsSpan(50), 0); // the sum of the pseudo header is not looked at here
            Assert.True(six.TrySend(tcp, new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 16 }));
            byte[] complete = Receive(trunk, out FrameOffload got);
            Assert.False(got.NeedsChecksum);
            Assert.NotEqual(0, BinaryPrimitives.ReadUInt16BigEndian(complete.AsSpan(54)));
            complete.AsSpan(54, 2).Clear();
            Assert.Equal(tcp[34..], complete[38..]);
        });
    }

    [Fact]
    public void An_empty_tap_wakes_its_card_when_a_frame_comes_and_when_the_interface_changes()
    {
        NetworkNamespace.Need();
        NetworkNamespace.Test(space =>
        {
            (TapLink one, TapLink two) = Pair(space);
            using (one)
            using (two)
            {
                using AutoResetEvent wake = new(false);
                two.Connect(() => wake.Set());
                for (int i = 0; i < 50; i++)
                {
                    while (Next(two, out _) != 0)
                    {
                        // until it is empty
                    }
                    Assert.True(one.TrySend(Frame(One, Two, 60), default));
                    while (Next(two, out _) == 0)
                    {
                        Assert.True(wake.WaitOne(Patience));
                    }
                }
                Assert.True(two.IsUp);
                space.Shell($"ip link set {two.Name} down");
                Until(wake, () => !two.IsUp);
                Assert.True(two.TrySend(Frame(Two, One, 60), default)); // dropped: the cable is out
                Assert.Equal(1, two.Counters.SentDrops);
                space.Shell($"ip link set {two.Name} up");
                Until(wake, () => two.IsUp);
                space.Shell($"ip link delete {two.Name}");
                Until(wake, () => !two.IsUp);
                Assert.Equal(0, Next(two, out _));
                Assert.True(two.TrySend(Frame(Two, One, 60), default));
            }
        });
    }

    [Fact]
    public void A_persistent_tap_is_opened_by_name_and_stays()
    {
        NetworkNamespace.Need();
        NetworkNamespace.Test(space =>
        {
            space.Shell("ip tuntap add dev own mode tap; ip tuntap add dev many mode tap multi_queue; ip link set own mtu 9000");
            using (TapLink link = TapLink.Open("own"))
            {
                Assert.Equal("own", link.Name);
                Assert.Equal(9014, link.MaximumFrame);
                Assert.False(link.IsUp);
                Assert.Equal("tap 'own' is in use by another process", Assert.Throws<NetworkException>(() => TapLink.Open("own")).Message);
            }
            using (TapLink link = TapLink.Open("many"))
            {
                Assert.Equal("many", link.Name);
            }
            Assert.Contains("own", space.Shell("ip -o link show"));
            Assert.Contains("there is no interface 'other'", Assert.Throws<NetworkException>(() => TapLink.Open("other")).Message);
            Assert.Contains("'lo' is not a tap", Assert.Throws<NetworkException>(() => TapLink.Open("lo")).Message);
            Assert.Contains("there is no interface", Assert.Throws<NetworkException>(() => TapLink.Open("a%d")).Message);
        });
    }

    [Fact]
    public void Frames_pass_without_allocation()
    {
        NetworkNamespace.Need();
        NetworkNamespace.Test(space =>
        {
            (TapLink one, TapLink two) = Pair(space);
            using (one)
            using (two)
            {
                byte[] frame = Frame(One, Two, 1514);
                byte[] buffer = new byte[65562];
                long before = 0;
                for (int i = 0; i < 400; i++)
                {
                    if (i == 100)
                    {
                        before = GC.GetAllocatedBytesForCurrentThread();
                    }
                    _ = one.TrySend(frame, default);
                    _ = two.TryReceive(buffer, out _);
                }
                Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
            }
        });
    }

    private static (TapLink One, TapLink Two) Pair(NetworkNamespace space)
    {
        TapLink one = TapLink.Create("lt%d"), two = TapLink.Create("lt%d");
        Connect(space, one, two);
        return (one, two);
    }

    /// <summary>Taps on a bridge. Without IPv6 and multicast snooping the host itself is silent there.</summary>
    private static void Connect(NetworkNamespace space, params TapLink[] taps)
    {
        string names = string.Join(' ', taps.Select(tap => tap.Name));
        space.Shell($"ip link add br0 type bridge mcast_snooping 0; for i in br0 {names}; do echo 1 >/proc/sys/net/ipv6/conf/$i/disable_ipv6; done; "
            + $"ip link set br0 up; for i in {names}; do ip link set $i master br0; done");
        foreach (TapLink tap in taps)
        {
            tap.SetUp();
        }
    }

    private static byte[] Frame(MacAddress from, MacAddress to, int length)
    {
        byte[] frame = new byte[length];
        to.Write(frame);
        from.Write(frame.AsSpan(6));
        frame[12] = 0x88;
        frame[13] = 0xB5; // local experiments (IEEE 802)
        for (int i = 14; i < length; i++)
        {
            frame[i] = (byte)i;
        }
        return frame;
    }

    private static byte[] TcpFrame(int payload)
    {
        byte[] frame = Frame(One, Two, 54 + payload);
        frame[12] = 8;
        frame[13] = 0;
        Span<byte> ip = frame.AsSpan(14, 20);
        ip.Clear();
        ip[0] = 0x45;
        BinaryPrimitives.WriteUInt16BigEndian(ip[2..], (ushort)(40 + payload));
        ip[8] = 64;
        ip[9] = 6;
        ip[12] = ip[16] = 10;
        ip[15] = 1;
        ip[19] = 2;
        uint sum = 0;
        for (int i = 0; i < 20; i += 2)
        {
            sum += BinaryPrimitives.ReadUInt16BigEndian(ip[i..]);
        }
        BinaryPrimitives.WriteUInt16BigEndian(ip[10..], (ushort)~((sum & 0xFFFF) + (sum >> 16)));
        Span<byte> tcp = frame.AsSpan(34, 20);
        tcp.Clear();
        tcp[1] = 1;
        tcp[3] = 2;
        tcp[7] = 1;
        tcp[12] = 0x50;
        tcp[13] = 0x10;
        return frame;
    }

    private static int Next(TapLink link, out FrameOffload offload) => link.TryReceive(new byte[65562], out offload);

    private static byte[] Receive(ILink link, out FrameOffload offload)
    {
        byte[] buffer = new byte[65562];
        Stopwatch clock = Stopwatch.StartNew();
        int length;
        while ((length = link.TryReceive(buffer, out offload)) == 0)
        {
            Assert.True(clock.Elapsed < Patience, "no frame came");
            Thread.Sleep(1);
        }
        return buffer[..length];
    }

    private static void Until(AutoResetEvent wake, Func<bool> condition)
    {
        while (!condition())
        {
            Assert.True(wake.WaitOne(Patience));
        }
    }
}
