using System.Buffers.Binary;
using System.Globalization;
using Lodge.Engine.State;
using Lodge.Machine.Devices.Virtio.Network;
using Lodge.Machine.Tests.Harness;
using Lodge.Machine.Pci;
using Lodge.Machine.Virtio;
using Lodge.Machine.Virtio.Transport;
using Lodge.Network.Links;
using Lodge.Network.Packets;
using Xunit;

namespace Lodge.Machine.Tests;

/// <summary>
/// Random and malicious chains, packet headers, control commands and frames of the link, with resets, saves and a link that refuses in between. What reaches the link is always
/// within bounds, every chain comes back or its queue is latched, and nothing grows. A case is a chain, beside some of the link's frames; LODGE_FUZZ_CASES says how many.
/// </summary>
public sealed class VirtioNetworkFuzzTests
{
    private const int CasesPerSession = 10_000;
    private const ulong Buffers = 0x40_0000, BuffersLength = 0x40_0000;

    [Fact]
    public void NothingThatAGuestOrANetworkDoesHarms()
    {
        long cases = long.TryParse(Environment.GetEnvironmentVariable("LODGE_FUZZ_CASES"), CultureInfo.InvariantCulture, out long value) ? value : 30_000;
        int seed = value == 0 ? 1 : Environment.TickCount;
        long before = GC.GetTotalMemory(forceFullCollection: true);
        for (long done = 0; done < cases; seed++)
        {
            using var session = new Session(seed);
            try
            {
                done += session.Run((int)Math.Min(CasesPerSession, cases - done));
            }
            catch (TimeoutException e)
            {
                Assert.Fail($"seed {seed}: {e}");
            }
        }
        long growth = 0;
        for (int i = 0; i < 120 && (growth = GC.GetTotalMemory(forceFullCollection: true) - before) >= 64 << 20; i++)
        {
            Thread.Sleep(500); // tests beside this one have memory too, for a while
        }
        Assert.True(growth < 64 << 20, $"{growth} bytes more");
    }

    private sealed class Session : IDisposable
    {
        private readonly int _seed;
        private readonly Random _random;
        private readonly FickleLink _link;
        private readonly VirtioMachine _machine;
        private readonly VirtioGuestDriver _driver;
        private readonly ulong _rings;
        private readonly GuestRing[] _ring;
        private byte[]? _saved;
        private int _cases;

        public Session(int seed)
        {
            _seed = seed;
            _random = new Random(seed);
            _link = new FickleLink(seed);
            int pairs = _random.Next(1, 4);
            _machine = new VirtioMachine(
                memory => new VirtioNetwork(memory, new(_link, new MacAddress(0x5254_0000_0001)) { QueuePairs = pairs, QueueSize = 64, HoldMilliseconds = 1 }), 8 << 20);
            _link.Card = Card;
            _driver = new VirtioGuestDriver(_machine);
            _ring = new GuestRing[_machine.Device.Queues.Count];
            _rings = _driver.Allocate((ulong)_ring.Length * 0x1000);
        }

        private VirtioNetwork Card => (VirtioNetwork)_machine.Device;

        public int Run(int cases)
        {
            _machine.Function.Start();
            SetUp();
            while (_cases < cases)
            {
                switch (_random.Next(40))
                {
                    case 0:
                        SetUp();
                        break;
                    case 1:
                        Card.SetLinkUp(_random.Next(4) != 0);
                        Card.Announce();
                        break;
                    case 2:
                        Pause();
                        break;
                    case 3:
                        _driver.Set(CommonRegister.QueueSelect, 2, (uint)_random.Next(_ring.Length));
                        _driver.Set(CommonRegister.QueueReset, 2, 1);
                        break;
                    case 4:
                        // While the device works, the guest writes where its buffers and rings are.
                        Scribble();
                        break;
                    case < 8:
                        Controls();
                        break;
                    case < 20:
                        PostReceive();
                        break;
                    default:
                        Transmit();
                        break;
                }
                if (_random.Next(4) == 0)
                {
                    Settle();
                }
            }
            var stop = new Thread(_machine.Function.Stop);
            stop.Start();
            Assert.True(stop.Join(30_000), $"seed {_seed} does not stop");
            Assert.Null(_link.Complaint);
            return _cases;
        }

        public void Dispose()
        {
            _machine.Dispose();
            _link.Dispose();
        }

        private void SetUp()
        {
            // A damaged state that was restored may have moved the BAR.
            _machine.Config(PciRegisters.Command, 6, width: 2);
            _machine.Config(0x20, (uint)_driver.Bar);
            _machine.Config(0x24, (uint)(_driver.Bar >> 32));
            ulong features = ulong.MaxValue;
            if (_random.Next(2) == 0)
            {
                features = VirtioFeatures.Version1 | (Card.OfferedFeatures & (ulong)_random.NextInt64() & (ulong)_random.NextInt64(long.MinValue, long.MaxValue));
            }
            if (!_driver.Negotiate(features))
            {
                Assert.True(_driver.Negotiate(ulong.MaxValue), $"seed {_seed}");
            }
            for (int i = 0; i < _ring.Length; i++)
            {
                ulong at = _rings + ((ulong)i * 0x1000);
                ushort size = (ushort)(8 << _random.Next(4));
                _machine.Memory.TryWrite(at, new byte[0x1000]);
                _ring[i] = new GuestRing(_machine, _driver, i, size, at, at + 0x400, at + 0x800);
                _driver.Set(CommonRegister.QueueSelect, 2, (uint)i);
                _driver.Set(CommonRegister.QueueSize, 2, size);
                _driver.Set64(CommonRegister.QueueDescLow, at);
                _driver.Set64(CommonRegister.QueueDriverLow, at + 0x400);
                _driver.Set64(CommonRegister.QueueDeviceLow, at + 0x800);
                _driver.Set(CommonRegister.QueueEnable, 2, 1);
            }
            _driver.DriverOk();
        }

        private void Pause()
        {
            _machine.Function.Stop();
            if (_saved is not null && _random.Next(2) == 0)
            {
                if (_random.Next(2) == 0)
                {
                    _saved[_random.Next(_saved.Length)] ^= (byte)(1 << _random.Next(8));
                }
                try
                {
                    _machine.Restore(_saved);
                }
                catch (SavedStateException)
                {
                    _saved = null;
                }
            }
            else
            {
                _saved = _machine.Save();
            }
            _machine.Function.Start();
        }

        private void Scribble()
        {
            byte[] noise = new byte[_random.Next(1, 64)];
            for (int i = 0; i < 200; i++)
            {
                _random.NextBytes(noise);
                _machine.Memory.TryWrite(Buffers + (ulong)_random.NextInt64((long)BuffersLength - 64), noise);
                if (_random.Next(20) == 0)
                {
                    _machine.Memory.TryWrite(_rings + (ulong)_random.Next((_ring.Length * 0x1000) - 64), noise);
                }
            }
        }

        /// <summary>The queues that the device serves at once come to rest, unless one is latched; then the driver starts anew.</summary>
        private void Settle()
        {
            long end = Environment.TickCount64 + 30_000;
            while ((_driver.Status & (VirtioStatus.DeviceNeedsReset | VirtioStatus.DriverOk)) == VirtioStatus.DriverOk)
            {
                int control = ControlIndex;
                if (Rests(1) && (control < 0 || Rests(control)))
                {
                    return;
                }
                Assert.True(Environment.TickCount64 < end, $"seed {_seed}: a queue hangs");
                _driver.Notify(1);
                _driver.Notify(Math.Max(control, 0));
                Thread.Yield();
            }
            SetUp();
        }

        /// <summary>As the card sees it: a restored state may be of another driver.</summary>
        private int ControlIndex => (Card.DriverFeatures & NetworkGuest.ControlQueue) == 0 ? -1
            : (Card.DriverFeatures & NetworkGuest.MultiQueue) != 0 ? _ring.Length - 1 : 2;

        private bool Rests(int queue)
        {
            VirtQueue actual = _machine.Device.Queues[queue];
            return !actual.Enabled || actual.Latched || (actual.InFlight == 0 && !actual.HasAvailable);
        }

        private ulong Place(int length) => Buffers + (ulong)_random.NextInt64((long)BuffersLength - length);

        private int Length() => _random.Next(8) switch
        {
            0 => _random.Next(14),
            1 => _random.Next(65_000, 66_000),
            2 => _random.Next(30_000),
            _ => _random.Next(12, 1600),
        };

        private void Transmit()
        {
            int queue = (_random.Next(Card.Queues.Count / 2) * 2) + 1;
            Span<byte> head = stackalloc byte[64];
            for (int i = _random.Next(1, 4); i > 0; i--)
            {
                int length = Length();
                ulong at = Place(length + 64);
                _random.NextBytes(head);
                head[0] = (byte)(_random.Next(8) == 0 ? _random.Next(256) : _random.Next(2));
                head[1] = (byte)(_random.Next(3) != 0 ? 0 : _random.Next(8) == 0 ? _random.Next(256) : new[] { 1, 4, 5, 0x81, 0x84 }[_random.Next(5)]);
                BinaryPrimitives.WriteUInt16LittleEndian(head[4..], (ushort)(_random.Next(8) == 0 ? 0 : _random.Next(1, 1500)));
                BinaryPrimitives.WriteUInt16LittleEndian(head[6..], (ushort)(_random.Next(4) == 0 ? _random.Next(65536) : _random.Next(30, 60)));
                BinaryPrimitives.WriteUInt16LittleEndian(head[8..], (ushort)(_random.Next(4) == 0 ? _random.Next(65536) : _random.Next(2) == 0 ? 6 : 16));
                head[24] = (byte)(_random.Next(2) == 0 ? 8 : 0x81);
                head[25] = 0;
                _machine.Memory.TryWrite(at, head);
                Publish(queue, at, length, writable: false);
            }
        }

        private void PostReceive()
        {
            int queue = _random.Next(Card.Queues.Count / 2) * 2;
            for (int i = _random.Next(1, 8); i > 0; i--)
            {
                int length = _random.Next(16) == 0 ? _random.Next(20) : Length();
                Publish(queue, Place(length), length, writable: true);
            }
        }

        private void Controls()
        {
            int queue = Math.Max(ControlIndex, 2);
            byte[] data = new byte[_random.Next(40)];
            for (int i = _random.Next(1, 4); i > 0; i--)
            {
                ulong at = Place(4096);
                _random.NextBytes(data);
                if (data.Length > 3 && _random.Next(2) == 0)
                {
                    BinaryPrimitives.WriteInt32LittleEndian(data, _random.Next(6));
                }
                _machine.Memory.TryWrite(at, [(byte)_random.Next(7), (byte)_random.Next(3), .. data]);
                GuestRing ring = _ring[queue];
                ushort head = ring.Chain((at, 2, false), (at + 2, (uint)data.Length, false), (at + 4000, (uint)(_random.Next(40) == 0 ? 0 : 1), true));
                ring.Publish(head);
                _driver.Notify(queue);
                _cases++;
            }
        }

        /// <summary>A chain over some descriptors, now and then with something wrong in it.</summary>
        private void Publish(int queue, ulong at, int length, bool writable)
        {
            GuestRing ring = _ring[queue];
            // A driver keeps to the size of its ring; one that does not is met by other cases.
            if (_random.Next(200) != 0 && _machine.Device.Queues[queue].Enabled && (ushort)(ring.AvailableIndex - ring.UsedIndex) > ring.Size - 4)
            {
                _driver.Notify(queue);
                _cases++;
                return;
            }
            int pieces = Math.Min(_random.Next(1, 4), Math.Max(1, length));
            var buffers = new (ulong, uint, bool)[pieces];
            int done = 0;
            for (int i = 0; i < pieces; i++)
            {
                int part = i == pieces - 1 ? length - done : _random.Next(length - done + 1);
                buffers[i] = (at + (ulong)done, (uint)part, _random.Next(500) == 0 ? !writable : writable);
                done += part;
            }
            switch (_random.Next(600))
            {
                case 0:
                    buffers[0].Item1 = (ulong)_random.NextInt64(long.MinValue, long.MaxValue);
                    break;
                case 1:
                    buffers[0].Item2 = uint.MaxValue - (uint)_random.Next(3);
                    break;
                case 2:
                    ring.Descriptor(_random.Next(ring.Size), at, 10, (ushort)_random.Next(8), (ushort)_random.Next(ring.Size + 2));
                    break;
                case 3:
                    ring.SetAvailableIndex((ushort)_random.Next(65536));
                    break;
            }
            ring.Publish(ring.Chain(buffers));
            if (_random.Next(3) != 0)
            {
                _driver.Notify(queue);
            }
            _cases++;
        }
    }

    /// <summary>A network that gives what it likes, takes what it likes, and checks what it gets.</summary>
    private sealed class FickleLink(int seed) : ILink
    {
        private readonly Random _random = new(seed);
        private readonly byte[] _noise = Noise(seed);
        private OffloadFeatures _accepted;
        private Action? _wake;
        private volatile bool _up = true;

        public VirtioNetwork Card { get; set; } = null!;

        public string? Complaint { get; private set; }

        public OffloadFeatures SendOffloads =>
            OffloadFeatures.Checksum | OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn | OffloadFeatures.UdpSegmentation;

        public int MaximumFrame => 1514;

        public bool IsUp => _up;

        public void AcceptOffloads(OffloadFeatures accepted) => _accepted = accepted;

        public void Connect(Action wake) => _wake = wake;

        public bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
        {
            ulong features = Card.DriverFeatures;
            int longest = offload.Segmentation == FrameSegmentation.None ? 1518 : 65_550;
            if (frame.Length < 14 || frame.Length > longest
                || (offload.NeedsChecksum && (offload.ChecksumStart < 34 || offload.ChecksumStart + offload.ChecksumOffset + 2 > frame.Length))
                || (offload.Segmentation != FrameSegmentation.None && (offload.SegmentSize == 0 || !offload.NeedsChecksum))
                || offload.HeaderLength > frame.Length
                || (offload.NeedsChecksum && (features & NetworkGuest.Csum) == 0))
            {
                Complaint ??= $"seed {seed}: {frame.Length} bytes, {offload}";
            }
            if (_random.Next(6) == 0)
            {
                _up = _random.Next(16) != 0;
                ThreadPool.UnsafeQueueUserWorkItem(static wake => wake?.Invoke(), _wake, preferLocal: false);
                return false;
            }
            return true;
        }

        public int TryReceive(Span<byte> buffer, out FrameOffload offload)
        {
            offload = default;
            if (buffer.Length < 65_562)
            {
                Complaint ??= $"seed {seed}: a buffer of {buffer.Length} bytes";
            }
            if (_random.Next(4) == 0)
            {
                return 0;
            }
            int length = _random.Next(10) switch
            {
                0 => _random.Next(1, 20),
                1 => _random.Next(60_000, 65_563),
                _ => _random.Next(14, 3000),
            };
            _noise.AsSpan(_random.Next(1000), Math.Min(length, 2000)).CopyTo(buffer);
            if (_random.Next(3) == 0)
            {
                offload = new FrameOffload
                {
                    NeedsChecksum = _random.Next(8) != 0,
                    ChecksumValid = _random.Next(2) == 0,
                    ChecksumStart = (ushort)_random.Next(30, _random.Next(2) == 0 ? 60 : 65536),
                    ChecksumOffset = (ushort)_random.Next(_random.Next(2) == 0 ? 20 : 65536),
                    Segmentation = (FrameSegmentation)_random.Next(5),
                    SegmentSize = (ushort)_random.Next(1500),
                    Ecn = _random.Next(4) == 0,
                };
            }
            return length;
        }

        public void Dispose() => _wake = null;

        private static byte[] Noise(int seed)
        {
            byte[] bytes = new byte[4096];
            new Random(seed).NextBytes(bytes);
            return bytes;
        }
    }
}
