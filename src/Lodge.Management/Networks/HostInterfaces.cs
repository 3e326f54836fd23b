using System.Net;
using System.Text.Json;
using System.Text.Json.Serialization;
using Lodge.Management.Host;

namespace Lodge.Management.Networks;

/// <summary>The host's interfaces and routes at one moment, as iproute2 tells them (<c>ip -json</c>).</summary>
internal sealed class HostInterfaces
{
    private readonly List<IpLink> _links;

    private HostInterfaces(List<IpLink> links) => _links = links;

    /// <summary>Asks the host.</summary>
    /// <exception cref="ManagementException">iproute2 is missing or fails.</exception>
    public static HostInterfaces Read()
    {
        HostProgram.Require("ip", "iproute2");
        return new HostInterfaces(Parse(HostProgram.Text("ip", "-json", "-details", "address", "show"), IpJson.Default.ListIpLink));
    }

    /// <summary>The interface of a name, or null.</summary>
    public IpLink? Find(string name) => _links.Find(link => link.Name == name);

    /// <summary>Interfaces that are ports of a bridge.</summary>
    public IEnumerable<IpLink> PortsOf(string bridge) => _links.Where(link => link.Master == bridge);

    /// <summary>All subnets that the host has an address or a route in, the default routes left out, with the interface of each; those over <paramref name="except"/> are left out.</summary>
    public IReadOnlyList<(IpSubnet Subnet, string Interface)> Subnets(string? except = null)
    {
        List<(IpSubnet, string)> subnets = [];
        foreach (IpLink link in _links.Where(link => link.Name != except))
        {
            foreach (IpAddress address in link.Addresses ?? [])
            {
                if (address.Scope != "link" && IPAddress.TryParse(address.Local, out IPAddress? local))
                {
                    subnets.Add((IpSubnet.Of(local, address.Prefix), link.Name));
                }
            }
        }
        foreach (string family in new[] { "-4", "-6" })
        {
            foreach (IpRoute route in Parse(HostProgram.Text("ip", family, "-json", "route", "show", "table", "all"), IpJson.Default.ListIpRoute))
            {
                string text = route.Destination.Contains('/') ? route.Destination : $"{route.Destination}/{(family == "-4" ? 32 : 128)}";
                if (route.Interface != except && IpSubnet.TryParse(text, out IpSubnet? subnet) && subnet.Prefix != 0 && route.Type is null or "unicast" && !IsLinkLocal(subnet))
                {
                    subnets.Add((subnet, route.Interface ?? "another route"));
                }
            }
        }
        return subnets;
    }

    /// <summary>Runs commands of <c>ip</c>, one a line; they stop at the first that fails.</summary>
    /// <exception cref="ManagementException">One failed.</exception>
    public static void Change(string commands, string what)
    {
        if (HostProgram.Feed("ip", ["-batch", "-"], commands) is { Status: not 0 } failed)
        {
            throw new ManagementException($"{what}: ip says: {failed.Error}");
        }
    }

    private static bool IsLinkLocal(IpSubnet subnet) => subnet.IsV6 && (subnet.Network.IsIPv6LinkLocal || subnet.Network.IsIPv6Multicast);

    private static List<T> Parse<T>(string? text, System.Text.Json.Serialization.Metadata.JsonTypeInfo<List<T>> type)
    {
        try
        {
            return string.IsNullOrWhiteSpace(text) ? [] : JsonSerializer.Deserialize(text, type) ?? [];
        }
        catch (JsonException e)
        {
            throw new ManagementException("the program 'ip' does not print JSON; install a newer iproute2", e);
        }
    }
}

/// <summary>An interface as <c>ip -json -details address</c> prints it.</summary>
internal sealed record IpLink
{
    [JsonPropertyName("ifname")]
    public string Name { get; init; } = "";

    [JsonPropertyName("address")]
    public string? Mac { get; init; }

    [JsonPropertyName("mtu")]
    public int Mtu { get; init; }

    [JsonPropertyName("master")]
    public string? Master { get; init; }

    [JsonPropertyName("flags")]
    public List<string>? Flags { get; init; }

    [JsonPropertyName("linkinfo")]
    public IpLinkInfo? Info { get; init; }

    [JsonPropertyName("addr_info")]
    public List<IpAddress>? Addresses { get; init; }

    public bool IsBridge => Info?.Kind == "bridge";

    public bool FiltersVlans => Info?.Data?.VlanFiltering == 1;

    public bool IsUp => Flags?.Contains("UP") == true;
}

/// <summary>What kind an interface is.</summary>
internal sealed record IpLinkInfo
{
    [JsonPropertyName("info_kind")]
    public string? Kind { get; init; }

    [JsonPropertyName("info_data")]
    public IpLinkData? Data { get; init; }
}

/// <summary>Of a bridge.</summary>
internal sealed record IpLinkData
{
    [JsonPropertyName("vlan_filtering")]
    public int VlanFiltering { get; init; }
}

/// <summary>An address of an interface.</summary>
internal sealed record IpAddress
{
    [JsonPropertyName("local")]
    public string? Local { get; init; }

    [JsonPropertyName("prefixlen")]
    public int Prefix { get; init; }

    [JsonPropertyName("scope")]
    public string? Scope { get; init; }
}

/// <summary>A route.</summary>
internal sealed record IpRoute
{
    [JsonPropertyName("dst")]
    public string Destination { get; init; } = "";

    [JsonPropertyName("dev")]
    public string? Interface { get; init; }

    [JsonPropertyName("type")]
    public string? Type { get; init; }
}

/// <summary>Source-generated JSON of iproute2.</summary>
[JsonSerializable(typeof(List<IpLink>))]
[JsonSerializable(typeof(List<IpRoute>))]
internal sealed partial class IpJson : JsonSerializerContext;
