using System.Buffers.Binary;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Virtio.Network;
using Lodge.Machine.Tests.Harness;
using Lodge.Machine.Virtio;
using Lodge.Network.Links;
using Lodge.Network.Packets;
using Xunit;

namespace Lodge.Machine.Tests;

public sealed class VirtioNetworkTests : IDisposable
{
    private const OffloadFeatures AllOffloads =
        OffloadFeatures.Checksum | OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn | OffloadFeatures.UdpSegmentation;

    private const ulong OwnMac = 0x5254_0000_0001;
    private MemoryLink _peer = null!;
    private NetworkGuest _guest = null!;

    public void Dispose() => _guest?.Dispose();

    private void SetUp(
        ulong features = ulong.MaxValue, OffloadFeatures offloads = AllOffloads, Func<VirtioNetworkConfiguration, VirtioNetworkConfiguration>? change = null,
        ushort size = 64, int capacity = 256, int mtu = 1500)
    {
        (MemoryLink link, _peer) = MemoryLink.CreatePair(new() { Offloads = offloads, Capacity = capacity, Mtu = mtu });
        _guest = new NetworkGuest(link, features, change, size);
    }

    private VirtioNetworkCounters Counters => _guest.Card.Counters;

    [Theory]
    [InlineData(ulong.MaxValue)]
    [InlineData(VirtioFeatures.Version1)]
    [InlineData(VirtioFeatures.Version1 | NetworkGuest.Mergeable)]
    public void FramesPassInBothDirections(ulong features)
    {
        SetUp(features);
        _guest.Post(2048, 20);
        for (int i = 0; i < 20; i++)
        {
            byte[] frame = NetworkGuest.Frame(14 + (i * 70), seed: i);
            _guest.Send(frame, pieces: 1 + (i % 3));
            Assert.Equal(frame, _peer.Take().Frame);
            _peer.Give(frame);
            (byte[] header, byte[] received, int buffers) = _guest.Receive();
            Assert.Equal(frame, received);
            Assert.Equal(1, buffers);
            Assert.Equal(new byte[10], header[..10]);
        }
        Assert.Equal((20, 20), (Counters.SentFrames, Counters.ReceivedFrames));
        Assert.Equal(Counters.SentBytes, Counters.ReceivedBytes);
    }

    [Fact]
    public void AManyTimesReusedRingLosesNothing()
    {
        SetUp(capacity: 8);
        var peer = new Thread(() =>
        {
            for (int i = 0; i < 3000; i++)
            {
                (byte[] frame, FrameOffload offload) = _peer.Take();
                _peer.Give(frame, offload);
            }
        });
        peer.Start();
        int sent = 0, received = 0;
        _guest.Post(2048, 16);
        while (received < 3000)
        {
            if (sent < 3000 && sent - received < 10)
            {
                byte[] frame = NetworkGuest.Frame(60);
                BinaryPrimitives.WriteInt32LittleEndian(frame.AsSpan(20), sent++);
                _guest.Send(frame);
                continue;
            }
            (_, byte[] back, _) = _guest.Receive();
            Assert.Equal(received++, BinaryPrimitives.ReadInt32LittleEndian(back.AsSpan(20)));
            _guest.Post(2048);
            while (_guest.Ring(1).TryTakeUsed(out _, out _))
            {
            }
        }
        Assert.True(peer.Join(30_000));
    }

    [Fact]
    public void OneFrameIsSpreadOverMergeableBuffers()
    {
        SetUp(change: c => c with { HoldMilliseconds = 60_000 });
        byte[] frame = NetworkGuest.Frame(60_000);
        _guest.Post(2048, 20);
        var offload = new FrameOffload
        {
            NeedsChecksum = true,
            ChecksumStart = 34,
            ChecksumOffset = 16,
            Segmentation = FrameSegmentation.TcpV4,
            SegmentSize = 1448,
            HeaderLength = 66,
            Ecn = true,
        };
        _peer.Give(frame, offload);
        Wait.Until(() => EventIndex(0) == 20 || _guest.Ring(0).UsedIndex != 0, "the device to ask beyond what is there");
        Assert.Equal(0, _guest.Ring(0).UsedIndex);      // nothing of a frame before all of it
        _guest.Post(2048, 10);
        (byte[] header, byte[] received, int buffers) = _guest.Receive();
        Assert.Equal(frame, received);
        Assert.Equal(30, buffers);
        Assert.Equal(NetworkGuest.Header(1, 0x81, 66, 1448, 34, 16)[..10], header[..10]);
    }

    [Fact]
    public void AHeldFrameAsksForANotification()
    {
        SetUp(change: c => c with { HoldMilliseconds = 60_000 });
        _guest.Post(2048, 3);
        _peer.Give(NetworkGuest.Frame(9000), new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 6, Segmentation = FrameSegmentation.Udp, SegmentSize = 1400 });
        Wait.Until(() => EventIndex(0) == 3, "the device to ask beyond what is there");
        _guest.Post(2048, notify: false);
        Assert.True(_guest.Ring(0).WantsNotification(3));
        _guest.Post(2048);
        Assert.Equal(5, _guest.Receive().Buffers);
    }

    private ushort EventIndex(int queue)
    {
        GuestRing ring = _guest.Ring(queue);
        _guest.Machine.Memory.TryRead(ring.Used + 4 + (8UL * ring.Size), out ushort value);
        return value;
    }

    [Fact]
    public void AFrameForWhichNoBuffersComeIsDropped()
    {
        SetUp(change: c => c with { HoldMilliseconds = 20 });
        _guest.Post(1024, 3);
        _peer.Give(NetworkGuest.Frame(1514 * 4), new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 6, Segmentation = FrameSegmentation.Udp, SegmentSize = 1400 });
        Wait.Until(() => Counters.ReceiveDrops == 1);
        _peer.Give(NetworkGuest.Frame(100));
        Assert.Equal(100, _guest.Receive().Frame.Length);
    }

    [Fact]
    public void AFrameThatTheWholeRingCannotHoldIsDropped()
    {
        SetUp(size: 16);
        _guest.Post(80, 16);
        _peer.Give(NetworkGuest.Frame(1514));
        _peer.Give(NetworkGuest.Frame(1514));
        _peer.Give(NetworkGuest.Frame(150));
        Assert.Equal(150, _guest.Receive().Frame.Length);
        Assert.Equal(2, Counters.ReceiveDrops);
    }

    [Fact]
    public void WithoutMergeableBuffersOneHoldsAFrameOrItIsDropped()
    {
        SetUp(VirtioFeatures.Version1);
        _guest.Post(500, 2);
        _peer.Give(NetworkGuest.Frame(489));
        _peer.Give(NetworkGuest.Frame(488, seed: 5));
        Assert.Equal(NetworkGuest.Frame(488, seed: 5), _guest.Receive().Frame);
        Assert.Equal(1, Counters.ReceiveDrops);
    }

    [Fact]
    public void FramesStayInTheLinkWithoutBuffers()
    {
        SetUp(capacity: 4);
        for (int i = 0; i < 4; i++)
        {
            Assert.True(_peer.TrySend(NetworkGuest.Frame(60, seed: i), default));
        }
        Assert.False(_peer.TrySend(NetworkGuest.Frame(60), default));
        _guest.Post(2048, 4);
        for (int i = 0; i < 4; i++)
        {
            Assert.Equal(NetworkGuest.Frame(60, seed: i), _guest.Receive().Frame);
        }
    }

    [Fact]
    public void OffloadsOfSentFramesArriveAtTheLink()
    {
        SetUp();
        byte[] frame = NetworkGuest.Frame(30_000, type: 0x0800);
        _guest.Send(frame, NetworkGuest.Header(1, 0x80 | 1, 54, 1448, 34, 16), pieces: 5);
        (byte[] sent, FrameOffload offload) = _peer.Take();
        Assert.Equal(frame, sent);
        Assert.Equal(
            new FrameOffload
            {
                NeedsChecksum = true,
                ChecksumStart = 34,
                ChecksumOffset = 16,
                Segmentation = FrameSegmentation.TcpV4,
                SegmentSize = 1448,
                HeaderLength = 54,
                Ecn = true,
            },
            offload);
        _guest.Send(frame[..200], NetworkGuest.Header(1, start: 34, offset: 6));
        Assert.Equal(new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 6 }, _peer.Take().Offload);
        _guest.Send(frame[..200], NetworkGuest.Header(2));      // DATA_VALID means nothing from a driver
        Assert.Equal(default, _peer.Take().Offload);
    }

    [Theory]
    [InlineData(0, 1, 1448, 34, 16)]        // segmentation without checksum
    [InlineData(1, 1, 0, 34, 16)]           // no segment size
    [InlineData(1, 2, 1448, 34, 16)]        // no such type
    [InlineData(1, 3, 1448, 34, 16)]        // fragmentation offload is not offered
    [InlineData(1, 0x80, 1448, 34, 16)]     // ECN of nothing
    [InlineData(1, 0x85, 1448, 34, 16)]     // ECN of UDP
    [InlineData(1, 0, 0, 34, 165)]          // checksum behind the frame
    [InlineData(1, 0, 0, 65535, 65535)]
    [InlineData(1, 0, 0, 0, 6)]             // over the addresses that a filter has read
    [InlineData(1, 0, 0, 33, 16)]
    public void AHeaderThatAsksForTheImpossibleDropsTheFrame(int flags, int type, int size, int start, int offset)
    {
        SetUp();
        _guest.Send(NetworkGuest.Frame(200), NetworkGuest.Header((byte)flags, (byte)type, 66, (ushort)size, (ushort)start, (ushort)offset));
        _guest.Send(NetworkGuest.Frame(99));
        Assert.Equal(99, _peer.Take().Frame.Length);
        Assert.Equal(1, Counters.SendErrors);
        Assert.Equal(VirtioStatus.None, _guest.Driver.Status & VirtioStatus.DeviceNeedsReset);
    }

    [Fact]
    public void WhatWasNotNegotiatedIsNotPassedOn()
    {
        SetUp(VirtioFeatures.Version1 | NetworkGuest.Csum);
        _guest.Send(NetworkGuest.Frame(200), NetworkGuest.Header(1, 1, 66, 1448, 34, 16));
        _guest.Send(NetworkGuest.Frame(201), NetworkGuest.Header(1, 0, 66, 1448, 34, 16));
        Assert.Equal(201, _peer.Take().Frame.Length);
        _peer.Give(NetworkGuest.Frame(100), new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 6 });
        _peer.Give(NetworkGuest.Frame(101), new FrameOffload { ChecksumValid = true });
        _guest.Post(2048, 2);
        for (int length = 100; length <= 101; length++)
        {
            (byte[] header, byte[] frame, _) = _guest.Receive();
            Assert.Equal((0, length), (header[0], frame.Length));
        }
    }

    [Fact]
    public void TheFeaturesOfTheLinkAreOffered()
    {
        SetUp(offloads: OffloadFeatures.None, change: c => c with { SpeedMegabits = null });
        Assert.Equal(0UL, _guest.Driver.Features & (0b11_1000_0000_0001UL | (1UL << 56) | (1UL << 63) | NetworkGuest.MultiQueue));
        _guest.Dispose();
        SetUp(offloads: OffloadFeatures.Checksum | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn, change: c => c with { QueuePairs = 2 });
        Assert.Equal(0b11_0000_0000_0001UL, _guest.Driver.Features & 0b11_1000_0000_0001UL);
        Assert.NotEqual(0UL, _guest.Driver.Features & NetworkGuest.MultiQueue);
    }

    [Theory]
    [InlineData(NetworkGuest.GuestTso4)]
    [InlineData(NetworkGuest.HostTso4)]
    [InlineData(1UL << 56)]
    [InlineData(1UL << 55)]
    [InlineData(NetworkGuest.Csum | (1UL << 13))]
    [InlineData(NetworkGuest.GuestCsum | (1UL << 9))]
    [InlineData(NetworkGuest.MultiQueue)]
    [InlineData(NetworkGuest.ControlVlan)]
    [InlineData(1UL << 23)]
    public void FeaturesThatNeedOthersAreRefusedAlone(ulong features)
    {
        SetUp(change: c => c with { QueuePairs = 2 });
        Assert.False(_guest.Driver.Negotiate(VirtioFeatures.Version1 | features));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(11)]
    public void AChainWithoutAPacketHeaderLatchesTheQueue(int length)
    {
        SetUp();
        ulong at = _guest.Driver.Allocate(4096);
        _guest.Ring(1).Add((at, (uint)length, false), (at, 100, true));
        Wait.Until(() => (_guest.Driver.Status & VirtioStatus.DeviceNeedsReset) != 0);
        Assert.Equal(QueueViolation.BadRequest, _guest.Card.Queues[1].Violation);
    }

    [Fact]
    public void AReceiveBufferWithoutRoomForAHeaderLatchesTheQueue()
    {
        SetUp();
        _guest.Post(100);
        _guest.Post(11);
        _peer.Give(NetworkGuest.Frame(200));
        Wait.Until(() => (_guest.Driver.Status & VirtioStatus.DeviceNeedsReset) != 0);
        Assert.Equal(0, _guest.Ring(0).UsedIndex);
        _guest.Driver.Reset();
    }

    [Fact]
    public void FramesOfImpossibleLengthAreCountedAndDropped()
    {
        SetUp(size: 256);
        ulong at = _guest.Driver.Allocate(1 << 20);
        _guest.Machine.Memory.TryWrite(at, new byte[1 << 20]);
        _guest.Ring(1).Add((at, 12, false));
        _guest.Ring(1).Add((at, 25, false));
        _guest.Ring(1).Add((at, 65_563, false));
        _guest.Ring(1).Add((at, 1 << 20, false), (at, 1 << 20, false));
        _guest.Send(NetworkGuest.Frame(1515));
        _guest.Send(NetworkGuest.Frame(1519, type: 0x8100));
        byte[] tagged = NetworkGuest.Frame(1522, type: 0x88A8);
        (tagged[16], tagged[17]) = (0x81, 0);
        _guest.Send([.. tagged, 0]);
        for (int i = 0; i < 7; i++)
        {
            _guest.Ring(1).TakeUsed();
        }
        Assert.Equal((0, 7), (Counters.SentFrames, Counters.SendErrors));
        _guest.Send(NetworkGuest.Frame(1514));
        _guest.Send(NetworkGuest.Frame(1518, type: 0x8100));
        _guest.Send(tagged);
        _guest.Send(NetworkGuest.Frame(65_550), NetworkGuest.Header(1, 4, 74, 1428, 54, 16));
        Assert.Equal([1514, 1518, 1522, 65_550], new[] { _peer.Take().Frame.Length, _peer.Take().Frame.Length, _peer.Take().Frame.Length, _peer.Take().Frame.Length });
    }

    [Fact]
    public void AFrameThatTheLinkRefusesIsSentWhenItTakesAgain()
    {
        SetUp(capacity: 2, change: c => c with { QueuePairs = 2 });
        Assert.Equal(0, _guest.Control(4, 0, 2, 0));
        for (int i = 0; i < 6; i++)
        {
            _guest.Send(NetworkGuest.Frame(60 + i), pair: i / 3);
        }
        Wait.Until(() => Counters.SentFrames == 2 && _guest.Card.Queues[1].InFlight + _guest.Card.Queues[3].InFlight == 1);
        var lengths = new List<int>();
        while (lengths.Count < 6)
        {
            lengths.Add(_peer.Take().Frame.Length);
        }
        Assert.Equal([60, 61, 62, 63, 64, 65], lengths.Order());
        for (int i = 0; i < 3; i++)
        {
            _guest.Ring(1).TakeUsed();
            _guest.Ring(3).TakeUsed();
        }
    }

    [Fact]
    public void AResetForgetsARefusedFrame()
    {
        SetUp(capacity: 1);
        _guest.Send(NetworkGuest.Frame(60));
        _guest.Send(NetworkGuest.Frame(61));
        Wait.Until(() => Counters.SentFrames == 1 && _guest.Card.Queues[1].InFlight == 1);
        _guest.Driver.Reset();
        Assert.Equal(60, _peer.Take().Frame.Length);
        _guest.SetUp(ulong.MaxValue);
        _guest.Send(NetworkGuest.Frame(62));
        Assert.Equal(62, _peer.Take().Frame.Length);
    }

    [Fact]
    public void AQueueResetLetsTheOtherQueuesGoOn()
    {
        SetUp(capacity: 1, change: c => c with { QueuePairs = 2 });
        Assert.Equal(0, _guest.Control(4, 0, 2, 0));
        _guest.Send(NetworkGuest.Frame(60));
        _guest.Send(NetworkGuest.Frame(61));
        Wait.Until(() => Counters.SentFrames == 1 && _guest.Card.Queues[1].InFlight == 1);
        _guest.Send(NetworkGuest.Frame(62), pair: 1);
        _guest.Driver.Set(Virtio.Transport.CommonRegister.QueueSelect, 2, 1);
        _guest.Driver.Set(Virtio.Transport.CommonRegister.QueueReset, 2, 1);
        Wait.Until(() => _guest.Driver.Get(Virtio.Transport.CommonRegister.QueueReset, 2) == 0);
        Assert.Equal(60, _peer.Take().Frame.Length);
        Assert.Equal(62, _peer.Take().Frame.Length);
    }

    [Fact]
    public void TheConfigurationTellsTheCard()
    {
        SetUp(change: c => c with { QueuePairs = 3, Mtu = 1400, SpeedMegabits = 2500 });
        byte[] all = _guest.Driver.DeviceConfig(0, 4);
        Assert.Equal([0x52, 0x54, 0, 0], all);
        Assert.Equal([0, 1], _guest.Driver.DeviceConfig(4, 2));
        Assert.Equal(1, _guest.Status);
        Assert.Equal(3, BinaryPrimitives.ReadUInt16LittleEndian(_guest.Driver.DeviceConfig(8, 2)));
        Assert.Equal(1400, BinaryPrimitives.ReadUInt16LittleEndian(_guest.Driver.DeviceConfig(10, 2)));
        Assert.Equal(2500u, BinaryPrimitives.ReadUInt32LittleEndian(_guest.Driver.DeviceConfig(12, 4)));
        Assert.Equal(1, _guest.Driver.DeviceConfig(16, 1)[0]);
        _guest.Driver.DeviceConfig(0, [1, 2, 3, 4]);
        Assert.Equal(OwnMac, _guest.Card.Mac.Value);
    }

    [Fact]
    public void TheMtuIsTheLinksUnlessGiven()
    {
        SetUp(mtu: 9000);
        Assert.Equal(9000, BinaryPrimitives.ReadUInt16LittleEndian(_guest.Driver.DeviceConfig(10, 2)));
    }

    [Theory]
    [InlineData(ulong.MaxValue, 1)]
    [InlineData(VirtioFeatures.Version1, 0)]
    public void NothingLongerThanTheMtuArrives(ulong features, int errors)
    {
        SetUp(features, mtu: 9000, change: c => c with { Mtu = 1400 });
        _guest.Post(4096, 4);
        _peer.Give(NetworkGuest.Frame(1415));
        _peer.Give(NetworkGuest.Frame(1414));
        _peer.Give(NetworkGuest.Frame(1418, type: 0x8100));
        for (int i = errors; i < 2; i++)
        {
            Assert.InRange(_guest.Receive().Frame.Length, 1414, 1415 - errors);
        }
        Assert.Equal(1418, _guest.Receive().Frame.Length);
        Assert.Equal(errors, Counters.ReceiveErrors);
    }

    [Theory]
    [InlineData(0x0100_0000_0001, 1, 256)]
    [InlineData(0, 1, 256)]
    [InlineData(OwnMac, 0, 256)]
    [InlineData(OwnMac, 32, 256)]
    [InlineData(OwnMac, 1, 100)]
    public void AnImpossibleConfigurationIsRefused(ulong mac, int pairs, int size)
    {
        (MemoryLink link, _) = MemoryLink.CreatePair();
        using var memory = new Lodge.Engine.Memory.GuestMemory(1 << 20);
        Assert.Throws<ArgumentException>(() => new VirtioNetwork(memory, new(link, new MacAddress(mac)) { QueuePairs = pairs, QueueSize = (ushort)size }));
    }

    [Fact]
    public void LinkStateFollowsTheCableAndTheOtherEnd()
    {
        SetUp();
        _guest.Post(2048, 4);
        Assert.Equal(1, _guest.Status);
        int interrupts = _guest.Machine.Messages.Count(0x40);
        _guest.Card.SetLinkUp(false);
        Assert.Equal(0, _guest.Status);
        Assert.True(_guest.Machine.Messages.Count(0x40) > interrupts);
        _guest.Send(NetworkGuest.Frame(60));
        _peer.Give(NetworkGuest.Frame(60));
        Wait.Until(() => (Counters.SendDrops, Counters.ReceiveDrops) == (1, 1));
        _guest.Card.SetLinkUp(true);
        Assert.Equal(1, _guest.Status);
        _peer.Dispose();
        Wait.Until(() => _guest.Status == 0);
        Assert.False(_guest.Card.LinkUp);
    }

    [Fact]
    public void AnAnnouncementLastsUntilItIsAcknowledged()
    {
        SetUp();
        int interrupts = _guest.Machine.Messages.Count(0x40);
        _guest.Card.Announce();
        Assert.Equal(3, _guest.Status);
        Assert.Equal(interrupts + 1, _guest.Machine.Messages.Count(0x40));
        Assert.Equal(0, _guest.Control(3, 0));
        Assert.Equal(1, _guest.Status);
        _guest.Dispose();
        SetUp(VirtioFeatures.Version1 | NetworkGuest.ControlQueue);
        _guest.Card.Announce();
        Assert.Equal(1, _guest.Status);
        Assert.Equal(1, _guest.Control(3, 0));
    }

    [Fact]
    public void OneInterruptForABatch()
    {
        SetUp();
        _guest.Machine.Function.Stop();
        _guest.Post(2048, 40);
        for (int i = 0; i < 40; i++)
        {
            _guest.Send(NetworkGuest.Frame(60), notify: false);
            _peer.Give(NetworkGuest.Frame(60));
        }
        _guest.Ring(0).ArmInterrupt();
        _guest.Ring(1).ArmInterrupt();
        _guest.Driver.Notify(1);
        _guest.Machine.Function.Start();
        Wait.Until(() => _guest.Ring(0).UsedIndex == 40 && _guest.Ring(1).UsedIndex == 40);
        _guest.Machine.Function.Stop();
        Assert.Equal(1, _guest.Machine.Messages.Count(0x41));
        Assert.Equal(1, _guest.Machine.Messages.Count(0x42));
    }

    [Fact]
    public void FlowsComeBackToThePairThatSentThem()
    {
        SetUp(change: c => c with { QueuePairs = 4 });
        Assert.Equal(0, _guest.Control(4, 0, 4, 0));
        for (int pair = 0; pair < 4; pair++)
        {
            _guest.Post(2048, 40, 2 * pair);
        }
        for (int flow = 0; flow < 32; flow++)
        {
            bool six = flow % 2 == 1;
            _guest.Send(Packet(flow, six, reply: false), pair: flow % 4);
            _peer.Take();
            _peer.Give(Packet(flow, six, reply: true));
            Assert.Equal(Packet(flow, six, reply: true), _guest.Receive(2 * (flow % 4)).Frame);
        }
    }

    private static byte[] Packet(int flow, bool six, bool reply)
    {
        byte[] frame = NetworkGuest.Frame(100, type: (ushort)(six ? 0x86DD : 0x0800));
        Span<byte> packet = frame.AsSpan(14);
        packet[..60].Clear();
        packet[0] = (byte)(six ? 0x60 : 0x45);
        packet[six ? 6 : 9] = 6;
        int size = six ? 16 : 4, addresses = six ? 8 : 12, ports = six ? 40 : 20;
        packet[addresses + (reply ? size : 0)] = (byte)(flow + 1);
        packet[addresses + (reply ? 0 : size)] = 0xC0;
        packet[ports + (reply ? 2 : 0)] = (byte)(flow * 7);
        packet[ports + (reply ? 0 : 2)] = 80;
        return frame;
    }

    [Fact]
    public void QueuesBeyondThePairsInUseAreLeftAlone()
    {
        SetUp(change: c => c with { QueuePairs = 2 });
        _guest.Send(NetworkGuest.Frame(60), pair: 1);
        _guest.Send(NetworkGuest.Frame(61));
        Assert.Equal(61, _peer.Take().Frame.Length);
        Assert.Equal(1, _guest.Control(4, 0, 0, 0));
        Assert.Equal(1, _guest.Control(4, 0, 3, 0));
        Assert.Equal(1, _guest.Control(4, 0, 2));
        Assert.Equal(0, _guest.Control(4, 0, 2, 0));
        Assert.Equal(60, _peer.Take().Frame.Length);
    }

    [Fact]
    public void FramesOfAFlowDoNotOvertakeEachOther()
    {
        SetUp(change: c => c with { QueuePairs = 2, HoldMilliseconds = 60_000 });
        Assert.Equal(0, _guest.Control(4, 0, 2, 0));
        _guest.Send(Packet(1, six: false, reply: false), pair: 1);
        _peer.Take();
        _guest.Post(2048, 10);
        _peer.Give(Packet(1, six: false, reply: true));
        _guest.Post(2048, 10, queue: 2);
        Assert.Equal(100, _guest.Receive(2).Frame.Length);
    }

    [Fact]
    public void AFlowWhoseQueueIsNotThereGoesElsewhere()
    {
        SetUp(change: c => c with { QueuePairs = 2 });
        Assert.Equal(0, _guest.Control(4, 0, 2, 0));
        _guest.Send(Packet(1, six: false, reply: false), pair: 1);
        _peer.Take();
        _guest.Driver.Set(Virtio.Transport.CommonRegister.QueueSelect, 2, 2);
        _guest.Driver.Set(Virtio.Transport.CommonRegister.QueueReset, 2, 1);
        Wait.Until(() => _guest.Driver.Get(Virtio.Transport.CommonRegister.QueueReset, 2) == 0);
        _guest.Post(2048, 10);
        _peer.Give(Packet(1, six: false, reply: true));
        Assert.Equal(100, _guest.Receive().Frame.Length);
    }
}
