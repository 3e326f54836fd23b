using System.Text.Json.Serialization;

namespace Lodge.Management.CloudInit;

/// <summary>Meta data of NoCloud. JSON is YAML.</summary>
internal sealed record SeedMetaData(
    [property: JsonPropertyName("instance-id")] string InstanceId,
    [property: JsonPropertyName("local-hostname")] string LocalHostName,
    [property: JsonPropertyName("public-keys")] IReadOnlyList<string> PublicKeys);

/// <summary>Network configuration, version 2 (cloud-init documentation, "Networking config version 2").</summary>
internal sealed record SeedNetwork(int Version, Dictionary<string, SeedCard> Ethernets);

/// <summary>A card of it.</summary>
internal sealed record SeedCard(SeedMatch Match, [property: JsonPropertyName("set-name")] string SetName, bool Dhcp4);

/// <summary>Which card it is.</summary>
internal sealed record SeedMatch([property: JsonPropertyName("macaddress")] string MacAddress);

/// <summary>Source-generated JSON of a seed.</summary>
[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase)]
[JsonSerializable(typeof(SeedMetaData))]
[JsonSerializable(typeof(SeedNetwork))]
internal sealed partial class SeedJson : JsonSerializerContext;
