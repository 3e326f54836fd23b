using System.Globalization;
using Lodge.Network.Packets;

namespace Lodge.Network.Filters;

/// <summary>Direction of traffic, seen from the machine.</summary>
public enum FilterDirection : byte
{
    /// <summary>From the machine.</summary>
    Out,

    /// <summary>To the machine.</summary>
    In,
}

/// <summary>What happens to a packet.</summary>
public enum FilterAction : byte
{
    /// <summary>It passes.</summary>
    Allow,

    /// <summary>It is dropped.</summary>
    Deny,
}

/// <summary>Ports from the first to the last.</summary>
public readonly record struct PortRange(ushort First, ushort Last)
{
    /// <inheritdoc/>
    public override string ToString() => First == Last ? First.ToString(CultureInfo.InvariantCulture) : string.Create(CultureInfo.InvariantCulture, $"{First}-{Last}");
}

/// <summary>
/// A rule for packets of one direction. Its text is <c>ACTION DIRECTION [PROTOCOL] [REMOTE] [PORTS]</c>: <c>allow</c> or <c>deny</c>; <c>out</c> or <c>in</c>; <c>any</c>,
/// <c>tcp</c>, <c>udp</c>, <c>icmp</c>, <c>icmpv6</c> or a number; <c>any</c>, an address or a prefix of the other side; with tcp and udp the destination's ports, such as <c>80,443,8000-8080</c>.
/// </summary>
public sealed class FilterRule
{
    private readonly PortRange[] _ports = [];

    /// <summary>What happens to packets that match.</summary>
    public required FilterAction Action { get; init; }

    /// <summary>Packets of which direction.</summary>
    public required FilterDirection Direction { get; init; }

    /// <summary>Of which protocol; null for any.</summary>
    public IpProtocol? Protocol { get; init; }

    /// <summary>To whom or from whom; null for anybody.</summary>
    public IpPrefix? Remote { get; init; }

    /// <summary>Ports of the destination: the other side's for <see cref="FilterDirection.Out"/>, the machine's for <see cref="FilterDirection.In"/>. Empty for any.</summary>
    public IReadOnlyList<PortRange> Ports
    {
        get => _ports;
        init => _ports = [.. value];
    }

    /// <summary>Whether it is about all packets of its direction.</summary>
    public bool IsCatchAll => Protocol is null && Remote is null && _ports.Length == 0;

    /// <summary>Parses a rule.</summary>
    /// <exception cref="NetworkException">It is none; the message has the offending word.</exception>
    public static FilterRule Parse(string text)
    {
        string[] words = text.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries);
        NetworkException Wrong(string what) => new($"filter rule '{string.Join(' ', words)}': {what}");

        int next = 0;
        string Word() => next < words.Length ? words[next] : "";
        FilterAction action = Word() switch
        {
            "allow" => FilterAction.Allow,
            "deny" => FilterAction.Deny,
            _ => throw Wrong($"'{Word()}' is neither 'allow' nor 'deny'"),
        };
        next++;
        FilterDirection direction = Word() switch
        {
            "out" => FilterDirection.Out,
            "in" => FilterDirection.In,
            _ => throw Wrong($"'{Word()}' is neither 'in' nor 'out'"),
        };
        next++;

        IpProtocol? protocol = null;
        if (Word() is "any" or "tcp" or "udp" or "icmp" or "icmpv6" || (Word().Length > 0 && Word().All(char.IsAsciiDigit)))
        {
            protocol = Word() switch
            {
                "any" => null,
                "tcp" => IpProtocol.Tcp,
                "udp" => IpProtocol.Udp,
                "icmp" => IpProtocol.Icmp,
                "icmpv6" => IpProtocol.IcmpV6,
                _ when byte.TryParse(Word(), NumberStyles.None, CultureInfo.InvariantCulture, out byte number) => (IpProtocol)number,
                _ => throw Wrong($"'{Word()}' is no protocol; give any, tcp, udp, icmp, icmpv6 or a number to 255"),
            };
            next++;
        }
        IpPrefix? remote = null;
        if (Word() == "any")
        {
            next++;
        }
        else if (Word().AsSpan().IndexOfAny(".:/") >= 0)
        {
            if (!IpPrefix.TryParse(Word(), out var prefix))
            {
                throw Wrong($"'{Word()}' is no address or prefix such as 192.0.2.1, 10.0.0.0/8 or 2001:db8::/32 (with no bits beyond the prefix)");
            }
            remote = prefix;
            next++;
        }
        if ((protocol == IpProtocol.Icmp && remote is { IsIpv4: false }) || (protocol == IpProtocol.IcmpV6 && remote is { IsIpv4: true }))
        {
            throw Wrong($"'{remote}' is not of the protocol's family");
        }
        PortRange[] ports = [];
        if (Word().Length > 0 && char.IsAsciiDigit(Word()[0]))
        {
            if (protocol is not (IpProtocol.Tcp or IpProtocol.Udp))
            {
                throw Wrong($"the ports '{Word()}' need the protocol tcp or udp");
            }
            ports = [.. Word().Split(',').Select(part => TryParsePorts(part, out var range) ? range : throw Wrong($"'{part}' is no port or range of ports"))];
            next++;
        }
        if (next < words.Length)
        {
            throw Wrong($"'{Word()}' is not understood; a rule is: allow|deny in|out [PROTOCOL] [REMOTE] [PORTS]");
        }
        return new() { Action = action, Direction = direction, Protocol = protocol, Remote = remote, Ports = ports };
    }

    /// <summary>As it is parsed.</summary>
    public override string ToString()
    {
        var words = new List<string> { Action == FilterAction.Allow ? "allow" : "deny", Direction == FilterDirection.Out ? "out" : "in" };
        if (Protocol is { } protocol)
        {
            words.Add(protocol switch
            {
                IpProtocol.Tcp => "tcp",
                IpProtocol.Udp => "udp",
                IpProtocol.Icmp => "icmp",
                IpProtocol.IcmpV6 => "icmpv6",
                _ => ((byte)protocol).ToString(CultureInfo.InvariantCulture),
            });
        }
        if (Remote is { } remote)
        {
            words.Add(remote.ToString());
        }
        if (_ports.Length > 0)
        {
            words.Add(string.Join(',', _ports));
        }
        return string.Join(' ', words);
    }

    /// <summary>Whether a packet of its direction matches.</summary>
    internal bool Matches(in PacketFlow flow)
    {
        if (Protocol is { } protocol && protocol != flow.Protocol)
        {
            return false;
        }
        if (Remote is { } remote && !remote.Contains(flow.Key.Remote, flow.IsIpv4))
        {
            return false;
        }
        if (_ports.Length == 0)
        {
            return true;
        }
        ushort port = Direction == FilterDirection.Out ? flow.Key.RemotePort : flow.Key.LocalPort;
        foreach (var range in _ports)
        {
            if (port >= range.First && port <= range.Last)
            {
                return true;
            }
        }
        return false;
    }

    private static bool TryParsePorts(string text, out PortRange range)
    {
        string[] ends = text.Split('-');
        range = default;
        if (ends.Length > 2 || !ushort.TryParse(ends[0], NumberStyles.None, CultureInfo.InvariantCulture, out ushort first)
            || !ushort.TryParse(ends[^1], NumberStyles.None, CultureInfo.InvariantCulture, out ushort last) || last < first)
        {
            return false;
        }
        range = new(first, last);
        return true;
    }
}
