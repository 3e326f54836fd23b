using System.Net;
using System.Security.Cryptography;

namespace Lodge.Management.Networks;

/// <summary>Finds addresses for a network that nothing else on the host uses.</summary>
internal static class SubnetChooser
{
    private const int Candidates = 1 << 14; // the /24s of 10.64.0.0/10
    private const uint First = 10u << 24 | 64u << 16;

    /// <summary>A free /24 in 10.64.0.0/10. Where the search begins is random, so that networks of several hosts differ.</summary>
    /// <exception cref="ManagementException">None is free.</exception>
    public static IpSubnet ChooseV4(string name, IReadOnlyCollection<IpSubnet> used)
    {
        uint start = (uint)RandomNumberGenerator.GetInt32(Candidates);
        for (uint i = 0; i < Candidates; i++)
        {
            uint network = First + ((start + i) % Candidates << 8);
            IpSubnet subnet = IpSubnet.Of(new IPAddress([(byte)(network >> 24), (byte)(network >> 16), (byte)(network >> 8), 0]), 24);
            if (!used.Any(subnet.Overlaps))
            {
                return subnet;
            }
        }
        throw new ManagementException($"no free IPv4 subnet was found for network '{name}'; give one with --subnet");
    }

    /// <summary>A unique local /64 (RFC 4193, 3.2.2): 40 random bits, subnet 0.</summary>
    public static IpSubnet ChooseV6(IReadOnlyCollection<IpSubnet> used)
    {
        while (true)
        {
            byte[] address = new byte[16];
            RandomNumberGenerator.Fill(address.AsSpan(1, 5));
            address[0] = 0xFD;
            IpSubnet subnet = IpSubnet.Of(new IPAddress(address), 64);
            if (!used.Any(subnet.Overlaps))
            {
                return subnet;
            }
        }
    }

    /// <summary>Checks that a chosen subnet is usable and free.</summary>
    /// <exception cref="ManagementException">It is not.</exception>
    public static void Check(IpSubnet subnet, IEnumerable<(IpSubnet Subnet, string User)> used)
    {
        if (subnet.IsV6 ? subnet.Prefix is < 48 or > 112 : subnet.Prefix is < 8 or > 29)
        {
            throw new ManagementException($"subnet {subnet} has an unusable size; IPv4 takes /8 to /29, IPv6 /48 to /112");
        }
        if (subnet.IsV6 ? subnet.Network.IsIPv6LinkLocal || subnet.Network.IsIPv6Multicast : subnet.Network.GetAddressBytes()[0] is 0 or 127 or >= 224)
        {
            throw new ManagementException($"subnet {subnet} is reserved; take one of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or fd00::/8");
        }
        foreach ((IpSubnet other, string user) in used)
        {
            if (subnet.Overlaps(other))
            {
                throw new ManagementException($"subnet {subnet} is in use: {other} by {user}");
            }
        }
    }
}
