using System.Buffers.Binary;
using System.Net;
using System.Net.Sockets;
using Lodge.Network.Packets;

namespace Lodge.Network.User;

/// <summary>How a user-mode network is to be. The defaults are the addresses that users of QEMU know.</summary>
public sealed record UserNetworkOptions
{
    /// <summary>Largest MTU of the stack.</summary>
    public const int MaximumMtu = 65520;

    /// <summary>The IPv4 network, of 8 to 29 bits. The host is its address 2, the name server 3, the guest 15 (or 4 in a network that has no 15).</summary>
    public IPNetwork Network { get; init; } = new(new IPAddress([10, 0, 2, 0]), 24);

    /// <summary>The IPv6 network, of 64 bits, or null for none. The host is its address 2, the name server 3; guests make their own.</summary>
    public IPNetwork? Network6 { get; init; } = new(new IPAddress([0xFE, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 64);

    /// <summary>
    /// MTU of the network in bytes, 1280 to <see cref="MaximumMtu"/>. The guest's long segments are taken whole whatever it is, and short ones to the guest are merged on their way, so a large one gains
    /// little; above 16000 or so libslirp's window of 64 KiB holds too few segments and what the guest sends stalls.
    /// </summary>
    public int Mtu { get; init; } = 1500;

    /// <summary>Name that the DHCP server gives to the guest, or null.</summary>
    public string? HostName { get; init; }

    /// <summary>Whether the host's own loopback services are reached at the host's address in the network.</summary>
    public bool HostLoopback { get; init; } = true;

    /// <summary>Whether the guest reaches nothing: neither the host nor what is beyond. Ports that are published still work.</summary>
    public bool Restricted { get; init; }

    /// <summary>Ports of the host that lead to the guest.</summary>
    public IReadOnlyList<PortForward> Forwards { get; init; } = [];

    /// <summary>The guest's Ethernet address, from which its IPv6 address for published ports is known; null: ports cannot be published on IPv6.</summary>
    public MacAddress? GuestMac { get; init; }

    /// <summary>Most sockets of the host that the guest's traffic may occupy; what would open more is dropped.</summary>
    public int MaximumSockets { get; init; } = 4096;

    /// <summary>The host as the guest sees it: gateway and DHCP server.</summary>
    public IPAddress Host => Address(2);

    /// <summary>The name server, which asks the host's.</summary>
    public IPAddress NameServer => Address(3);

    /// <summary>The address that the guest gets, and to which published ports lead.</summary>
    public IPAddress Guest => Address(Network.PrefixLength <= 27 ? 15u : 4u);

    /// <summary>The host as the guest sees it by IPv6, or null.</summary>
    public IPAddress? Host6 => Address6(2);

    /// <summary>The name server by IPv6, or null.</summary>
    public IPAddress? NameServer6 => Address6(3);

    /// <summary>The IPv6 address that a guest commonly makes from the network and its Ethernet address (RFC 4291, appendix A), or null when it cannot be known.</summary>
    public IPAddress? Guest6 => Network6 is { } network && GuestMac is { } mac
        ? Combine(network, ((mac.Value >> 24 ^ 0x02_0000) << 40) | 0xFF_FE00_0000 | (mac.Value & 0xFF_FFFF))
        : null;

    /// <summary>Throws when something is not possible.</summary>
    /// <exception cref="NetworkException">The message names the value.</exception>
    public void Check()
    {
        if (Network.BaseAddress.AddressFamily != AddressFamily.InterNetwork || Network.PrefixLength is < 8 or > 29)
        {
            throw new NetworkException($"user network '{Network}' is not possible; give an IPv4 network of 8 to 29 bits such as 10.0.2.0/24");
        }
        if (Network6 is { } six && (six.BaseAddress.AddressFamily != AddressFamily.InterNetworkV6 || six.PrefixLength != 64))
        {
            throw new NetworkException($"user network '{six}' is not possible; give an IPv6 network of 64 bits such as fec0::/64");
        }
        if (Mtu is < 1280 or > MaximumMtu)
        {
            throw new NetworkException($"MTU {Mtu} of a user network is not possible; give 1280 to {MaximumMtu}");
        }
        if (HostName is { } name && (name.Length is 0 or > 63 || !name.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.')))
        {
            throw new NetworkException($"host name '{name}' of a user network is not possible; give 1 to 63 letters, digits, '-', '_' or '.'");
        }
        if (Forwards.FirstOrDefault(f => f.Host.AddressFamily == AddressFamily.InterNetworkV6) is { } forward && Guest6 is null)
        {
            throw new NetworkException($"{forward} cannot be published: the network has no IPv6");
        }
    }

    private IPAddress Address(uint number)
    {
        Span<byte> bytes = stackalloc byte[4];
        Network.BaseAddress.TryWriteBytes(bytes, out _);
        BinaryPrimitives.WriteUInt32BigEndian(bytes, BinaryPrimitives.ReadUInt32BigEndian(bytes) | number);
        return new IPAddress(bytes);
    }

    private IPAddress? Address6(ulong number) => Network6 is { } network ? Combine(network, number) : null;

    private static IPAddress Combine(IPNetwork network, ulong host)
    {
        Span<byte> bytes = stackalloc byte[16];
        network.BaseAddress.TryWriteBytes(bytes, out _);
        BinaryPrimitives.WriteUInt64BigEndian(bytes[8..], host);
        return new IPAddress(bytes);
    }
}
