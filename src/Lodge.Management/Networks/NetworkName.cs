using System.Net;
using System.Security.Cryptography;
using System.Text;
using Lodge.Network.Packets;

namespace Lodge.Management.Networks;

/// <summary>Names of networks and of what the host has for them.</summary>
public static class NetworkName
{
    /// <summary>The network that is made when it is first asked for.</summary>
    public const string Default = "default";

    private const int LongestInterface = 15; // IFNAMSIZ without the terminator
    private const string BridgePrefix = "lodge-";

    /// <summary>Checks a name: a letter, then letters, digits, '-' and '_', up to 32.</summary>
    /// <exception cref="ManagementException">It is none.</exception>
    public static string Check(string name) =>
        name.Length is > 0 and <= 32 && char.IsAsciiLetter(name[0]) && name.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_') && name is not ("none" or "user")
            ? name
            : throw new ManagementException($"'{name}' cannot name a network; take letters, digits, '-' and '_', a letter first, up to 32, not 'none' or 'user'");

    /// <summary>Whether a text can name an interface.</summary>
    public static bool IsInterface(string name) =>
        name.Length is > 0 and <= LongestInterface && name is not ("." or "..") && name.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.');

    /// <summary>The bridge of a network: <c>lodge-NAME</c>, a long name shortened with a hash.</summary>
    public static string Bridge(string network) =>
        BridgePrefix.Length + network.Length <= LongestInterface ? BridgePrefix + network : $"{BridgePrefix}{network[..4]}-{Convert.ToHexStringLower(Hash(network))[..4]}";

    /// <summary>MAC address of a bridge of its own: the same for one network of one store, locally administered.</summary>
    public static MacAddress BridgeMac(string folder, string network)
    {
        byte[] hash = Hash($"{folder}\n{network}");
        hash[0] = (byte)((hash[0] & 0xFC) | 0x02);
        return MacAddress.Read(hash);
    }

    /// <summary>The link-local IPv6 address that an interface makes of its MAC address (RFC 4291, appendix A).</summary>
    public static IPAddress LinkLocal(MacAddress mac)
    {
        Span<byte> address = stackalloc byte[16];
        address.Clear();
        mac.Write(address[10..]);
        address[10..13].CopyTo(address[8..]);
        (address[0], address[1], address[8], address[11], address[12]) = (0xFE, 0x80, (byte)(address[8] ^ 0x02), 0xFF, 0xFE);
        return new IPAddress(address);
    }

    /// <summary>Makes of a machine's name one label of DNS (RFC 1123, 2.1), or null where nothing is left.</summary>
    public static string? Dns(string machine)
    {
        string label = new string([.. machine.ToLowerInvariant().Select(c => char.IsAsciiLetterOrDigit(c) ? c : '-')]).Trim('-');
        return label.Length is > 0 and <= 63 ? label : null;
    }

    /// <summary>Whether a text is a name in DNS of one or more labels.</summary>
    public static bool IsDomain(string text) => text.Length is > 0 and <= 200 && text.Split('.').All(label => label == Dns(label));

    private static byte[] Hash(string text) => SHA256.HashData(Encoding.UTF8.GetBytes(text));
}
