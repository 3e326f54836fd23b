using Lodge.Network.Links;
using Lodge.Network.Offloads;
using Lodge.Network.Packets;

namespace Lodge.Network.Filters;

/// <summary>
/// Lets through what a machine may send and receive: frames that are from it and not from somebody it pretends to be, and packets that the rules allow. What a frame
/// leaves to be done on it is checked against its content, since a checksum that is written into an address later would make it another frame. Denied
/// frames are dropped and counted.
/// </summary>
public sealed class FilteredLink : LinkDecorator
{
    private const int MostDrops = 64;

    private readonly FilterOptions _options;
    private readonly EtherType[] _types;
    private readonly TimeProvider _time;
    private readonly AddressGuard _guard;
    private FilterRules _rules;
    private FilterRules _tracked = FilterRules.None;
    private ConnectionTable? _connections;
    private FragmentTable? _fragments;
    private Action? _wake;
    private long _spoofed;

    /// <summary>Takes ownership of <paramref name="inner"/>.</summary>
    /// <exception cref="NetworkException">The options contradict themselves.</exception>
    public FilteredLink(ILink inner, FilterOptions options, TimeProvider? time = null)
        : base(inner)
    {
        if (options.MaximumConnections is < 1 or > 1 << 24)
        {
            throw new NetworkException($"a filter for {options.MaximumConnections} connections cannot be made; give 1 to {1 << 24}");
        }
        _options = options;
        _types = [.. options.EtherTypes];
        _time = time ?? TimeProvider.System;
        _guard = new AddressGuard(options, _time);
        _rules = options.Rules;
    }

    /// <summary>What passed and what was dropped.</summary>
    public LinkCounters Counters { get; } = new();

    /// <summary>Frames of the machine that were dropped because they pretended to be from somebody else, or to be a router or DHCP server.</summary>
    public long Spoofed => Volatile.Read(ref _spoofed);

    /// <summary>The rules. A change, by any thread, holds at once, also for connections that earlier rules allowed.</summary>
    public FilterRules Rules
    {
        get => Volatile.Read(ref _rules);
        set => Volatile.Write(ref _rules, value);
    }

    /// <summary>Addresses and prefixes that were learned and have not expired; for a machine whose state is saved.</summary>
    public IReadOnlyList<IpPrefix> LearnedAddresses => _guard.Learned();

    /// <summary>Takes an address or prefix as learned. Before the first frame only.</summary>
    public void Learn(IpPrefix prefix, TimeSpan lifetime) => _guard.Learn(prefix, lifetime);

    /// <inheritdoc/>
    public override void Connect(Action wake)
    {
        _wake = wake;
        Inner.Connect(wake);
    }

    /// <inheritdoc/>
    public override bool TrySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        if (!MaySend(frame, offload))
        {
            Counters.SentDrop();
            return true;
        }
        if (!Inner.TrySend(frame, offload))
        {
            return false;
        }
        Counters.Sent(frame.Length);
        return true;
    }

    /// <inheritdoc/>
    public override int TryReceive(Span<byte> buffer, out FrameOffload offload)
    {
        for (int drops = 0; drops < MostDrops; drops++)
        {
            int length = Inner.TryReceive(buffer, out offload);
            if (length == 0)
            {
                return 0;
            }
            if (MayReceive(buffer[..length]))
            {
                Counters.Received(length);
                return length;
            }
            Counters.ReceivedDrop();
        }
        // The card does not loop here for as long as somebody sends what is denied.
        offload = default;
        _wake?.Invoke();
        return 0;
    }

    /// <summary>Whether what is left to do on a frame changes nothing but the checksum that it should, or something inside of a tunnel.</summary>
    private static bool IsConsistent(ReadOnlySpan<byte> frame, in FrameLayout layout, in FrameOffload offload)
    {
        const IpProtocol ipv4InIp = (IpProtocol)4, ipv6InIp = (IpProtocol)41, generic = (IpProtocol)47;
        if (!offload.NeedsChecksum && offload.Segmentation == FrameSegmentation.None)
        {
            return true;
        }
        if (!layout.IsIp || layout.IsFragment)
        {
            return false;
        }
        if (offload.Segmentation != FrameSegmentation.None && FrameSegmenter.HeaderLength(frame, layout, offload.Segmentation) == 0)
        {
            return false;
        }
        if (!offload.NeedsChecksum)
        {
            return true;
        }
        if (offload.ChecksumStart + offload.ChecksumOffset + 2 > layout.End)
        {
            return false;
        }
        int field = layout.Protocol switch
        {
            IpProtocol.Tcp => TcpHeader.ChecksumOffset,
            IpProtocol.Udp => UdpHeader.ChecksumOffset,
            IpProtocol.IcmpV6 => IcmpHeader.ChecksumOffset,
            _ => -1,
        };
        if (offload.ChecksumStart == layout.TransportOffset && offload.ChecksumOffset == field)
        {
            return true;
        }
        switch (layout.Protocol)
        {
            case ipv4InIp or ipv6InIp or generic:
                return offload.ChecksumStart >= layout.TransportOffset + 4;
            case IpProtocol.Udp:
                return offload.ChecksumStart >= layout.TransportOffset + UdpHeader.Length
                    && UdpHeader.TryParse(frame[layout.TransportOffset..layout.End], out var udp) && udp.DestinationPort is not (DhcpMessage.ServerPort or DhcpMessage.ClientPort);
            default:
                return false;
        }
    }

    private bool MaySend(ReadOnlySpan<byte> frame, in FrameOffload offload)
    {
        var rules = Rules;
        if (!_options.BlocksSpoofing && !rules.CanDeny)
        {
            return true;
        }
        FrameLayout.Parse(frame, out var layout);
        if (!IsConsistent(frame, layout, offload) || !IsKnownType(layout))
        {
            return false;
        }
        if (_options.BlocksSpoofing && !_guard.IsGenuine(frame, layout))
        {
            Volatile.Write(ref _spoofed, _spoofed + 1);
            return false;
        }
        _guard.ObserveSent(frame, layout);
        return !rules.CanDeny || !layout.IsIp || IsAllowed(frame, layout, true, rules);
    }

    private bool MayReceive(ReadOnlySpan<byte> frame)
    {
        var rules = Rules;
        if (!_options.BlocksSpoofing && !rules.CanDeny)
        {
            return true;
        }
        FrameLayout.Parse(frame, out var layout);
        if (rules.CanDeny && (!IsKnownType(layout) || (layout.IsIp && !IsAllowed(frame, layout, false, rules))))
        {
            return false;
        }
        _guard.ObserveReceived(frame, layout);
        return true;
    }

    private bool IsKnownType(in FrameLayout layout) => layout.Network != NetworkProtocol.Malformed && (layout.Ethernet.TagCount == 0 || _options.AllowsTags)
        && (layout.Network != NetworkProtocol.Other || (Array.IndexOf(_types, layout.Ethernet.Type) >= 0 && !EthernetHeader.IsTag(layout.Ethernet.Type)));

    /// <summary>What rules and connections say about an IPv4 or IPv6 packet.</summary>
    private bool IsAllowed(ReadOnlySpan<byte> frame, in FrameLayout layout, bool isOut, FilterRules rules)
    {
        if (_tracked != rules || _connections is null || _fragments is null)
        {
            _connections ??= new ConnectionTable(_options.MaximumConnections, _time);
            _connections.Clear();
            _fragments = new FragmentTable(_time);
            _tracked = rules;
        }
        if (layout.Network == NetworkProtocol.Ipv4 ? layout.Ipv4.HasSourceRoute : layout.Ipv6.HasSourceRoute || (layout.Ipv6.Source >> 32) == 0xFFFF || (layout.Ipv6.Destination >> 32) == 0xFFFF)
        {
            // It would not end where its address says.
            return false;
        }
        if (layout.FragmentOffset != 0)
        {
            return _fragments.Contains(layout, isOut);
        }
        if (!PacketFlow.TryRead(frame, layout, isOut, out var flow))
        {
            return false;
        }
        if (_guard.IsOfLink(frame, layout, flow))
        {
            return true;
        }
        bool isKnown = flow.IsTracked ? !flow.Opens && _connections.TryPass(flow)
            : flow.IsError && flow.TryReadInner(frame, layout, out var inner) && _connections.Contains(inner);
        if (!isKnown)
        {
            if (!rules.IsAllowed(flow))
            {
                return false;
            }
            if (flow.IsTracked)
            {
                _connections.Add(flow);
            }
        }
        if (layout.IsFragment)
        {
            _fragments.Add(layout, isOut);
        }
        return true;
    }
}
