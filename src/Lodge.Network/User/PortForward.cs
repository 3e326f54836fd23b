using System.Globalization;
using System.Net;
using System.Net.Sockets;

namespace Lodge.Network.User;

/// <summary>A port of the host that leads to a port of the guest.</summary>
/// <param name="Host">Address and port of the host; port 0 takes any that is free.</param>
/// <param name="GuestPort">Port of the guest.</param>
/// <param name="Protocol"><see cref="ProtocolType.Tcp"/> or <see cref="ProtocolType.Udp"/>.</param>
public sealed record PortForward(IPAddress Host, ushort HostPort, ushort GuestPort, ProtocolType Protocol)
{
    private const int MaximumRange = 1024;
    private const string Example = "write it as 8080:80, 127.0.0.1:8080:80, [::1]:8080:80, 5000-5010:5000-5010 or 5353:53/udp";

    /// <summary>
    /// Parses <c>[ADDRESS:]HOSTPORT[-END]:GUESTPORT[-END][/tcp|udp]</c>. Without an address only the host itself reaches the port (127.0.0.1), an IPv6 address stands in brackets, and
    /// <c>0.0.0.0</c> is every address of the host. Ranges must be equally long.
    /// </summary>
    /// <returns>One for each port.</returns>
    /// <exception cref="FormatException">It is not understood; the message says what to write instead.</exception>
    public static IReadOnlyList<PortForward> Parse(string text)
    {
        string rest = text;
        ProtocolType protocol = ProtocolType.Tcp;
        int slash = rest.LastIndexOf('/');
        if (slash >= 0)
        {
            protocol = rest[(slash + 1)..].ToLowerInvariant() switch
            {
                "tcp" => ProtocolType.Tcp,
                "udp" => ProtocolType.Udp,
                _ => throw new FormatException($"protocol of published port '{text}' is not known; give /tcp or /udp"),
            };
            rest = rest[..slash];
        }
        int colon = rest.LastIndexOf(':');
        string guest = colon < 0 ? "" : rest[(colon + 1)..];
        rest = colon < 0 ? "" : rest[..colon];
        colon = rest.EndsWith(']') ? -1 : rest.LastIndexOf(':');
        string host = rest[(colon + 1)..];
        IPAddress? address = IPAddress.Loopback;
        if (colon >= 0)
        {
            string name = rest[..colon];
            bool brackets = name.StartsWith('[') && name.EndsWith(']');
            if (name != "localhost"
                && (!IPAddress.TryParse(brackets ? name[1..^1] : name, out address) || brackets != (address.AddressFamily == AddressFamily.InterNetworkV6) || (!brackets && name.Count(c => c == '.') != 3)))
            {
                throw new FormatException($"address '{name}' of published port '{text}' is not understood; {Example}");
            }
        }
        (ushort hostFirst, int hostCount) = Range(host, text, 0);
        (ushort guestFirst, int guestCount) = Range(guest, text, 1);
        if (hostCount != guestCount && !(hostCount == 1 && hostFirst == 0))
        {
            throw new FormatException($"the ranges of published port '{text}' are not equally long; {Example}");
        }
        return [.. Enumerable.Range(0, guestCount).Select(i => new PortForward(address!, hostFirst == 0 ? hostFirst : (ushort)(hostFirst + i), (ushort)(guestFirst + i), protocol))];
    }

    /// <summary>As <c>127.0.0.1:8080:80/tcp</c>.</summary>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{new IPEndPoint(Host, HostPort)}:{GuestPort}/{(Protocol == ProtocolType.Udp ? "udp" : "tcp")}");

    private static (ushort First, int Count) Range(string range, string text, int least)
    {
        string[] ends = range.Split('-');
        if (ends.Length is 1 or 2
            && ushort.TryParse(ends[0], NumberStyles.None, CultureInfo.InvariantCulture, out ushort first)
            && ushort.TryParse(ends[^1], NumberStyles.None, CultureInfo.InvariantCulture, out ushort last)
            && first >= (ends.Length == 2 ? 1 : least) && last >= first)
        {
            return last - first < MaximumRange
                ? (first, last - first + 1)
                : throw new FormatException($"published port '{text}' is a range of more than {MaximumRange} ports");
        }
        throw new FormatException($"published port '{text}' is not understood; {Example}");
    }
}
