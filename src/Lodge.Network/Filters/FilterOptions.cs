using Lodge.Network.Packets;

namespace Lodge.Network.Filters;

/// <summary>What a <see cref="FilteredLink"/> lets through.</summary>
public sealed record FilterOptions
{
    /// <summary>The card's address by the machine's configuration; a guest that gives its card another one is not heard.</summary>
    public required MacAddress Address { get; init; }

    /// <summary>Whether what the machine sends must be from the card's address and from the machine's IP addresses, and must not pretend to be a router or DHCP server.</summary>
    public bool BlocksSpoofing { get; init; } = true;

    /// <summary>IP addresses, or ranges of which it may choose, that the machine has. IPv6's link-local ones need not be here.</summary>
    public IReadOnlyList<IpPrefix> Addresses { get; init; } = [];

    /// <summary>Whether addresses that a DHCP server gives the machine, and prefixes that a router advertises to it, count too.</summary>
    public bool LearnsAddresses { get; init; } = true;

    /// <summary>IPv4 addresses of the DHCP servers that are believed; empty for any.</summary>
    public IReadOnlyList<IpPrefix> DhcpServers { get; init; } = [];

    /// <summary>Whether any link-local IPv6 address may be used, else only that made of <see cref="Address"/> (EUI-64), which most systems do not use by default.</summary>
    public bool AllowsAnyLinkLocal { get; init; } = true;

    /// <summary>Types of frames that pass beside ARP, IPv4 and IPv6. They are not looked into.</summary>
    public IReadOnlyList<EtherType> EtherTypes { get; init; } = [];

    /// <summary>Whether frames with one or two VLAN tags pass; what is behind the tags is checked like any other frame.</summary>
    public bool AllowsTags { get; init; }

    /// <summary>Rules for IPv4 and IPv6.</summary>
    public FilterRules Rules { get; init; } = FilterRules.None;

    /// <summary>Most connections whose answers are let through at a time (about 80 bytes each).</summary>
    public int MaximumConnections { get; init; } = 8192;
}
