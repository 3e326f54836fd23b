using System.Buffers.Binary;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Virtio.Network;
using Lodge.Machine.Tests.Harness;
using Lodge.Machine.Virtio;
using Lodge.Network.Links;
using Lodge.Network.Packets;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>A card that is stopped, saved and continued, in the same or another machine.</summary>
public sealed class VirtioNetworkStateTests : IDisposable
{
    private const ulong Own = 0x5254_0000_0001, Group = 0x0100_5E00_0001;
    private static readonly OffloadFeatures Everything =
        OffloadFeatures.Checksum | OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn | OffloadFeatures.UdpSegmentation;

    private readonly MemoryLink _link;
    private readonly MemoryLink _peer;
    private readonly NetworkGuest _guest;

    public VirtioNetworkStateTests()
    {
        (_link, _peer) = MemoryLink.CreatePair(new() { Offloads = Everything, Capacity = 2 });
        _guest = new NetworkGuest(_link, change: c => c with { QueuePairs = 2, HoldMilliseconds = 60_000 });
    }

    public void Dispose() => _guest.Dispose();

    /// <summary>Stops, saves, restores into the same card and starts it.</summary>
    private void SaveAndContinue()
    {
        _guest.Machine.Function.Stop();
        byte[] saved = _guest.Machine.Save();
        _guest.Machine.Function.Reset();
        _guest.Machine.Restore(saved);
        Assert.Equal(saved, _guest.Machine.Save());
        _guest.Machine.Function.Start();
    }

    [Fact]
    public void WhatTheDriverHasSetIsKept()
    {
        Assert.Equal(0, _guest.Control(0, 0, 0));
        Assert.Equal(0, _guest.Control(1, 1, 2, 0, 0, 0, 0, 7));
        Assert.Equal(0, _guest.Control(1, 0, [0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0x5E, 0, 0, 1]));
        Assert.Equal(0, _guest.Control(2, 0, 5, 0));
        Assert.Equal(0, _guest.Control(4, 0, 2, 0));
        Assert.Equal(0, _guest.Control(5, 0, BitConverter.GetBytes(NetworkGuest.GuestCsum)));
        _guest.Card.Announce();
        SaveAndContinue();
        Assert.Equal(0x0200_0000_0007UL, _guest.Card.Mac.Value);
        Assert.Equal(3, _guest.Status);
        _guest.Post(2048, 10);
        _guest.Post(2048, 10, queue: 2);
        _peer.Give(NetworkGuest.Frame(60, Own));
        _peer.Give(NetworkGuest.Frame(61, Group));
        _peer.Give(Tagged(62, 6));
        _peer.Give(Tagged(63, 5));
        _peer.Give(NetworkGuest.Frame(64, 0x0200_0000_0007), new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 6 });
        var lengths = new List<int>();
        while (lengths.Count < 3)
        {
            Wait.Until(() => _guest.Ring(0).HasUsed || _guest.Ring(2).HasUsed);
            lengths.Add(_guest.Receive(_guest.Ring(0).HasUsed ? 0 : 2).Frame.Length);
        }
        Assert.Equal([61, 63, 64], lengths.Order());
        _guest.Send(NetworkGuest.Frame(65), pair: 1);
        Assert.Equal(65, _peer.Take().Frame.Length);
    }

    private static byte[] Tagged(int length, ushort vlan)
    {
        byte[] frame = NetworkGuest.Frame(length, 0x0200_0000_0007, type: 0x8100);
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(14), vlan);
        return frame;
    }

    [Fact]
    public void AFrameThatTheLinkRefusesIsSentAfterwardsOnce()
    {
        for (int i = 0; i < 4; i++)
        {
            _guest.Send(NetworkGuest.Frame(60 + i));
        }
        Wait.Until(() => _guest.Card.Queues[1].InFlight == 1);
        SaveAndContinue();
        for (int i = 0; i < 4; i++)
        {
            Assert.Equal(60 + i, _peer.Take().Frame.Length);
        }
        Assert.Equal(0, _peer.TryReceive(new byte[65_562], out _));
    }

    [Fact]
    public void AFrameThatWaitsForBuffersArrivesAfterwards()
    {
        _guest.Post(2048, 2);
        byte[] frame = NetworkGuest.Frame(9000);
        _peer.Give(frame, new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 16, Segmentation = FrameSegmentation.TcpV4, SegmentSize = 1400, HeaderLength = 54 });
        Wait.Until(() => EventIndex() == 2);
        SaveAndContinue();
        _guest.Post(2048, 3);
        (byte[] header, byte[] received, int buffers) = _guest.Receive();
        Assert.Equal(frame, received);
        Assert.Equal(5, buffers);
        Assert.Equal(NetworkGuest.Header(1, 1, 54, 1400, 34, 16)[..10], header[..10]);
    }

    private ushort EventIndex()
    {
        GuestRing ring = _guest.Ring(0);
        _guest.Machine.Memory.TryRead(ring.Used + 4 + (8UL * ring.Size), out ushort value);
        return value;
    }

    [Fact]
    public void AnUnpluggedCableStaysUnplugged()
    {
        _guest.Card.SetLinkUp(false);
        SaveAndContinue();
        Assert.Equal(0, _guest.Status);
        _guest.Card.SetLinkUp(true);
        Assert.Equal(1, _guest.Status);
    }

    [Fact]
    public void ALinkThatIsDownAfterwardsIsTold()
    {
        _guest.Machine.Function.Stop();
        byte[] saved = _guest.Machine.Save();
        _peer.SetConnected(false);
        int interrupts = _guest.Machine.Messages.Count(0x40);
        _guest.Machine.Restore(saved);
        _guest.Machine.Function.Start();
        Wait.Until(() => _guest.Status == 0 && _guest.Machine.Messages.Count(0x40) > interrupts);
    }

    [Fact]
    public void OffloadsAreToldToTheNewLink()
    {
        _guest.Machine.Function.Stop();
        byte[] saved = _guest.Machine.Save();
        (MemoryLink link, MemoryLink peer) = MemoryLink.CreatePair(new() { Offloads = Everything });
        link.AcceptOffloads(OffloadFeatures.None);
        using var other = new NetworkGuest(link, change: c => c with { QueuePairs = 2 }, start: false);
        byte[] ram = new byte[32 << 20];
        _guest.Machine.Memory.TryRead(0, ram);
        other.Machine.Memory.TryWrite(0, ram);
        other.Machine.Restore(saved);
        other.Machine.Function.Start();
        byte[] sent = NetworkGuest.Frame(100);
        peer.Give(sent, new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 6 });
        Wait.Until(() => !other.Card.Queues[0].HasAvailable);
        Assert.Equal(0, peer.Undeliverable);
    }

    [Fact]
    public void AFullMachineIsSavedInTheMiddleOfTraffic()
    {
        var stop = new ManualResetEventSlim();
        var echo = new Thread(() =>
        {
            byte[] buffer = new byte[65_562];
            while (!stop.IsSet)
            {
                int length = _peer.TryReceive(buffer, out FrameOffload offload);
                while (length != 0 && !_peer.TrySend(buffer.AsSpan(0, length), offload) && !stop.IsSet)
                {
                    Thread.Yield();
                }
            }
        });
        echo.Start();
        _guest.Post(2048, 16);
        for (int i = 0, sent = 0; i < 600; i++)
        {
            while (sent < 600 && sent - i < 6)
            {
                byte[] frame = NetworkGuest.Frame(60);
                BinaryPrimitives.WriteInt32LittleEndian(frame.AsSpan(20), sent++);
                _guest.Send(frame);
            }
            if (i % 20 == 7)
            {
                SaveAndContinue();
            }
            Assert.Equal(i, BinaryPrimitives.ReadInt32LittleEndian(_guest.Receive().Frame.AsSpan(20)));
            _guest.Post(2048);
            while (_guest.Ring(1).TryTakeUsed(out _, out _))
            {
            }
        }
        stop.Set();
        echo.Join();
    }

    [Fact]
    public void StatesThatCannotBeAreRefused()
    {
        VirtioNetworkState good = new(
            null, 1, [], false, [], false, new ulong[64], NetworkGuest.GuestCsum, 2, false, true, true, new byte[100],
            new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 16 });
        Restore(good);
        VirtioNetworkState[] bad =
        [
            good with { Mac = 1UL << 48 },
            good with { Mac = Group },
            good with { Modes = 64 },
            good with { Unicast = new byte[774] },
            good with { Multicast = new byte[774] },
            good with { Vlans = new ulong[63] },
            good with { GuestOffloads = NetworkGuest.GuestTso4 | (1UL << 50) },
            good with { Pairs = 0 },
            good with { Pairs = 3 },
            good with { Frame = new byte[13] },
            good with { Frame = new byte[65_551] },
            good with { FrameOffload = good.FrameOffload with { ChecksumOffset = 65 } },
            good with { FrameOffload = good.FrameOffload with { ChecksumStart = 20 } },
            good with { FrameOffload = good.FrameOffload with { Segmentation = FrameSegmentation.TcpV4, SegmentSize = 1 } },
            good with { FrameOffload = good.FrameOffload with { Segmentation = (FrameSegmentation)9 } },
            good with { GuestOffloads = 0 },
        ];
        foreach (VirtioNetworkState state in bad)
        {
            Assert.Throws<SavedStateException>(() => Restore(state));
        }
    }

    private void Restore(VirtioNetworkState state)
    {
        _guest.Machine.Function.Stop();
        var writer = new StateWriter();
        writer.Nested(7, new VirtioDeviceState(_guest.Card.OfferedFeatures, 15, 0, 0, QueueViolation.None, []));
        writer.Nested(1, state);
        _guest.Card.Restore(new StateReader(writer.ToArray()), 7);
    }
}
