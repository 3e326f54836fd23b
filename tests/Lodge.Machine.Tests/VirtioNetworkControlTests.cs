using System.Buffers.Binary;
using Lodge.Machine.Devices.Virtio.Network;
using Lodge.Machine.Tests.Harness;
using Lodge.Machine.Virtio;
using Lodge.Network.Links;
using Lodge.Network.Packets;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>The card's control queue and what it makes of received frames.</summary>
public sealed class VirtioNetworkControlTests : IDisposable
{
    private const byte Ok = 0, Error = 1, Rx = 0, Mac = 1, Vlan = 2, Offloads = 5;
    private const ulong Own = 0x5254_0000_0001, Other = 0x5254_0000_0099, Group = 0x0100_5E00_0001, OtherGroup = 0x3333_0000_0001, All = 0xFFFF_FFFF_FFFF;
    private readonly MemoryLink _link;
    private readonly MemoryLink _peer;
    private NetworkGuest _guest = null!;

    public VirtioNetworkControlTests() => (_link, _peer) = MemoryLink.CreatePair(new()
    {
        Offloads = OffloadFeatures.Checksum | OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn | OffloadFeatures.UdpSegmentation,
    });

    public void Dispose() => _guest?.Dispose();

    private void SetUp(ulong features = ulong.MaxValue)
    {
        _guest = new NetworkGuest(_link, features);
        _guest.Post(2048, 60);
    }

    /// <summary>Those of the frames that arrive.</summary>
    private ulong[] Arriving(params ulong[] destinations)
    {
        long before = _guest.Card.Counters.ReceiveFiltered;
        foreach (ulong destination in destinations)
        {
            _peer.Give(NetworkGuest.Frame(60, destination));
        }
        // The last one passes always: it has the card's own address.
        _peer.Give(NetworkGuest.Frame(61, _guest.Card.Mac.Value));
        var arrived = new List<ulong>();
        for (byte[] frame = _guest.Receive().Frame; frame.Length == 60; frame = _guest.Receive().Frame)
        {
            arrived.Add(MacAddress.Read(frame).Value);
        }
        Assert.Equal(destinations.Length - arrived.Count, _guest.Card.Counters.ReceiveFiltered - before);
        return [.. arrived];
    }

    private static byte[] Table(ulong[] stations, ulong[] groups)
    {
        return [.. List(stations), .. List(groups)];

        static byte[] List(ulong[] addresses)
        {
            byte[] bytes = new byte[4 + (6 * addresses.Length)];
            BinaryPrimitives.WriteInt32LittleEndian(bytes, addresses.Length);
            for (int i = 0; i < addresses.Length; i++)
            {
                new MacAddress(addresses[i]).Write(bytes.AsSpan(4 + (6 * i)));
            }
            return bytes;
        }
    }

    [Fact]
    public void EverythingArrivesUntilTheDriverChooses()
    {
        SetUp();
        Assert.Equal([Own, Other, Group, All], Arriving(Own, Other, Group, All));
        Assert.Equal(Ok, _guest.Control(Rx, 0, 0));
        Assert.Equal([Own, All], Arriving(Own, Other, Group, All));
        _guest.Driver.Reset();
        _guest.SetUp(VirtioFeatures.Version1);
        _guest.Post(2048, 10);
        Assert.Equal([Own, Other, Group, All], Arriving(Own, Other, Group, All));
    }

    [Theory]
    [InlineData(0, new[] { Own, Other, Group, All })]
    [InlineData(1, new[] { Own, Group, All })]
    [InlineData(2, new[] { Own, Other, All })]
    [InlineData(5, new[] { Own })]
    public void ModesLetPassOrNot(byte mode, ulong[] expected)
    {
        SetUp();
        Assert.Equal(Ok, _guest.Control(Rx, 0, 0));
        Assert.Equal(Ok, _guest.Control(Rx, mode, 1));
        Assert.Equal(expected, Arriving(Own, Other, Group, All));
        Assert.Equal(Ok, _guest.Control(Rx, mode, 0));
        Assert.Equal([Own, All], Arriving(Own, Other, Group, All));
    }

    [Fact]
    public void TheTableLetsPass()
    {
        SetUp();
        Assert.Equal(Ok, _guest.Control(Rx, 0, 0));
        Assert.Equal(Ok, _guest.Control(Mac, 0, Table([Other], [Group])));
        Assert.Equal([Own, Other, Group, All], Arriving(Own, Other, Group, OtherGroup, Other + 1, All));
        Assert.Equal(Ok, _guest.Control(Rx, 3, 1));         // NOMULTI goes before the table
        Assert.Equal([Other, All], Arriving(Other, Group, All));
        Assert.Equal(Ok, _guest.Control(Rx, 3, 0));
        Assert.Equal(Ok, _guest.Control(Mac, 0, Table([], [])));
        Assert.Equal([Own], Arriving(Own, Other, Group, OtherGroup));
    }

    [Fact]
    public void ATableThatIsTooLongStandsForAll()
    {
        SetUp();
        Assert.Equal(Ok, _guest.Control(Rx, 0, 0));
        ulong[] many = [.. Enumerable.Range(0, 129).Select(i => 0x0200_0000_0000UL + (ulong)i)];
        Assert.Equal(Ok, _guest.Control(Mac, 0, Table(many, [Group])));
        Assert.Equal([Other, Group], Arriving(Other, Group, OtherGroup));
        Assert.Equal(Ok, _guest.Control(Mac, 0, Table(many[..128], [])));
        Assert.Equal([0x0200_0000_007F], Arriving(Other, 0x0200_0000_007F, Group));
    }

    [Fact]
    public void AMalformedTableChangesNothing()
    {
        SetUp();
        Assert.Equal(Ok, _guest.Control(Rx, 0, 0));
        Assert.Equal(Ok, _guest.Control(Mac, 0, Table([Other], [])));
        byte[] table = Table([Own], [Group]);
        for (int length = 0; length < table.Length; length++)
        {
            Assert.Equal(Error, _guest.Control(Mac, 0, table[..length]));
        }
        table[3] = 0xFF;
        Assert.Equal(Error, _guest.Control(Mac, 0, table));
        Assert.Equal([Other], Arriving(Other, Group));
    }

    [Fact]
    public void TheDriverSetsTheAddress()
    {
        SetUp();
        Assert.Equal(Ok, _guest.Control(Rx, 0, 0));
        Assert.Equal(Ok, _guest.Control(Mac, 1, 2, 0, 0, 0, 0, 7));
        Assert.Equal(0x0200_0000_0007UL, _guest.Card.Mac.Value);
        Assert.Equal([2, 0, 0, 0, 0, 7], _guest.Driver.DeviceConfig(0, 4).Concat(_guest.Driver.DeviceConfig(4, 2)));
        Assert.Equal([All], Arriving(Own, All));
        Assert.Equal(Error, _guest.Control(Mac, 1, 3, 0, 0, 0, 0, 7));
        Assert.Equal(Error, _guest.Control(Mac, 1, 0, 0, 0, 0, 0, 0));
        Assert.Equal(Error, _guest.Control(Mac, 1, 2, 0, 0, 0, 0));
        Assert.Equal(0x0200_0000_0007UL, _guest.Card.Mac.Value);
        _guest.Driver.Reset();
        Assert.Equal(Own, _guest.Card.Mac.Value);
    }

    [Fact]
    public void OnlyWantedVlansArrive()
    {
        SetUp();
        Assert.Equal(Ok, _guest.Control(Rx, 0, 0));
        Assert.Equal(Ok, _guest.Control(Vlan, 0, 0x34, 0x02));
        Assert.Equal([0x234, 0], VlansArriving(0x235, 0x234, 0, 4095));
        Assert.Equal(Ok, _guest.Control(Vlan, 1, 0x34, 0x02));
        Assert.Equal([0], VlansArriving(0x234, 0));
        Assert.Equal(Error, _guest.Control(Vlan, 0, 0, 0x10));
        Assert.Equal(Error, _guest.Control(Vlan, 2, 0, 0));
        Assert.Equal(Error, _guest.Control(Vlan, 0, 0));
        _guest.Driver.Reset();
        _guest.SetUp(_guest.Machine.Device.OfferedFeatures & ~NetworkGuest.ControlVlan);
        _guest.Post(2048, 20);
        Assert.Equal(Ok, _guest.Control(Rx, 0, 0));
        Assert.Equal([0x234, 0], VlansArriving(0x234, 0));
        Assert.Equal(Error, _guest.Control(Vlan, 0, 0, 0));
    }

    private int[] VlansArriving(params int[] vlans)
    {
        foreach (int vlan in vlans)
        {
            byte[] frame = NetworkGuest.Frame(60, Own, type: 0x8100);
            BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(14), (ushort)(0xE000 | vlan));
            _peer.Give(frame);
        }
        _peer.Give(NetworkGuest.Frame(61, Own));
        var arrived = new List<int>();
        for (byte[] frame = _guest.Receive().Frame; frame.Length == 60; frame = _guest.Receive().Frame)
        {
            arrived.Add(BinaryPrimitives.ReadUInt16BigEndian(frame.AsSpan(14)) & 4095);
        }
        return [.. arrived];
    }

    [Fact]
    public void GuestOffloadsAreTurnedOffAndOn()
    {
        SetUp();
        var offload = new FrameOffload { NeedsChecksum = true, ChecksumStart = 34, ChecksumOffset = 6 };
        Assert.Equal(Ok, _guest.Control(Offloads, 0, BitConverter.GetBytes(0UL)));
        _peer.Give(NetworkGuest.Frame(100), new FrameOffload { ChecksumValid = true });
        Assert.Equal(0, _guest.Receive().Header[0]);
        Assert.Equal(Ok, _guest.Control(Offloads, 0, BitConverter.GetBytes(NetworkGuest.GuestCsum)));
        _peer.Give(NetworkGuest.Frame(101), offload with { Segmentation = FrameSegmentation.TcpV4, SegmentSize = 1 });
        _peer.Give(NetworkGuest.Frame(102), offload);
        _peer.Give(NetworkGuest.Frame(103), new FrameOffload { ChecksumValid = true });
        (byte[] header, byte[] frame, _) = _guest.Receive();
        Assert.Equal((1, 102), (header[0], frame.Length));
        (header, frame, _) = _guest.Receive();
        Assert.Equal((2, 103), (header[0], frame.Length));
        Assert.Equal(Error, _guest.Control(Offloads, 0, BitConverter.GetBytes(NetworkGuest.GuestTso4)));
        Assert.Equal(Error, _guest.Control(Offloads, 0, BitConverter.GetBytes(1UL << 40)));
        Assert.Equal(Error, _guest.Control(Offloads, 0, BitConverter.GetBytes(0)));
    }

    [Theory]
    [InlineData(0, 6)]
    [InlineData(0, 255)]
    [InlineData(1, 2)]
    [InlineData(3, 1)]
    [InlineData(4, 0)]      // VIRTIO_NET_F_MQ is not offered with one pair
    [InlineData(4, 1)]
    [InlineData(5, 1)]
    [InlineData(6, 0)]
    [InlineData(255, 255)]
    public void UnknownCommandsAreRefused(byte @class, byte command)
    {
        SetUp();
        Assert.Equal(Error, _guest.Control(@class, command, 1, 0, 0, 0, 0, 0, 0, 0));
        Assert.Equal(Error, _guest.Control(@class, command));
    }

    [Fact]
    public void CommandsOfFeaturesThatWereNotNegotiatedAreRefused()
    {
        SetUp(VirtioFeatures.Version1 | NetworkGuest.ControlQueue);
        Assert.Equal(Error, _guest.Control(Rx, 0, 0));
        Assert.Equal(Error, _guest.Control(Rx, 2, 0));
        Assert.Equal(Error, _guest.Control(Mac, 0, Table([], [])));
        Assert.Equal(Error, _guest.Control(Mac, 1, 2, 0, 0, 0, 0, 7));
        Assert.Equal(Error, _guest.Control(Vlan, 0, 0, 0));
        Assert.Equal(Error, _guest.Control(3, 0));
        Assert.Equal(Error, _guest.Control(Offloads, 0, BitConverter.GetBytes(0UL)));
    }

    [Theory]
    [InlineData(1, 1)]
    [InlineData(2, 0)]
    public void AChainWithoutCommandOrAnswerLatchesTheQueue(int readable, int writable)
    {
        SetUp();
        ulong at = _guest.Driver.Allocate(4096);
        _guest.Ring(2).Add((at, (uint)readable, false), (at + 100, (uint)writable, true));
        Wait.Until(() => (_guest.Driver.Status & VirtioStatus.DeviceNeedsReset) != 0);
        Assert.Equal(QueueViolation.BadRequest, _guest.Card.Queues[2].Violation);
    }
}
