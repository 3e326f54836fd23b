using System.Buffers.Binary;
using System.Numerics;
using Lodge.Engine.Memory;
using Lodge.Engine.State;
using Lodge.Machine.Virtio;
using Lodge.Network.Links;
using Lodge.Network.Packets;

namespace Lodge.Machine.Devices.Virtio.Network;

/// <summary>
/// Network card (virtio 1.2, 5.1). It stands between the guest's queues and an <see cref="ILink"/>: frames to be sent are copied before they are looked at, frames
/// to be received are taken from the link only when the guest has buffers. At most one frame in each direction is held: one that the link refused, and one that
/// needs more buffers than the guest has given.
/// <para>
/// Queues: receive 0, transmit 1, and so on for each pair, then the control queue; without VIRTIO_NET_F_MQ the control queue is number 2 (5.1.2).
/// </para>
/// </summary>
public sealed partial class VirtioNetwork : VirtioDevice
{
    private readonly VirtioNetworkConfiguration _configuration;
    private readonly ILink _link;
    private readonly ulong _deviceFeatures;
    private readonly int _maximumPairs;
    private readonly ReceiveFilter _filter = new();
    private readonly FlowTable _flows = new();
    private ulong _guestOffloads;           // VIRTIO_NET_F_GUEST_* in force
    private OffloadFeatures _accepted;      // the same for the link
    private int _pairs = 1;                 // in use
    private bool _announce;                 // guarded by Gate
    private volatile bool _plugged;         // guarded by Gate for changes
    private volatile bool _carrier;         // the same

    /// <summary>Creates the device and connects it to its link.</summary>
    /// <param name="memory">Guest RAM.</param>
    /// <param name="configuration">Its set-up.</param>
    /// <exception cref="ArgumentException">The address is not that of a station, or a number is out of range.</exception>
    public VirtioNetwork(GuestMemory memory, VirtioNetworkConfiguration configuration)
        : base(VirtioDeviceType.Network, memory, QueueSizes(configuration))
    {
        if (configuration.Mac.IsMulticast || configuration.Mac.Value is 0 or > 0xFFFF_FFFF_FFFF)
        {
            throw new ArgumentException($"{configuration.Mac} is not the address of a station", nameof(configuration));
        }
        _configuration = configuration;
        _link = configuration.Link;
        _maximumPairs = configuration.QueuePairs;
        _chains = new DescriptorChain[configuration.QueueSize];
        _deviceFeatures = Offer(_link.SendOffloads);
        _plugged = configuration.LinkUp;
        _carrier = _link.IsUp;
        _patience = new Timer(static card => ((VirtioNetwork)card!).Signal(), this, Timeout.Infinite, Timeout.Infinite);
        _filter.Reset(configuration.Mac);
        _link.Connect(Signal);
    }

    /// <summary>What it has passed on.</summary>
    public VirtioNetworkCounters Counters { get; } = new();

    /// <summary>Its address: that of the configuration, or the one that the driver has set since.</summary>
    public MacAddress Mac
    {
        get
        {
            lock (Gate)
            {
                return _filter.Mac;
            }
        }
    }

    /// <summary>Whether the driver sees the link up: the cable is plugged in and the other end is there.</summary>
    public bool LinkUp => _plugged && _carrier;

    /// <inheritdoc/>
    protected override ulong DeviceFeatures => _deviceFeatures;

    /// <inheritdoc/>
    protected internal override int ConfigurationLength => VirtioNetworkRegisters.ConfigurationLength;

    /// <summary>Plugs the cable in or unplugs it; while it is unplugged frames of both directions are dropped. Any thread.</summary>
    public void SetLinkUp(bool up)
    {
        lock (Gate)
        {
            if (_plugged == up)
            {
                return;
            }
            _plugged = up;
        }
        ConfigurationChanged();
        Signal();
    }

    /// <summary>
    /// Has the driver tell the network where its addresses are (gratuitous ARP and the like), as after a restore elsewhere. Without effect on a driver that has not
    /// negotiated VIRTIO_NET_F_GUEST_ANNOUNCE. Any thread.
    /// </summary>
    public void Announce()
    {
        lock (Gate)
        {
            if (!Has(VirtioNetworkRegisters.FeatureGuestAnnounce | VirtioNetworkRegisters.FeatureStatus) || (Status & VirtioStatus.DriverOk) == 0)
            {
                return;
            }
            _announce = true;
        }
        ConfigurationChanged();
    }

    /// <inheritdoc/>
    protected override void ReadConfiguration(Span<byte> destination)
    {
        destination.Clear();
        _filter.Mac.Write(destination[VirtioNetworkRegisters.Mac..]);
        int status = (LinkUp ? VirtioNetworkRegisters.StatusLinkUp : 0) | (_announce ? VirtioNetworkRegisters.StatusAnnounce : 0);
        BinaryPrimitives.WriteUInt16LittleEndian(destination[VirtioNetworkRegisters.Status..], (ushort)status);
        BinaryPrimitives.WriteUInt16LittleEndian(destination[VirtioNetworkRegisters.MaximumPairs..], (ushort)_maximumPairs);
        BinaryPrimitives.WriteUInt16LittleEndian(destination[VirtioNetworkRegisters.Mtu..], (ushort)Mtu);
        if (_configuration.SpeedMegabits is { } speed)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(destination[VirtioNetworkRegisters.Speed..], Math.Min(speed, int.MaxValue));
            destination[VirtioNetworkRegisters.Duplex] = 1;
        }
    }

    /// <inheritdoc/>
    protected override bool ValidateFeatures(ulong features)
    {
        // Virtio 1.2, 5.1.3.1; USO as in 1.3.
        return Needs(features, VirtioNetworkRegisters.GuestOffloads & ~VirtioNetworkRegisters.FeatureGuestChecksum, VirtioNetworkRegisters.FeatureGuestChecksum)
            && Needs(features, VirtioNetworkRegisters.FeatureGuestEcn, VirtioNetworkRegisters.FeatureGuestTso4 | VirtioNetworkRegisters.FeatureGuestTso6)
            && Needs(
                features,
                VirtioNetworkRegisters.FeatureHostTso4 | VirtioNetworkRegisters.FeatureHostTso6 | VirtioNetworkRegisters.FeatureHostUso,
                VirtioNetworkRegisters.FeatureChecksum)
            && Needs(features, VirtioNetworkRegisters.FeatureHostEcn, VirtioNetworkRegisters.FeatureHostTso4 | VirtioNetworkRegisters.FeatureHostTso6)
            && Needs(
                features,
                VirtioNetworkRegisters.FeatureControlReceive | VirtioNetworkRegisters.FeatureControlVlan | VirtioNetworkRegisters.FeatureGuestAnnounce
                | VirtioNetworkRegisters.FeatureMultiQueue | VirtioNetworkRegisters.FeatureControlMac,
                VirtioNetworkRegisters.FeatureControlQueue);
    }

    /// <inheritdoc/>
    protected override bool ServesOnKick(VirtQueue queue)
    {
        if (queue.Index == ControlQueue)
        {
            return true;
        }
        if (!IsTransmit(queue.Index))
        {
            return false;
        }
        if (_refused is null)
        {
            return true;
        }
        _waiting |= 1UL << queue.Index;
        return false;
    }

    /// <inheritdoc/>
    protected override bool Serve(VirtQueue queue, DescriptorChain chain) =>
        queue.Index == ControlQueue ? TakeControl(queue, chain) : Transmit(queue, chain);

    /// <inheritdoc/>
    protected override void OnWake()
    {
        bool up = _link.IsUp;
        if (up == _carrier)
        {
            return;
        }
        lock (Gate)
        {
            _carrier = up;
        }
        ConfigurationChanged();
    }

    /// <inheritdoc/>
    protected override void OnSignal()
    {
        Retransmit();
        Receive();
    }

    /// <inheritdoc/>
    protected override void OnActivated()
    {
        _filter.FiltersVlans = Has(VirtioNetworkRegisters.FeatureControlVlan);
        SetGuestOffloads(DriverFeatures & VirtioNetworkRegisters.GuestOffloads);
    }

    /// <inheritdoc/>
    protected override void OnStart()
    {
        if (Active)
        {
            _link.AcceptOffloads(_accepted);
        }
    }

    /// <inheritdoc/>
    protected override void OnReset()
    {
        _filter.Reset(_configuration.Mac);
        _flows.Clear();
        _guestOffloads = 0;
        _accepted = OffloadFeatures.None;
        _pairs = 1;
        _announce = false;
        _refused = null;
        _refusedQueue = null;
        _waiting = 0;
        _frameLength = 0;
        _asked = 0;
    }

    /// <inheritdoc/>
    protected override void OnQueueReset(VirtQueue queue)
    {
        _asked &= ~(1UL << queue.Index);
        if (_refusedQueue == queue)
        {
            _refused = null;
            _refusedQueue = null;
            KickWaiting();
        }
    }

    /// <inheritdoc/>
    protected override void SaveDevice(StateWriter writer) => writer.Nested(1, new VirtioNetworkState(
        _filter.Mac.Value,
        (byte)_filter.Modes,
        _filter.Unicast.Save(),
        _filter.Unicast.Overflowed,
        _filter.Multicast.Save(),
        _filter.Multicast.Overflowed,
        _filter.VlanTable.ToArray(),
        _guestOffloads,
        (ushort)_pairs,
        _announce,
        _plugged,
        _carrier,
        Frame.ToArray(),
        _frameLength == 0 ? default : _frameOffload));

    /// <inheritdoc/>
    protected override void RestoreDevice(StateReader reader)
    {
        VirtioNetworkState state = reader.Nested(1, new VirtioNetworkState(
            null, (byte)ReceiveModes.Promiscuous, [], false, [], false, new ulong[ReceiveFilter.Vlans / 64], 0, 1, false, true, true, [], default));
        if (state.Pairs is 0 || state.Pairs > _maximumPairs)
        {
            throw new SavedStateException($"saved state has {state.Pairs} queue pairs in use, the card {_maximumPairs}");
        }
        if ((state.GuestOffloads & ~(DriverFeatures & VirtioNetworkRegisters.GuestOffloads)) != 0)
        {
            throw new SavedStateException($"saved state has offloads {state.GuestOffloads:x} that were not negotiated");
        }
        OffloadFeatures accepted = ForLink(state.GuestOffloads);
        if (state.Frame.Length != 0
            && (state.Frame.Length < VirtioNetworkRegisters.EthernetHeader || !VirtioNetworkHeader.IsAccepted(state.FrameOffload, accepted, state.Frame.Length)))
        {
            throw new SavedStateException("saved state has a frame of a form that the driver does not accept");
        }
        var mac = new MacAddress(state.Mac ?? _configuration.Mac.Value);
        if (mac.IsMulticast)
        {
            throw new SavedStateException($"saved state has {mac} as the card's address");
        }
        _filter.Mac = mac;
        _filter.Modes = (ReceiveModes)state.Modes;
        _filter.Unicast.Restore(state.Unicast, state.UnicastOverflowed);
        _filter.Multicast.Restore(state.Multicast, state.MulticastOverflowed);
        _filter.RestoreVlans(state.Vlans);
        _filter.FiltersVlans = Has(VirtioNetworkRegisters.FeatureControlVlan);
        _guestOffloads = state.GuestOffloads;
        _accepted = accepted;
        _pairs = state.Pairs;
        _announce = state.Announce;
        _plugged = state.Plugged;
        _carrier = state.Carrier;
        state.Frame.CopyTo(_received.AsSpan(VirtioNetworkHeader.Length));
        _frameLength = state.Frame.Length;
        _frameOffload = state.FrameOffload;
        _frameSince = Environment.TickCount64;
    }

    /// <summary>Largest MTU, as the driver is told.</summary>
    private int Mtu => Math.Clamp(_configuration.Mtu ?? _link.MaximumFrame - VirtioNetworkRegisters.EthernetHeader, 68, ushort.MaxValue);

    private int ControlQueue => !Has(VirtioNetworkRegisters.FeatureControlQueue) ? -1 : Has(VirtioNetworkRegisters.FeatureMultiQueue) ? 2 * _maximumPairs : 2;

    private bool IsTransmit(int index) => (index & 1) != 0 && index < 2 * _pairs;

    private VirtQueue ReceiveQueue(int pair) => Queues[2 * pair];

    private static bool Needs(ulong features, ulong any, ulong oneOf) => (features & any) == 0 || (features & oneOf) != 0;

    private static ushort[] QueueSizes(VirtioNetworkConfiguration configuration)
    {
        if (configuration.QueuePairs is < 1 or > VirtioNetworkRegisters.MaximumQueuePairs)
        {
            throw new ArgumentException($"a card has 1 to {VirtioNetworkRegisters.MaximumQueuePairs} queue pairs, not {configuration.QueuePairs}", nameof(configuration));
        }
        if (configuration.QueueSize is < 16 or > 1024 || !BitOperations.IsPow2(configuration.QueueSize))
        {
            throw new ArgumentException($"a queue has 16 to 1024 descriptors, a power of two, not {configuration.QueueSize}", nameof(configuration));
        }
        if (configuration.Mtu is < 68 or > ushort.MaxValue)
        {
            throw new ArgumentException($"an MTU is 68 to 65535, not {configuration.Mtu}", nameof(configuration));
        }
        ushort[] sizes = new ushort[(2 * configuration.QueuePairs) + 1];
        Array.Fill(sizes, configuration.QueueSize);
        sizes[^1] = VirtioNetworkRegisters.ControlQueueSize;
        return sizes;
    }

    private ulong Offer(OffloadFeatures send)
    {
        ulong features = VirtioNetworkRegisters.GuestOffloads
            | VirtioNetworkRegisters.FeatureControlGuestOffloads | VirtioNetworkRegisters.FeatureMtu | VirtioNetworkRegisters.FeatureMac
            | VirtioNetworkRegisters.FeatureMergeableBuffers | VirtioNetworkRegisters.FeatureStatus | VirtioNetworkRegisters.FeatureControlQueue
            | VirtioNetworkRegisters.FeatureControlReceive | VirtioNetworkRegisters.FeatureControlVlan | VirtioNetworkRegisters.FeatureControlReceiveExtra
            | VirtioNetworkRegisters.FeatureGuestAnnounce | VirtioNetworkRegisters.FeatureControlMac
            | (_maximumPairs > 1 ? VirtioNetworkRegisters.FeatureMultiQueue : 0)
            | (_configuration.SpeedMegabits is null ? 0 : VirtioNetworkRegisters.FeatureSpeedDuplex);
        if ((send & OffloadFeatures.Checksum) == 0)
        {
            return features;
        }
        const OffloadFeatures Tcp = OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6;
        return features | VirtioNetworkRegisters.FeatureChecksum
            | ((send & OffloadFeatures.TcpV4) != 0 ? VirtioNetworkRegisters.FeatureHostTso4 : 0)
            | ((send & OffloadFeatures.TcpV6) != 0 ? VirtioNetworkRegisters.FeatureHostTso6 : 0)
            | ((send & OffloadFeatures.TcpEcn) != 0 && (send & Tcp) != 0 ? VirtioNetworkRegisters.FeatureHostEcn : 0)
            | ((send & OffloadFeatures.UdpSegmentation) != 0 ? VirtioNetworkRegisters.FeatureHostUso : 0);
    }

    private static OffloadFeatures ForLink(ulong guestOffloads)
    {
        if ((guestOffloads & VirtioNetworkRegisters.FeatureGuestChecksum) == 0)
        {
            return OffloadFeatures.None;
        }
        const ulong Uso = VirtioNetworkRegisters.FeatureGuestUso4 | VirtioNetworkRegisters.FeatureGuestUso6;
        return OffloadFeatures.Checksum
            | ((guestOffloads & VirtioNetworkRegisters.FeatureGuestTso4) != 0 ? OffloadFeatures.TcpV4 : OffloadFeatures.None)
            | ((guestOffloads & VirtioNetworkRegisters.FeatureGuestTso6) != 0 ? OffloadFeatures.TcpV6 : OffloadFeatures.None)
            | ((guestOffloads & VirtioNetworkRegisters.FeatureGuestEcn) != 0 ? OffloadFeatures.TcpEcn : OffloadFeatures.None)
            | ((guestOffloads & Uso) == Uso ? OffloadFeatures.UdpSegmentation : OffloadFeatures.None);
    }

    private void SetGuestOffloads(ulong value)
    {
        _guestOffloads = value;
        _accepted = ForLink(value);
        _link.AcceptOffloads(_accepted);
        if (_frameLength != 0 && !VirtioNetworkHeader.IsAccepted(_frameOffload, _accepted, _frameLength))
        {
            _frameLength = 0;
            Counters.ReceiveDropped();
        }
    }
}
