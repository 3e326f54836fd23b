using System.Globalization;
using System.Net;

namespace Lodge.Cli.Run;

/// <summary>What the default system is to do for the network cards of a machine.</summary>
/// <param name="Cards">For each card, in the order of eth0, eth1, ...: <c>dhcp</c>, <c>none</c>, or address, length and gateway as <c>10.0.2.15/24,10.0.2.2</c>.</param>
/// <param name="NameServer">The name server that is known before, or null.</param>
internal sealed record NetworkNeeds(IReadOnlyList<string> Cards, IPAddress? NameServer)
{
    /// <summary>Kernel module that drives the cards; a kernel that has it built in does not need it.</summary>
    public const string Module = "virtio_net";

    /// <summary>
    /// What the given cards need. On a user network the address is known, so nothing has to be asked for and nothing waits; a second such card would have the same address and is left
    /// to DHCP.
    /// </summary>
    public static NetworkNeeds Of(IReadOnlyList<NetworkOption> networks)
    {
        List<string> cards = [];
        IPAddress? nameServer = null;
        foreach (NetworkOption network in networks.Where(network => !network.IsPlace))
        {
            if (!network.LinkUp)
            {
                cards.Add("none");
            }
            else if (network.Kind == NetworkKind.User && nameServer is null)
            {
                nameServer = network.User.NameServer;
                cards.Add(string.Create(CultureInfo.InvariantCulture, $"{network.User.Guest}/{network.User.Network.PrefixLength},{network.User.Host}"));
            }
            else
            {
                cards.Add("dhcp");
            }
        }
        return new NetworkNeeds(cards, nameServer);
    }
}
