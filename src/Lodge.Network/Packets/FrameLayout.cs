namespace Lodge.Network.Packets;

/// <summary>What an Ethernet frame contains.</summary>
public enum NetworkProtocol : byte
{
    /// <summary>The frame, or the packet that its type announces, is malformed.</summary>
    Malformed,

    /// <summary>A type that is not looked into.</summary>
    Other,

    /// <summary>ARP for IPv4.</summary>
    Arp,

    /// <summary>IPv4.</summary>
    Ipv4,

    /// <summary>IPv6.</summary>
    Ipv6,
}

/// <summary>Where the headers of a frame are: one walk from Ethernet to the transport. Offsets are from the start of the frame and inside of it.</summary>
public readonly struct FrameLayout
{
    /// <summary>The Ethernet header; undefined when the frame is shorter than one.</summary>
    public EthernetHeader Ethernet { get; private init; }

    /// <summary>What the frame contains.</summary>
    public NetworkProtocol Network { get; private init; }

    /// <summary>The ARP packet if it is one.</summary>
    public ArpPacket Arp { get; private init; }

    /// <summary>The IPv4 header if it is one.</summary>
    public Ipv4Header Ipv4 { get; private init; }

    /// <summary>The IPv6 header if it is one.</summary>
    public Ipv6Header Ipv6 { get; private init; }

    /// <summary>Start of the ARP, IPv4 or IPv6 packet.</summary>
    public int NetworkOffset => Ethernet.Length;

    /// <summary>Protocol of the transport.</summary>
    public IpProtocol Protocol => Network == NetworkProtocol.Ipv4 ? Ipv4.Protocol : Ipv6.Protocol;

    /// <summary>Start of what IPv4 or IPv6 carries.</summary>
    public int TransportOffset => NetworkOffset + (Network == NetworkProtocol.Ipv4 ? Ipv4.HeaderLength : Ipv6.HeaderLength);

    /// <summary>End of the IPv4 or IPv6 packet; padding may follow.</summary>
    public int End => NetworkOffset + (Network == NetworkProtocol.Ipv4 ? Ipv4.TotalLength : Ipv6.TotalLength);

    /// <summary>It is IPv4 or IPv6.</summary>
    public bool IsIp => Network is NetworkProtocol.Ipv4 or NetworkProtocol.Ipv6;

    /// <summary>It is a fragment, or an IPv6 packet with a fragment header.</summary>
    public bool IsFragment => Network == NetworkProtocol.Ipv4 ? Ipv4.IsFragment : Network == NetworkProtocol.Ipv6 && Ipv6.HasFragmentHeader;

    /// <summary>Where a fragment's content belongs, in bytes.</summary>
    public int FragmentOffset => Network == NetworkProtocol.Ipv4 ? Ipv4.FragmentOffset : Ipv6.FragmentOffset;

    /// <summary>Looks through a frame.</summary>
    public static void Parse(ReadOnlySpan<byte> frame, out FrameLayout layout)
    {
        layout = default;
        if (!EthernetHeader.TryParse(frame, out var ethernet))
        {
            return;
        }
        var packet = frame[ethernet.Length..];
        layout = ethernet.Type switch
        {
            EtherType.Ipv4 => Ipv4Header.TryParse(packet, out var ipv4)
                ? new() { Ethernet = ethernet, Network = NetworkProtocol.Ipv4, Ipv4 = ipv4 } : new() { Ethernet = ethernet },
            EtherType.Ipv6 => Ipv6Header.TryParse(packet, out var ipv6)
                ? new() { Ethernet = ethernet, Network = NetworkProtocol.Ipv6, Ipv6 = ipv6 } : new() { Ethernet = ethernet },
            EtherType.Arp => ArpPacket.TryParse(packet, out var arp)
                ? new() { Ethernet = ethernet, Network = NetworkProtocol.Arp, Arp = arp } : new() { Ethernet = ethernet },
            _ => new() { Ethernet = ethernet, Network = NetworkProtocol.Other },
        };
    }
}
