using Lodge.Management.Host;

namespace Lodge.Management.Networks;

/// <summary>
/// firewalld on the host: at the end of its chains it rejects what no zone allows, which no accept in another table undoes (firewalld.zones(5)). A network's own bridge therefore
/// goes into the zone <c>trusted</c>, not permanently, so that the network's own table decides alone; it then closes what of the host machines do not need. A zone that
/// the administrator chose for the bridge stays.
/// </summary>
internal sealed class Firewalld
{
    private const string Zone = "trusted", Table = "firewalld", ChainOverIptables = "INPUT_ZONES";

    private readonly NetworkDefinition _network;
    private readonly string? _zone; // that the bridge is in; null: none

    private Firewalld(NetworkDefinition network, string? zone)
    {
        _network = network;
        _zone = zone;
    }

    /// <summary>What a network has to do with firewalld; null where its rules are not on this host, or the bridge is none of Lodge's.</summary>
    /// <exception cref="ManagementException">A program is missing.</exception>
    public static Firewalld? Of(NetworkDefinition network)
    {
        if (!network.HasOwnBridge || !IsPresent())
        {
            return null;
        }
        HostProgram.Require("firewall-cmd", "firewalld");
        return new Firewalld(network, HostProgram.Text("firewall-cmd", $"--get-zone-of-interface={network.Bridge}")?.Trim());
    }

    /// <summary>Whether the network's own rules must close the host, since the zone opens all of it.</summary>
    public bool MustCloseHost => _zone is null or Zone;

    /// <summary>Whether a chain is firewalld's own, into which nobody else puts rules.</summary>
    public static bool Has(NftChain chain) => chain.Table.StartsWith(Table, StringComparison.Ordinal);

    /// <summary>Puts the bridge into the zone.</summary>
    /// <exception cref="ManagementException">firewalld refuses.</exception>
    public void Enter()
    {
        if (_zone is null && HostProgram.Run("firewall-cmd", [$"--zone={Zone}", $"--add-interface={_network.Bridge}"]) is { Status: not 0 } failed)
        {
            throw new ManagementException($"the bridge of network '{_network.Name}' cannot be put into a zone of firewalld: firewall-cmd says: {failed.Error}");
        }
    }

    /// <summary>Takes a bridge that is to go out of the zone. What firewalld has forgotten by itself, or does not want to hear, is no mistake then.</summary>
    public static void Leave(NetworkDefinition network)
    {
        if (network.HasOwnBridge && HostProgram.Exists("firewall-cmd") && IsPresent())
        {
            _ = HostProgram.Run("firewall-cmd", [$"--zone={Zone}", $"--remove-interface={network.Bridge}"]);
        }
    }

    /// <summary>Whether its rules are there: cheaper than to ask firewalld itself, and what counts.</summary>
    private static bool IsPresent() => HostProgram.Exists("nft") && ForeignFirewall.Chains().Exists(chain => Has(chain) || chain.Name == ChainOverIptables);
}
