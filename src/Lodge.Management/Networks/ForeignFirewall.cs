using System.Globalization;
using System.Text;
using System.Text.Json;
using System.Text.Json.Serialization;
using Lodge.Management.Host;

namespace Lodge.Management.Networks;

/// <summary>
/// Rules of others on the host that would drop a network's packets. A packet must pass every table, so where a chain of somebody else drops by default (Docker and ufw
/// do), rules with the comment <c>lodge NAME</c> are put at its head; Docker keeps the chain DOCKER-USER for that. What a network may do is decided by its own
/// tables all the same. <see cref="Firewalld"/> rejects explicitly and is asked instead.
/// </summary>
internal static class ForeignFirewall
{
    private const string DockerChain = "DOCKER-USER";

    /// <summary>Makes sure that a network passes.</summary>
    /// <exception cref="ManagementException">nft refuses.</exception>
    public static void Ensure(NetworkDefinition network)
    {
        if (network.HasOwnBridge)
        {
            Replace(network, present: true);
        }
    }

    /// <summary>Removes what was added.</summary>
    /// <exception cref="ManagementException">nft refuses.</exception>
    public static void Remove(NetworkDefinition network)
    {
        if (network.HasOwnBridge && HostProgram.Exists("nft"))
        {
            Replace(network, present: false);
        }
    }

    private static void Replace(NetworkDefinition network, bool present)
    {
        List<NftChain> chains = Chains();
        StringBuilder text = new();
        foreach (NftChain chain in chains.Where(IsOther))
        {
            bool wanted = present && IsWanted(chain, chains);
            foreach (int handle in OwnRules(network, chain))
            {
                text.AppendLine(CultureInfo.InvariantCulture, $"delete rule {chain.Family} {chain.Table} {chain.Name} handle {handle}");
            }
            foreach (string match in wanted ? Matches(network, chain) : [])
            {
                text.AppendLine($"insert rule {chain.Family} {chain.Table} {chain.Name} {match} counter accept comment \"{Comment(network)}\"");
            }
        }
        if (text.Length != 0 && HostProgram.Feed("nft", ["-f", "-"], text.ToString()) is { Status: not 0 } failed)
        {
            throw new ManagementException($"network '{network.Name}' cannot pass the host's packet filter: nft says: {failed.Error}");
        }
    }

    private static bool IsOther(NftChain chain) =>
        chain.Family is "ip" or "ip6" or "inet" && !chain.Table.StartsWith("lodge_", StringComparison.Ordinal) && !Firewalld.Has(chain) && (chain.Hook is "forward" or "input" || chain.Name == DockerChain) && IsPlain(chain.Table) && IsPlain(chain.Name);

    private static bool IsPlain(string name) => name.All(c => char.IsAsciiLetterOrDigit(c) || c is '-' or '_' or '.');

    private static bool IsWanted(NftChain chain, List<NftChain> chains)
    {
        bool Drops(NftChain one) => one is { Hook: not null, Policy: "drop" };
        bool HasDocker(NftChain one) => chains.Exists(other => other.Name == DockerChain && other.Family == one.Family && other.Table == one.Table);
        return chain.Name == DockerChain
            ? chains.Exists(other => Drops(other) && other.Hook == "forward" && other.Family == chain.Family && other.Table == chain.Table)
            : Drops(chain) && !(chain.Hook == "forward" && HasDocker(chain));
    }

    private static IEnumerable<string> Matches(NetworkDefinition network, NftChain chain)
    {
        if (chain.Hook == "input")
        {
            return NetworkRules.Services(network)
                .Where(match => chain.Family switch { "ip" => !match.Contains("ipv6", StringComparison.Ordinal), "ip6" => !match.EndsWith(" icmp", StringComparison.Ordinal), _ => true })
                .Select(match => $"iifname \"{network.Bridge}\" {match}");
        }
        return network.Kind == NetworkKind.Nat
            ? [$"iifname \"{network.Bridge}\"", $"oifname \"{network.Bridge}\""]
            : [$"iifname \"{network.Bridge}\" oifname \"{network.Bridge}\""];
    }

    private static string Comment(NetworkDefinition network) => $"lodge {network.Name}";

    /// <summary>Handles of the rules with the network's comment in a chain.</summary>
    private static IEnumerable<int> OwnRules(NetworkDefinition network, NftChain chain)
    {
        string marker = $"comment \"{Comment(network)}\" # handle ";
        foreach (string line in (HostProgram.Text("nft", "-a", "list", "chain", chain.Family, chain.Table, chain.Name) ?? "").Split('\n'))
        {
            int at = line.IndexOf(marker, StringComparison.Ordinal);
            if (at >= 0 && int.TryParse(line.AsSpan(at + marker.Length), NumberStyles.None, CultureInfo.InvariantCulture, out int handle))
            {
                yield return handle;
            }
        }
    }

    /// <summary>All chains of the host.</summary>
    /// <exception cref="ManagementException">nft is missing or too old.</exception>
    public static List<NftChain> Chains()
    {
        HostProgram.Require("nft", "nftables");
        try
        {
            string text = HostProgram.Text("nft", "-j", "list", "chains") ?? "{}";
            return [.. (JsonSerializer.Deserialize(text, NftJson.Default.NftListing)?.Objects ?? []).Select(one => one.Chain).OfType<NftChain>()];
        }
        catch (JsonException e)
        {
            throw new ManagementException("the program 'nft' does not print JSON; install a newer nftables", e);
        }
    }
}

/// <summary>What <c>nft -j list chains</c> prints (libnftables-json(5)).</summary>
internal sealed record NftListing
{
    [JsonPropertyName("nftables")]
    public List<NftObject>? Objects { get; init; }
}

/// <summary>One object of a listing.</summary>
internal sealed record NftObject
{
    [JsonPropertyName("chain")]
    public NftChain? Chain { get; init; }
}

/// <summary>A chain.</summary>
internal sealed record NftChain
{
    [JsonPropertyName("family")]
    public string Family { get; init; } = "";

    [JsonPropertyName("table")]
    public string Table { get; init; } = "";

    [JsonPropertyName("name")]
    public string Name { get; init; } = "";

    [JsonPropertyName("hook")]
    public string? Hook { get; init; }

    [JsonPropertyName("policy")]
    public string? Policy { get; init; }
}

/// <summary>Source-generated JSON of nft.</summary>
[JsonSerializable(typeof(NftListing))]
internal sealed partial class NftJson : JsonSerializerContext;
