using System.Net;
using System.Text.Json;
using System.Text.Json.Serialization;
using Lodge.Network.Packets;

namespace Lodge.Management.Networks;

/// <summary>What a network is made of. Kinds such as macvtap and vxlan would be further ones.</summary>
public enum NetworkKind
{
    /// <summary>A bridge of its own, with a way out through the host's addresses (masquerade), DHCP and DNS.</summary>
    Nat,

    /// <summary>A bridge that the host's administrator made and keeps.</summary>
    Bridge,

    /// <summary>A bridge of its own without a way out.</summary>
    Isolated,
}

/// <summary>An address that one machine always gets.</summary>
public sealed record StaticLease
{
    /// <summary>The machine's MAC address.</summary>
    public required MacAddress Mac { get; init; }

    /// <summary>Its IPv4 address.</summary>
    public IPAddress? Address { get; init; }

    /// <summary>Its IPv6 address.</summary>
    public IPAddress? Address6 { get; init; }

    /// <summary>Its name in DNS; null: the name that it runs under.</summary>
    public string? Name { get; init; }
}

/// <summary>A network as it is kept, <c>network.json</c> in its folder: what it is to be, not what it is at the moment.</summary>
public sealed record NetworkDefinition
{
    /// <summary>The version of this form.</summary>
    public const int CurrentVersion = 1;

    /// <summary>Domain of the machines' names where none is chosen; <c>internal</c> is reserved for private use.</summary>
    public const string DefaultDomain = "lodge.internal";

    /// <summary>Version of the form; a higher one than <see cref="CurrentVersion"/> is refused.</summary>
    public int Version { get; init; } = CurrentVersion;

    /// <summary>Its name.</summary>
    public required string Name { get; init; }

    /// <summary>Its kind.</summary>
    public NetworkKind Kind { get; init; }

    /// <summary>The bridge's interface name.</summary>
    public required string Bridge { get; init; }

    /// <summary>MAC address of a bridge of its own: by it the bridge is known to be this network's.</summary>
    public MacAddress BridgeMac { get; init; }

    /// <summary>IPv4 addresses, or null.</summary>
    public IpSubnet? Subnet { get; init; }

    /// <summary>IPv6 addresses, or null.</summary>
    public IpSubnet? Subnet6 { get; init; }

    /// <summary>Whether machines get addresses and DNS from the host.</summary>
    public bool Dhcp { get; init; }

    /// <summary>Domain of the machines' names.</summary>
    public string Domain { get; init; } = DefaultDomain;

    /// <summary>MTU; 0: that of the bridge, 1500 for one of its own.</summary>
    public int Mtu { get; init; }

    /// <summary>802.1Q tag that the machines' frames have on the bridge; 0: none.</summary>
    public int Vlan { get; init; }

    /// <summary>Whether machines reach each other.</summary>
    public bool IsolateMachines { get; init; }

    /// <summary>Addresses that machines always get.</summary>
    public IReadOnlyList<StaticLease> Leases { get; init; } = [];

    /// <summary>When it was made.</summary>
    public DateTimeOffset Created { get; init; }

    /// <summary>Whether it is to be up: until it is stopped, also after the host starts anew.</summary>
    public bool Started { get; init; }

    /// <summary>Whether its removal has begun: it only remains to be finished.</summary>
    public bool Removing { get; init; }

    /// <summary>Whether Lodge makes the bridge, and its addresses, rules and DHCP server.</summary>
    [JsonIgnore]
    public bool HasOwnBridge => Kind != NetworkKind.Bridge;
}

/// <summary>An address that a machine got and keeps while there is room.</summary>
public sealed record AddressReservation
{
    /// <summary>The machine's MAC address.</summary>
    public required MacAddress Mac { get; init; }

    /// <summary>Number of the address in the subnets.</summary>
    public required int Number { get; init; }

    /// <summary>When a machine last attached with it.</summary>
    public DateTimeOffset LastUsed { get; init; }
}

/// <summary>A machine's card on a network: a file that its process keeps locked (flock(2)) as long as it lives.</summary>
public sealed record AttachedMachine
{
    /// <summary>Process of the machine.</summary>
    public required int Process { get; init; }

    /// <summary>Name of the machine.</summary>
    public required string Machine { get; init; }

    /// <summary>Its name in DNS, or null when another machine on the network has it.</summary>
    public string? DnsName { get; init; }

    /// <summary>MAC address of the card.</summary>
    public required MacAddress Mac { get; init; }

    /// <summary>The tap.</summary>
    public required string Tap { get; init; }

    /// <summary>IPv4 address that it gets by DHCP and may use, or null where Lodge gives none.</summary>
    public IPAddress? Address { get; init; }

    /// <summary>IPv6 address that it gets by DHCPv6 and may use, or null where Lodge gives none.</summary>
    public IPAddress? Address6 { get; init; }

    /// <summary>When it attached.</summary>
    public DateTimeOffset Since { get; init; }
}

/// <summary>A MAC address as a JSON string.</summary>
internal sealed class MacAddressJson : JsonConverter<MacAddress>
{
    public override MacAddress Read(ref Utf8JsonReader reader, Type typeToConvert, JsonSerializerOptions options) =>
        MacAddress.TryParse(reader.GetString() ?? "", out MacAddress address) ? address : throw new JsonException("not a MAC address");

    public override void Write(Utf8JsonWriter writer, MacAddress value, JsonSerializerOptions options) => writer.WriteStringValue(value.ToString());
}

/// <summary>Source-generated JSON of what is kept of networks.</summary>
[JsonSourceGenerationOptions(JsonSerializerDefaults.Web, WriteIndented = true,
    DefaultIgnoreCondition = JsonIgnoreCondition.WhenWritingNull, Converters = [typeof(MacAddressJson), typeof(IpAddressJson), typeof(LowercaseKindJson)])]
[JsonSerializable(typeof(NetworkDefinition))]
[JsonSerializable(typeof(List<AddressReservation>))]
[JsonSerializable(typeof(AttachedMachine))]
[JsonSerializable(typeof(List<NetworkReport>))]
[JsonSerializable(typeof(NetworkReport))]
[JsonSerializable(typeof(List<NetworkLease>))]
public sealed partial class NetworkJson : JsonSerializerContext;

/// <summary>A kind as the command line writes it.</summary>
internal sealed class LowercaseKindJson() : JsonStringEnumConverter<NetworkKind>(JsonNamingPolicy.CamelCase);
