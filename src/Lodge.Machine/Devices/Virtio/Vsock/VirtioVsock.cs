using System.Buffers.Binary;
using System.Collections.Concurrent;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Machine.Virtio;
using Lodge.Network.Vsock;

namespace Lodge.Machine.Devices.Virtio.Vsock;

/// <summary>
/// Socket device (virtio 1.2, 5.10): streams between programs of the guest (AF_VSOCK) and of the host. What the guest sends goes into bounded buffers that its credit stands
/// for; what the host sends waits in its socket until the guest has a buffer and credit for it.
/// </summary>
public sealed class VirtioVsock : VirtioDevice
{
    /// <summary>Bit VIRTIO_VSOCK_F_STREAM.</summary>
    internal const ulong FeatureStream = 1 << 0;

    internal const int ReceiveQueue = 0;
    internal const int TransmitQueue = 1;
    internal const int EventQueue = 2;
    private const ushort QueueSize = 128;
    private const int EventQueueSize = 16;
    private const int PacketsPerTurn = 64;
    private const int LargestData = 64 << 10;
    private const uint EventTransportReset = 0;     // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET
    private const uint FirstHostPort = 1 << 30;     // above the ports that programs listen on
    private const int MaximumResets = 64;

    private readonly IVsockHost _host;
    private readonly int _maximumStreams;
    private readonly Dictionary<ulong, VsockConnection> _connections = [];
    private readonly Queue<VsockConnection> _ready = new();     // have something for the guest; each at most once
    private readonly ConcurrentQueue<VsockConnection> _signalled = new();
    private readonly Queue<(uint HostPort, uint GuestPort)> _resets = new();    // for packets of no connection
    private readonly byte[] _staging = new byte[4096];
    private uint _nextPort = FirstHostPort;
    private bool _announceReset;
    private bool _transmitWaits;

    /// <summary>Creates the device.</summary>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="configuration">Its set-up.</param>
    public VirtioVsock(GuestMemory memory, VirtioVsockConfiguration configuration)
        : base(VirtioDeviceType.Socket, memory, [QueueSize, QueueSize, EventQueueSize])
    {
        if (configuration.GuestCid is < VirtioVsockConfiguration.LowestGuest or uint.MaxValue)
        {
            throw new ArgumentException($"guest CID {configuration.GuestCid} is not possible; give 3 to 4294967294", nameof(configuration));
        }
        GuestCid = configuration.GuestCid;
        _maximumStreams = Math.Clamp(configuration.MaximumStreams, 1, 4096);
        _host = configuration.Host;
        _host.Connect(Signal);
    }

    /// <summary>The guest's context identifier.</summary>
    public uint GuestCid { get; private set; }

    /// <summary>Streams at present. For tests; exact while the device is stopped.</summary>
    internal int Streams => _connections.Count;

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => FeatureStream;

    /// <inheritdoc/>
    protected internal override int ConfigurationLength => 8;

    /// <inheritdoc/>
    protected override void ReadConfiguration(Span<byte> destination) => BinaryPrimitives.WriteUInt64LittleEndian(destination, GuestCid);

    /// <inheritdoc/>
    protected override bool ServesOnKick(VirtQueue queue)
    {
        if (queue.Index != TransmitQueue)
        {
            return false;
        }
        _transmitWaits = _resets.Count >= MaximumResets;    // replies first: they are not buffered without bound
        return !_transmitWaits;
    }

    /// <inheritdoc/>
    protected override bool Serve(VirtQueue queue, DescriptorChain chain)
    {
        Span<byte> header = stackalloc byte[VsockPacket.Length];
        if (chain.Read(header) != header.Length || chain.WritableLength != 0)
        {
            Reject(queue, chain);
            return false;
        }
        VsockPacket packet = VsockPacket.Read(header);
        if (packet.DataLength > chain.Unread)
        {
            Reject(queue, chain);
            return false;
        }
        Receive(packet, chain);
        queue.Complete(chain);
        _transmitWaits = _resets.Count >= MaximumResets;
        return !_transmitWaits;
    }

    /// <inheritdoc/>
    protected override void OnSignal()
    {
        for (int i = 0; i < PacketsPerTurn && _signalled.TryDequeue(out VsockConnection? connection); i++)
        {
            connection.TakeSignal();
            StreamChanged(connection);
        }
        AcceptSome();
        AnnounceReset();
        Deliver();
        if (!_signalled.IsEmpty)
        {
            Signal();
        }
        if (_transmitWaits && _resets.Count < MaximumResets)
        {
            _transmitWaits = false;
            Kick(TransmitQueue);
        }
    }

    /// <inheritdoc/>
    protected override void OnActivated() => Signal();

    /// <inheritdoc/>
    protected override void OnReset() => DropAll();

    /// <inheritdoc/>
    protected override void SaveDevice(StateWriter writer) => writer.Nested(1, new VirtioVsockState(GuestCid));

    /// <inheritdoc/>
    protected override void RestoreDevice(StateReader reader)
    {
        GuestCid = reader.Nested(1, new VirtioVsockState(GuestCid)).GuestCid;
        DropAll();
        _announceReset = true;
        Signal();
    }

    private static ulong Key(uint hostPort, uint guestPort) => ((ulong)hostPort << 32) | guestPort;

    /// <summary>A packet of the guest; its data is still unread in the chain.</summary>
    private void Receive(in VsockPacket packet, DescriptorChain chain)
    {
        if (packet.SourceCid != GuestCid)
        {
            return;     // a forged sender gets no answer
        }
        bool known = _connections.TryGetValue(Key(packet.DestinationPort, packet.SourcePort), out VsockConnection? connection);
        if (packet.DestinationCid != VsockPacket.HostCid || packet.Type != VsockPacket.TypeStream || (!known && packet.Operation != VsockOperation.Request))
        {
            if (packet.Operation != VsockOperation.Reset)
            {
                _resets.Enqueue((packet.DestinationPort, packet.SourcePort));
                Signal();
            }
            return;
        }
        if (known)
        {
            connection!.PeerBuffer = packet.BufferSize;
            connection.PeerForwarded = packet.Forwarded;
        }
        switch (packet.Operation)
        {
            case VsockOperation.Request when !known:
                OpenStream(packet);
                return;
            case VsockOperation.Response when !connection!.Open && (connection.Pending & VsockPending.Request) == 0:
                connection.Open = true;
                connection.Stream.Established(connection.HostPort);
                break;
            case VsockOperation.Reset:
                Drop(connection!);
                return;
            case VsockOperation.Shutdown:
                ShutDown(connection!, packet.Flags);
                break;
            case VsockOperation.Data when connection!.Open && !connection.GuestSendEnded:
                TakeData(connection, packet.DataLength, chain);
                break;
            case VsockOperation.CreditUpdate:
                break;
            case VsockOperation.CreditRequest:
                connection!.Pending |= VsockPending.Credit;
                break;
            default:
                connection!.Pending = VsockPending.Reset;       // what does not fit the state ends the stream
                break;
        }
        List(connection!);
    }

    private void OpenStream(in VsockPacket packet)
    {
        IVsockStream? stream = _connections.Count < _maximumStreams ? _host.Open(packet.DestinationPort) : null;
        if (stream is null)
        {
            _resets.Enqueue((packet.DestinationPort, packet.SourcePort));
            Signal();
            return;
        }
        var connection = new VsockConnection(packet.DestinationPort, packet.SourcePort, stream)
        {
            Open = true,
            Pending = VsockPending.Response,
            PeerBuffer = packet.BufferSize,
            PeerForwarded = packet.Forwarded,
        };
        Add(connection);
    }

    private void AcceptSome()
    {
        while (_connections.Count < _maximumStreams && _host.Accept(out uint guestPort) is { } stream)
        {
            do
            {
                _nextPort = _nextPort == uint.MaxValue ? FirstHostPort : _nextPort + 1;
            }
            while (_connections.ContainsKey(Key(_nextPort, guestPort)));
            Add(new VsockConnection(_nextPort, guestPort, stream) { Pending = VsockPending.Request });
        }
    }

    private void Add(VsockConnection connection)
    {
        _connections.Add(Key(connection.HostPort, connection.GuestPort), connection);
        connection.Stream.Connect(() =>
        {
            if (connection.Signal())
            {
                _signalled.Enqueue(connection);
                Signal();
            }
        });
        List(connection);
    }

    private void TakeData(VsockConnection connection, uint length, DescriptorChain chain)
    {
        for (uint left = length; left != 0;)
        {
            Span<byte> step = _staging.AsSpan(0, (int)Math.Min(left, (uint)_staging.Length));
            int count = chain.Read(step);
            if (count == 0 || !connection.Stream.Write(step[..count]))
            {
                connection.Pending = VsockPending.Reset;        // more than the credit
                return;
            }
            left -= (uint)count;
        }
    }

    private void ShutDown(VsockConnection connection, uint flags)
    {
        if ((flags & VsockPacket.ShutdownReceive) != 0)
        {
            connection.GuestReceiveEnded = true;
        }
        if ((flags & VsockPacket.ShutdownSend) != 0 && !connection.GuestSendEnded)
        {
            connection.GuestSendEnded = true;
            connection.Stream.EndOutput();
        }
        EndIfOver(connection);
    }

    /// <summary>A stream whose both directions have ended, with the host's part delivered, is answered with a reset (5.10.6.5).</summary>
    private static void EndIfOver(VsockConnection connection)
    {
        bool hostDone = connection.GuestReceiveEnded || connection.ShutdownSent;
        if (connection.GuestSendEnded && hostDone && connection.Stream.OutputEmpty)
        {
            connection.Pending = VsockPending.Reset;
        }
    }

    /// <summary>The host's end has data, room, or has ended.</summary>
    private void StreamChanged(VsockConnection connection)
    {
        if (connection.Dropped)
        {
            return;
        }
        if (connection.Stream.OutputFailed)
        {
            connection.Pending = VsockPending.Reset;
        }
        if (!connection.Open && connection.Stream.InputEnded)
        {
            connection.Pending = VsockPending.Reset;        // asked for and given up
        }
        if (connection.Stream.OutputDrained - connection.ToldForwarded >= connection.Stream.OutputCapacity / 2)
        {
            connection.Pending |= VsockPending.Credit;
        }
        EndIfOver(connection);
        List(connection);
    }

    /// <summary>Has the connection delivered what it has for the guest.</summary>
    private void List(VsockConnection connection)
    {
        if (connection.Open && connection.Stream.InputEnded && connection.Stream.Input.IsEmpty && !connection.ShutdownSent)
        {
            connection.Pending |= VsockPending.Shutdown;
        }
        if (!connection.Listed && connection.HasPacket)
        {
            connection.Listed = true;
            _ready.Enqueue(connection);
            Signal();
        }
    }

    /// <summary>Gives the guest packets while it has buffers, a packet of each connection in turn.</summary>
    private void Deliver()
    {
        VirtQueue queue = Queues[ReceiveQueue];
        int packets = 0;
        queue.SuppressNotifications();
        while (_resets.Count != 0 || AnyReady())
        {
            if (packets == PacketsPerTurn)
            {
                Signal();
                break;
            }
            DescriptorChain? chain = queue.TryPop();
            if (chain is null)
            {
                if (queue.ResumeNotifications())
                {
                    queue.SuppressNotifications();
                    continue;
                }
                break;
            }
            if (chain.WritableLength < VsockPacket.Length)
            {
                Reject(queue, chain);
                break;
            }
            packets++;
            if (_resets.TryDequeue(out (uint HostPort, uint GuestPort) refused))
            {
                Put(chain, new VsockPacket { SourcePort = refused.HostPort, DestinationPort = refused.GuestPort, Operation = VsockOperation.Reset }, default);
            }
            else
            {
                DeliverOne(_ready.Dequeue(), chain);
            }
            queue.Complete(chain);
        }
        Notify(queue);
    }

    /// <summary>Whether a connection has something; those that no longer have are taken off the list.</summary>
    private bool AnyReady()
    {
        while (_ready.TryPeek(out VsockConnection? first) && !first.HasPacket)
        {
            _ready.Dequeue().Listed = false;
        }
        return _ready.Count != 0;
    }

    private void DeliverOne(VsockConnection connection, DescriptorChain chain)
    {
        connection.Listed = false;
        VsockOperation operation;
        uint flags = 0;
        ReadOnlySpan<byte> data = default;
        switch (connection.Pending)
        {
            case var pending when (pending & VsockPending.Reset) != 0:
                operation = VsockOperation.Reset;
                break;
            case var pending when (pending & VsockPending.Request) != 0:
                operation = VsockOperation.Request;
                connection.Pending &= ~VsockPending.Request;
                break;
            case var pending when (pending & VsockPending.Response) != 0:
                operation = VsockOperation.Response;
                connection.Pending &= ~VsockPending.Response;
                break;
            case var pending when connection.HasData:
                operation = VsockOperation.Data;            // tells the credit, too
                data = connection.Stream.Input;
                uint room = Math.Min(Math.Min(connection.Credit, LargestData), chain.WritableLength - VsockPacket.Length);
                data = data[..(int)Math.Min(room, (uint)data.Length)];
                break;
            case var pending when (pending & VsockPending.Credit) != 0:
                operation = VsockOperation.CreditUpdate;
                break;
            default:
                operation = VsockOperation.Shutdown;
                flags = VsockPacket.ShutdownSend;
                connection.Pending &= ~VsockPending.Shutdown;
                connection.ShutdownSent = true;
                break;
        }
        connection.Pending &= ~VsockPending.Credit;         // every packet tells it
        connection.ToldForwarded = connection.Stream.OutputDrained;
        Put(chain, new VsockPacket
        {
            SourcePort = connection.HostPort,
            DestinationPort = connection.GuestPort,
            Operation = operation,
            Flags = flags,
            DataLength = (uint)data.Length,
            BufferSize = (uint)connection.Stream.OutputCapacity,
            Forwarded = connection.ToldForwarded,
        }, data);
        if (operation == VsockOperation.Reset)
        {
            Drop(connection);
            return;
        }
        if (!data.IsEmpty)
        {
            connection.Sent += (uint)data.Length;
            connection.Stream.Consume(data.Length);
        }
        EndIfOver(connection);
        List(connection);
    }

    private void Put(DescriptorChain chain, VsockPacket packet, ReadOnlySpan<byte> data)
    {
        Span<byte> header = stackalloc byte[VsockPacket.Length];
        packet.SourceCid = VsockPacket.HostCid;
        packet.DestinationCid = GuestCid;
        packet.Type = VsockPacket.TypeStream;
        packet.Write(header);
        chain.Write(header);
        chain.Write(data);
    }

    /// <summary>Tells the guest, which was restored, that its streams are gone (5.10.6.7).</summary>
    private void AnnounceReset()
    {
        VirtQueue queue = Queues[EventQueue];
        if (!_announceReset || queue.TryPop() is not { } chain)
        {
            return;
        }
        _announceReset = false;
        Span<byte> announcement = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(announcement, EventTransportReset);
        chain.Write(announcement);
        queue.Complete(chain);
        Notify(queue);
    }

    private void Drop(VsockConnection connection)
    {
        _connections.Remove(Key(connection.HostPort, connection.GuestPort));
        connection.Dropped = true;
        connection.Stream.Dispose();
    }

    private void DropAll()
    {
        foreach (VsockConnection connection in _connections.Values)
        {
            connection.Dropped = true;
            connection.Stream.Dispose();
        }
        _connections.Clear();
        _ready.Clear();
        _resets.Clear();
        _signalled.Clear();
        _transmitWaits = false;
        _announceReset = false;
    }
}
