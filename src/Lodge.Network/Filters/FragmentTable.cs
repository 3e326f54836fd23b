using Lodge.Network.Packets;

namespace Lodge.Network.Filters;

/// <summary>
/// Datagrams whose first fragment was allowed, so that the others, which have no ports, pass unless they overlap it: that would change what was looked at (RFC 1858,
/// 3128). Bounded; the oldest are forgotten.
/// </summary>
internal sealed class FragmentTable(TimeProvider time)
{
    private const int Capacity = 64;
    private const int Seconds = 30;

    private readonly (Key Key, int Length, long Expires)[] _datagrams = new (Key, int, long)[Capacity];
    private int _next;

    /// <summary>Notes a first fragment that was allowed.</summary>
    public void Add(in FrameLayout layout, bool isOut)
    {
        var key = Read(layout, isOut);
        int start = layout.Network == NetworkProtocol.Ipv4 ? layout.TransportOffset : layout.NetworkOffset + layout.Ipv6.FragmentStart;
        int length = layout.End - start;
        long expires = time.GetTimestamp() + (Seconds * time.TimestampFrequency);
        for (int i = 0; i < Capacity; i++)
        {
            if (_datagrams[i].Key == key)
            {
                _datagrams[i] = (key, length, expires);
                return;
            }
        }
        _datagrams[_next] = (key, length, expires);
        _next = (_next + 1) % Capacity;
    }

    /// <summary>Whether a later fragment may pass.</summary>
    public bool Contains(in FrameLayout layout, bool isOut)
    {
        var key = Read(layout, isOut);
        long now = time.GetTimestamp();
        foreach (ref readonly var datagram in _datagrams.AsSpan())
        {
            if (datagram.Expires > now && datagram.Key == key && layout.FragmentOffset >= datagram.Length)
            {
                return true;
            }
        }
        return false;
    }

    private static Key Read(in FrameLayout layout, bool isOut) => layout.Network == NetworkProtocol.Ipv4
        ? new(IpPrefix.FromIpv4(layout.Ipv4.Source), IpPrefix.FromIpv4(layout.Ipv4.Destination), layout.Ipv4.Identification, layout.Ipv4.Protocol, isOut)
        : new(layout.Ipv6.Source, layout.Ipv6.Destination, layout.Ipv6.Identification, IpProtocol.Fragment, isOut);

    private readonly record struct Key(UInt128 Source, UInt128 Destination, uint Identification, IpProtocol Protocol, bool IsOut);
}
