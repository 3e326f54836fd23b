using System.Buffers.Binary;
using System.Globalization;
using Lodge.Network.Capture;
using Lodge.Network.Filters;
using Lodge.Network.Limits;
using Lodge.Network.Links;
using Lodge.Network.Offloads;
using Lodge.Network.Packets;
using Lodge.Network.Tests.Filters;
using Lodge.Network.Tests.Harness;
using Xunit;

namespace Lodge.Network.Tests;

/// <summary>
/// Random and mutated frames in both directions through all decorators: nothing throws, grows or loops, and whatever a guest sends, no frame of somebody else's comes out.
/// LODGE_FUZZ_CASES sets the number of frames.
/// </summary>
public class FrameFuzzTests
{
    private const string Own = "10.0.0.5", Peer = "10.0.0.1", Own6 = "fd00::5", Peer6 = "fd00::1";
    private const OffloadFeatures All = OffloadFeatures.Checksum | OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn | OffloadFeatures.UdpSegmentation;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    public void No_frame_does_harm(int order)
    {
        long cases = long.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), CultureInfo.InvariantCulture, out long asked) ? asked / 2 : 15_000;
        var time = new ManualTime();
        var wire = new Wire();
        using var capture = new CaptureFile(Stream.Null, "fuzz", CaptureFormat.Pcapng, CaptureFile.DefaultSnapLength, time, null);
        var options = new FilterOptions
        {
            Address = Frames.GuestMac,
            Addresses = [IpPrefix.Ipv4(0x0A000005), IpPrefix.Ipv6((UInt128)0xFD00 << 112, 64)],
            LearnsAddresses = false,
            Rules = FilterRules.Parse("deny out 10.9.0.0/16; allow out tcp 1-40000; deny out udp 9; deny in tcp 1-1024; default deny out"),
            MaximumConnections = 500,
        };
        // The checks hold with the filter before the card and with the filter before the wire.
        var limits = new LinkLimits { SendBytes = new(100_000_000), ReceivePackets = new(1_000_000) };
        using ILink link = order == 1
            ? new CapturedLink(new FilteredLink(new RateLimitedLink(new OffloadingLink(new CountedLink(wire)), limits, time), options, time), capture, "fuzz", ownsFile: false)
            : new OffloadingLink(new CapturedLink(new RateLimitedLink(new FilteredLink(wire, options, time), limits, time), capture, "fuzz", ownsFile: false));
        link.Connect(() => { });

        byte[][] corpus = [.. Corpus()];
        byte[] frame = new byte[66000], buffer = new byte[65_562];
        long before = 0, received = 0;
        for (long number = 0; number < cases; number++)
        {
            if (number == Math.Min(cases / 2, 10_000))
            {
                before = GC.GetTotalMemory(true);
            }
            var random = new Rng((ulong)number * 2 + (ulong)order);
            try
            {
                int length = Make(ref random, corpus, frame);
                var offload = MakeOffload(ref random, frame.AsSpan(0, length));
                if (random.Next(64) == 0)
                {
                    link.AcceptOffloads((OffloadFeatures)random.Next(32) & All);
                }
                if (random.Next(3) != 0)
                {
                    wire.Sent = 0;
                    for (int tries = 0; !link.TrySend(frame.AsSpan(0, length), offload); tries++)
                    {
                        Assert.True(tries < 10_000, "refused for ever");
                        time.Advance(TimeSpan.FromMilliseconds(1));
                    }
                    Assert.True(wire.Sent <= 8192, "too many frames of one");
                }
                else
                {
                    wire.Put(frame.AsSpan(0, length), offload);
                    for (int tries = 0; tries < 10_000 && (wire.Count != 0 || tries == 0); tries++)
                    {
                        int got;
                        for (int frames = 0; (got = link.TryReceive(buffer, out var left)) != 0; frames++)
                        {
                            Assert.True(got <= buffer.Length && frames < 10_000);
                            received++;
                            if (left.NeedsChecksum && left.Segmentation != FrameSegmentation.None && offload.Segmentation == FrameSegmentation.None)
                            {
                                Assert.Equal(0, got - left.ChecksumStart < 20 ? 1 : 0);
                            }
                        }
                        time.Advance(TimeSpan.FromMilliseconds(1));
                    }
                }
                if (random.Next(1000) == 0)
                {
                    time.Advance(TimeSpan.FromSeconds(random.Next(100)));
                }
            }
            catch (Exception error)
            {
                throw new InvalidOperationException($"order {order}, case {number}: {error.Message}", error);
            }
        }
        TestContext.Current.TestOutputHelper?.WriteLine($"{cases} frames: {wire.Total} came out, {received} arrived");
        Assert.True(wire.Total > cases / 50 && received > cases / 50, $"{wire.Total} sent, {received} received: nothing gets through");
        Assert.InRange(GC.GetTotalMemory(true) - before, long.MinValue, 16 << 20);
    }

    private static IEnumerable<byte[]> Corpus()
    {
        foreach (var row in AntiSpoofingTests.Honest().Concat(AntiSpoofingTests.Tricks()))
        {
            yield return row.Data.Item2;
        }
        foreach (int size in (int[])[0, 1, 100, 1440, 9000])
        {
            foreach (var flags in (TcpFlags[])[TcpFlags.Ack, TcpFlags.Syn, TcpFlags.Ack | TcpFlags.Fin, TcpFlags.Rst])
            {
                yield return Frames.Out(Own, Peer, 6, Frames.Tcp(Own, Peer, 1000, 2000, flags, new byte[size]));
                yield return Frames.Out(Own6, Peer6, 6, Frames.Tcp(Own6, Peer6, 1000, 2000, flags, new byte[size]));
                yield return Frames.In(Peer, Own, 6, Frames.Tcp(Peer, Own, 2000, 1000, flags, new byte[size]));
                yield return Frames.In(Peer6, Own6, 6, Frames.Tcp(Peer6, Own6, 2000, 1000, flags, new byte[size]));
            }
            yield return Frames.Out(Own, Peer, 17, Frames.Udp(Own, Peer, 1000, 2000, new byte[size]));
            yield return Frames.In(Peer6, Own6, 17, Frames.Udp(Peer6, Own6, 2000, 1000, new byte[size]));
        }
        yield return Frames.Out(Own, Peer, 6, Frames.Tcp(Own, Peer, 1000, 2000, TcpFlags.Ack, new byte[65000]));
    }

    private static int Make(ref Rng random, byte[][] corpus, byte[] frame)
    {
        byte[] seed = corpus[random.Next(corpus.Length)];
        int length = seed.Length;
        seed.CopyTo(frame, 0);
        switch (random.Next(8))
        {
            case 0:
                break;
            case 1: // shorter
                length = random.Next(length + 1);
                break;
            case 2: // longer
                int more = Math.Min(random.Next(64), frame.Length - length);
                random.Fill(frame.AsSpan(length, more));
                length += more;
                break;
            case 3: // all random behind the Ethernet header
                if (length > 14)
                {
                    random.Fill(frame.AsSpan(14, Math.Min(length - 14, 200)));
                }
                break;
            case 4: // bytes moved
                if (length > 20)
                {
                    int from = random.Next(length), to = random.Next(length);
                    frame.AsSpan(from, Math.Min(random.Next(40), length - Math.Max(from, to))).CopyTo(frame.AsSpan(to));
                }
                break;
            default: // some bytes changed, mostly in the headers
                for (int changes = random.Next(6) + 1; changes > 0 && length > 0; changes--)
                {
                    int place = random.Next(4) == 0 ? random.Next(length) : Math.Min(12 + random.Next(80), length - 1);
                    frame[place] = random.Next(3) switch
                    {
                        0 => (byte)random.Next(256),
                        1 => (byte)(frame[place] ^ (1 << random.Next(8))),
                        _ => (byte)(random.Next(2) * 255),
                    };
                }
                break;
        }
        return length;
    }

    private static FrameOffload MakeOffload(ref Rng random, ReadOnlySpan<byte> frame)
    {
        switch (random.Next(4))
        {
            case 0 or 1:
                return default;
            case 2:
                return new()
                {
                    NeedsChecksum = random.Next(2) == 0,
                    ChecksumValid = random.Next(2) == 0,
                    ChecksumStart = (ushort)random.Next(random.Next(2) == 0 ? 80 : 65536),
                    ChecksumOffset = (ushort)random.Next(random.Next(2) == 0 ? 80 : 65536),
                    Segmentation = (FrameSegmentation)random.Next(5),
                    Ecn = random.Next(2) == 0,
                    SegmentSize = (ushort)random.Next(random.Next(2) == 0 ? 20 : 65536),
                    HeaderLength = (ushort)random.Next(65536),
                };
            default:
                bool isIpv6 = frame.Length > 13 && frame[12] == 0x86;
                bool isTcp = frame.Length > 23 && frame[isIpv6 ? 20 : 23] == 6;
                return new()
                {
                    NeedsChecksum = true,
                    ChecksumStart = (ushort)(isIpv6 ? 54 : 34),
                    ChecksumOffset = (ushort)(isTcp ? 16 : 6),
                    Segmentation = random.Next(2) == 0 ? FrameSegmentation.None : !isTcp ? FrameSegmentation.Udp : isIpv6 ? FrameSegmentation.TcpV6 : FrameSegmentation.TcpV4,
                    SegmentSize = (ushort)(random.Next(20) == 0 ? random.Next(100) : 1000 + random.Next(500)),
                };
        }
    }

    /// <summary>The other end: looks at what comes out, by its own eyes.</summary>
    private sealed class Wire : ILink
    {
        private readonly byte[][] _frames = new byte[3][];
        private readonly int[] _lengths = new int[3];
        private readonly FrameOffload[] _offloads = new FrameOffload[3];
        private ulong _turn;

        public int Sent { get; set; }

        public long Total { get; private set; }

        public int Count { get; private set; }

        public OffloadFeatures SendOffloads => (OffloadFeatures)((_turn >> 10) % 32) & All;

        public int MaximumFrame => 1514;

        public bool IsUp => true;

        public void AcceptOffloads(OffloadFeatures accepted)
        {
        }

        public void Connect(Action wake)
        {
        }

        public void Put(ReadOnlySpan<byte> frame, in FrameOffload offload)
        {
            if (Count == _frames.Length || frame.IsEmpty)
            {
                return;
            }
            frame.CopyTo(_frames[Count] ??= new byte[66000]);
            _lengths[Count] = frame.Length;
            _offloads[Count++] = offload;
            if (Count == 1 && frame.Length > 42 && Count < _frames.Length)
            {
                // What could continue a TCP connection.
                frame.CopyTo(_frames[1] ??= new byte[66000]);
                int place = frame[12] == 0x86 ? 58 : 38;
                if (place + 4 < frame.Length)
                {
                    var sequence = _frames[1].AsSpan(place);
                    BinaryPrimitives.WriteUInt32BigEndian(sequence, BinaryPrimitives.ReadUInt32BigEndian(sequence) + (uint)Math.Max(frame.Length - place - 16, 0));
                }
                _lengths[1] = frame.Length;
                _offloads[1] = new() { ChecksumValid = true };
                Count = 2;
            }
        }

        public bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
        {
            if (++_turn % 37 == 0)
            {
                return false;
            }
            Sent++;
            Total++;
            Assert.True(frame.Length is >= 14 and <= 66000, "length");
            Assert.True(frame.Slice(6, 6).SequenceEqual(Frames.Guest), "source MAC");
            var packet = frame[14..];
            switch (BinaryPrimitives.ReadUInt16BigEndian(frame[12..]))
            {
                case 0x0806:
                    Assert.True(packet.Slice(8, 6).SequenceEqual(Frames.Guest), "ARP MAC");
                    Assert.True(BinaryPrimitives.ReadUInt32BigEndian(packet[14..]) is 0x0A000005 or 0, "ARP address");
                    break;
                case 0x0800:
                    uint source = BinaryPrimitives.ReadUInt32BigEndian(packet[12..]);
                    uint destination = BinaryPrimitives.ReadUInt32BigEndian(packet[16..]);
                    bool isDhcp = packet[9] == 17 && BinaryPrimitives.ReadUInt16BigEndian(packet[((packet[0] & 15) * 4 + 2)..]) == 67;
                    Assert.True(source == 0x0A000005 || (source == 0 && isDhcp), "IPv4 source");
                    Assert.True(destination >> 16 != 0x0A09, "denied destination");
                    break;
                case 0x86DD:
                    bool isOwn = BinaryPrimitives.ReadUInt64BigEndian(packet[8..]) == 0xFD00_0000_0000_0000 || (BinaryPrimitives.ReadUInt16BigEndian(packet[8..]) & 0xFFC0) == 0xFE80;
                    Assert.True(isOwn || BinaryPrimitives.ReadUInt128BigEndian(packet[8..]) == 0, "IPv6 source");
                    Assert.False(packet[6] == 58 && packet[40] is 134 or 137, "router advertisement");
                    break;
                default:
                    Assert.Fail("type");
                    break;
            }
            return true;
        }

        public int TryReceive(Span<byte> buffer, out FrameOffload offload)
        {
            offload = default;
            if (Count == 0)
            {
                return 0;
            }
            int length = _lengths[0];
            offload = _offloads[0];
            Assert.True(buffer.Length >= 65_562);
            _frames[0].AsSpan(0, length).CopyTo(buffer);
            Count--;
            for (int i = 0; i < Count; i++)
            {
                (_frames[i], _frames[i + 1]) = (_frames[i + 1], _frames[i]);
                (_lengths[i], _offloads[i]) = (_lengths[i + 1], _offloads[i + 1]);
            }
            return length;
        }

        public void Dispose()
        {
        }
    }

    /// <summary>SplitMix64: a case is repeated by its number alone.</summary>
    private struct Rng(ulong state)
    {
        public int Next(int below)
        {
            state += 0x9E3779B97F4A7C15;
            ulong z = state;
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
            return (int)((z ^ (z >> 31)) % (uint)below);
        }

        public void Fill(Span<byte> bytes)
        {
            foreach (ref byte one in bytes)
            {
                one = (byte)Next(256);
            }
        }
    }
}
