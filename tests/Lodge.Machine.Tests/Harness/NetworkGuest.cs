using System.Buffers.Binary;
using Lodge.Machine.Devices.Virtio.Network;
using Lodge.Machine.Virtio;
using Lodge.Machine.Virtio.Transport;
using Lodge.Network.Links;
using Lodge.Network.Packets;

namespace Lodge.Machine.Tests.Harness;

/// <summary>A guest with a network card: a driver that posts receive buffers, sends frames and gives control commands.</summary>
internal sealed class NetworkGuest : IDisposable
{
    public const ulong Csum = 1UL << 0, GuestCsum = 1UL << 1, GuestTso4 = 1UL << 7, HostTso4 = 1UL << 11, Mergeable = 1UL << 15,
        ControlQueue = 1UL << 17, ControlReceive = 1UL << 18, ControlVlan = 1UL << 19, MultiQueue = 1UL << 22;

    public const int HeaderLength = 12;

    private readonly Dictionary<uint, (ulong Address, int Length)>[] _posted;
    private readonly GuestRing[] _rings;
    private readonly ulong _sendBuffers;
    private readonly ulong _command;
    private int _sent;

    public NetworkGuest(
        ILink link, ulong features = ulong.MaxValue, Func<VirtioNetworkConfiguration, VirtioNetworkConfiguration>? change = null, ushort size = 64, bool start = true)
    {
        var configuration = new VirtioNetworkConfiguration(link, new MacAddress(0x5254_0000_0001));
        Machine = new VirtioMachine(memory => new VirtioNetwork(memory, change?.Invoke(configuration) ?? configuration), 32 << 20);
        Driver = new VirtioGuestDriver(Machine);
        _rings = new GuestRing[Machine.Device.Queues.Count];
        _posted = [.. _rings.Select(_ => new Dictionary<uint, (ulong, int)>())];
        _sendBuffers = Driver.Allocate(1 << 20);
        _command = Driver.Allocate(8192);
        if (start)
        {
            Machine.Function.Start();
            SetUp(features, size);
        }
    }

    public VirtioMachine Machine { get; }

    public VirtioGuestDriver Driver { get; }

    public VirtioNetwork Card => (VirtioNetwork)Machine.Device;

    public GuestRing Ring(int queue) => _rings[queue];

    public int ControlIndex => (Driver.Features & MultiQueue) != 0 ? _rings.Length - 1 : 2;

    public void SetUp(ulong features, ushort size = 64)
    {
        if (!Driver.Negotiate(features))
        {
            throw new InvalidOperationException("the device refuses the features");
        }
        Driver.EnableMsix();
        for (int i = 0; i < _rings.Length; i++)
        {
            _rings[i] = Driver.SetUpQueue(i, Math.Min(size, Machine.Device.Queues[i].MaximumSize), msix: true);
            _posted[i].Clear();
        }
        Driver.DriverOk();
    }

    /// <summary>Gives receive buffers.</summary>
    public void Post(int length, int count = 1, int queue = 0, bool notify = true)
    {
        for (int i = 0; i < count; i++)
        {
            ulong address = Driver.Allocate((ulong)length);
            ushort head = _rings[queue].Chain((address, (uint)length, true));
            _posted[queue][head] = (address, length);
            _rings[queue].Publish(head);
        }
        if (notify)
        {
            Driver.Notify(queue);
        }
    }

    /// <summary>The next received frame, put together from its buffers.</summary>
    public (byte[] Header, byte[] Frame, int Buffers) Receive(int queue = 0)
    {
        byte[] all = [];
        int buffers = 1;
        for (int i = 0; i < buffers; i++)
        {
            (uint head, uint length) = _rings[queue].TakeUsed();
            byte[] part = new byte[length];
            Machine.Memory.TryRead(_posted[queue][head].Address, part);
            _posted[queue].Remove(head);
            all = [.. all, .. part];
            buffers = i == 0 ? BinaryPrimitives.ReadUInt16LittleEndian(all.AsSpan(10)) : buffers;
        }
        return (all[..HeaderLength], all[HeaderLength..], buffers);
    }

    /// <summary>Puts a frame into the transmit queue of a pair.</summary>
    public void Send(byte[] frame, byte[]? header = null, int pair = 0, int pieces = 1, bool notify = true)
    {
        byte[] all = [.. header ?? new byte[HeaderLength], .. frame];
        ulong at = _sendBuffers + (ulong)(_sent++ % 12 * 0x1_4000);
        Machine.Memory.TryWrite(at, all);
        var buffers = new (ulong, uint, bool)[pieces];
        int step = all.Length / pieces;
        for (int i = 0; i < pieces; i++)
        {
            int length = i == pieces - 1 ? all.Length - (step * i) : step;
            buffers[i] = (at + (ulong)(step * i), (uint)length, false);
        }
        GuestRing ring = _rings[(2 * pair) + 1];
        ring.Publish(ring.Chain(buffers));
        if (notify)
        {
            Driver.Notify((2 * pair) + 1);
        }
    }

    /// <summary>Gives a control command and returns its answer.</summary>
    public byte Control(byte @class, byte command, params byte[] data)
    {
        Machine.Memory.TryWrite(_command, [@class, command, .. data]);
        Machine.Memory.TryWrite(_command + 4096, (byte)0xEE);
        GuestRing ring = _rings[ControlIndex];
        ring.Add((_command, 2, false), (_command + 2, (uint)data.Length, false), (_command + 4096, 1, true));
        ring.TakeUsed();
        return Machine.Memory.TryRead(_command + 4096, out byte answer) ? answer : (byte)0xFF;
    }

    public ushort Status => BinaryPrimitives.ReadUInt16LittleEndian(Driver.DeviceConfig(6, 2));

    public void Dispose() => Machine.Dispose();

    /// <summary>An Ethernet frame with a pattern.</summary>
    public static byte[] Frame(int length, ulong to = 0x5254_0000_0001, ulong from = 0x5254_0000_0002, int seed = 0, ushort type = 0x88B5)
    {
        byte[] frame = new byte[length];
        new Random(seed).NextBytes(frame);
        new MacAddress(to).Write(frame);
        new MacAddress(from).Write(frame.AsSpan(6));
        BinaryPrimitives.WriteUInt16BigEndian(frame.AsSpan(12), type);
        return frame;
    }

    /// <summary>A packet header.</summary>
    public static byte[] Header(byte flags, byte type = 0, ushort headerLength = 0, ushort size = 0, ushort start = 0, ushort offset = 0)
    {
        byte[] header = new byte[HeaderLength];
        header[0] = flags;
        header[1] = type;
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(2), headerLength);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(4), size);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(6), start);
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(8), offset);
        return header;
    }
}

/// <summary>The other end of a cable, as a test uses it.</summary>
internal static class MemoryLinkPeer
{
    /// <summary>The next frame that arrives within the time after which a hang is certain.</summary>
    public static (byte[] Frame, FrameOffload Offload) Take(this MemoryLink link)
    {
        byte[] buffer = new byte[65_562];
        FrameOffload offload = default;
        int length = 0;
        Wait.Until(() => (length = link.TryReceive(buffer, out offload)) != 0, "a frame");
        return (buffer[..length], offload);
    }

    public static void Give(this MemoryLink link, byte[] frame, FrameOffload offload = default) =>
        Wait.Until(() => link.TrySend(frame, offload), "room in the link");
}
