using System.Globalization;
using System.Net;
using Lodge.Cli.Console;
using Lodge.Machine;
using Lodge.Machine.Devices.Virtio.Network;
using Lodge.Machine.Virtio.Transport;
using Lodge.Management.Host;
using Lodge.Management.Networks;
using Lodge.Network;
using Lodge.Network.Capture;
using Lodge.Network.Filters;
using Lodge.Network.Limits;
using Lodge.Network.Links;
using Lodge.Network.Offloads;
using Lodge.Network.Packets;
using Lodge.Network.Taps;
using Lodge.Network.User;

namespace Lodge.Cli.Run;

/// <summary>The network cards of a run: their links are opened before the machine is made, closed when it has ended.</summary>
internal sealed class RunNetworks : IDisposable
{
    /// <summary>Most pairs of queues of a card.</summary>
    public const int MaximumQueuePairs = 31;

    // PCI class code; drivers match on the device ID only.
    private const uint ClassEthernet = 0x020000;
    private const int CommonQueuePairs = 8;
    private const int EthernetHeader = 14;
    private readonly List<(NetworkOption Option, MacAddress Mac, ILink Link)> _cards = [];
    private readonly List<VirtioNetwork> _devices = [];
    private readonly List<NetworkAttachment> _attachments = [];
    private readonly Dictionary<string, CaptureFile> _captures = [];

    private RunNetworks()
    {
    }

    /// <summary>The cards of a run: those that were asked for, else one on a user network, or none when this host has no library for it, which is told.</summary>
    /// <exception cref="LodgeException">A port is to be published and there is no user network.</exception>
    /// <param name="guess">Whether it is enough that the library seems to be there: for a first look.</param>
    public static IReadOnlyList<NetworkOption> Choose(IReadOnlyList<NetworkOption>? asked, IReadOnlyList<PortForward> publish, string? capture, IReadOnlyList<FilterRule> rules, bool guess = false)
    {
        if (guess && asked is null && publish.Count == 0 && capture is null && rules.Count == 0 && UserNetwork.IsLikely)
        {
            return [NetworkOption.DefaultUser];
        }
        List<NetworkOption> networks;
        if (asked is null)
        {
            if (publish.Count == 0 && capture is null && rules.Count == 0 && UserNetwork.Problem is { } problem)
            {
                HostFile.Error($"lodge: the machine has no network: {problem}");
                return [];
            }
            networks = [NetworkOption.DefaultUser];
        }
        else
        {
            networks = [.. asked.Where(n => n.Kind != NetworkKind.None)];
        }
        int user = networks.FindIndex(n => n.Kind == NetworkKind.User);
        if (publish.Count != 0)
        {
            if (user < 0)
            {
                throw new LodgeException($"{publish[0]} cannot be published without a user network; add --net user", ExitStatus.Usage);
            }
            networks[user] = networks[user] with { User = networks[user].User with { Forwards = [.. networks[user].User.Forwards, .. publish] } };
        }
        if (capture is not null)
        {
            if (networks.Count == 0)
            {
                throw new LodgeException($"nothing passes that '{capture}' could capture: the machine has no network card", ExitStatus.Usage);
            }
            networks = networks.ConvertAll(n => n.Capture is null ? n with { Capture = capture } : n);
        }
        return rules.Count == 0 ? networks : networks.ConvertAll(n => n with { Rules = [.. n.Rules, .. rules] });
    }

    /// <summary>The same with an address for each card.</summary>
    /// <param name="networks">From <see cref="Choose"/>.</param>
    /// <param name="name">The machine's name.</param>
    /// <param name="named">Whether the name was given: then the cards' addresses are kept under it.</param>
    /// <param name="folder">Where they are kept; null: among the user's state.</param>
    /// <exception cref="LodgeException">They cannot be kept.</exception>
    public static IReadOnlyList<NetworkOption> WithAddresses(IReadOnlyList<NetworkOption> networks, string name, bool named, string? folder = null) =>
        [.. networks.Select((n, i) => n.Mac is null ? n with { Mac = named ? KeptMac(name, folder ?? StateFolder.Of(name), i) : MacAddress.Random() } : n)];

    /// <summary>Opens all links.</summary>
    /// <param name="networks">From <see cref="WithAddresses"/>.</param>
    /// <param name="name">The machine's name, which networks tell others.</param>
    /// <param name="late">Whether a user network to which nothing leads from outside may be opened when the guest first sends something: its guest knows its address already.</param>
    /// <exception cref="LodgeException">One cannot be opened.</exception>
    public static RunNetworks Open(IReadOnlyList<NetworkOption> networks, string name, bool late = false)
    {
        RunNetworks cards = new();
        try
        {
            for (int i = 0; i < networks.Count; i++)
            {
                NetworkOption option = networks[i];
                MacAddress mac = option.Mac!.Value;
                int number = i;
                ILink Whole()
                {
                    ILink link = cards.OpenLink(option, mac, name, out FilterOptions filter);
                    return cards.Decorate(option, mac, number, link, filter);
                }
                bool waits = late && option is { Kind: NetworkKind.User, Capture: null } && option.User.Forwards.Count == 0;
                cards._cards.Add((option, mac, waits ? new DeferredLink(Whole, Tell, OffloadingLink.All, option.User.Mtu + EthernetHeader) : Whole()));
            }
            return cards;
        }
        catch (NetworkException e)
        {
            cards.Dispose();
            throw new LodgeException($"a network cannot be used: {e.Message}");
        }
        catch
        {
            cards.Dispose();
            throw;
        }
    }

    private static void Tell(NetworkException e) => HostFile.Error($"lodge: a network cannot be used: {e.Message}");

    /// <summary>Adds the cards to a machine that is being made.</summary>
    public void AddDevices(Chipset chipset, int processors)
    {
        for (int i = 0; i < _cards.Count; i++)
        {
            (NetworkOption option, MacAddress mac, ILink link) = _cards[i];
            VirtioNetworkConfiguration card = new(link, mac)
            {
                QueuePairs = option.Queues ?? Math.Min(processors, CommonQueuePairs),
                Mtu = option.Mtu,
                LinkUp = option.LinkUp,
            };
            VirtioNetwork device = new(chipset.Memory, card);
            _devices.Add(device);
            chipset.Pci.Add(new VirtioPciFunction(Title(i), device, ClassEthernet));
        }
    }

    /// <summary>Ports of the host that lead to the guest.</summary>
    public IReadOnlyList<string> Published { get; private set; } = [];

    /// <summary>Bytes of frames that the guest received.</summary>
    public long ReceivedBytes => _devices.Sum(device => device.Counters.ReceivedBytes);

    /// <summary>Bytes of frames that the guest sent.</summary>
    public long SentBytes => _devices.Sum(device => device.Counters.SentBytes);

    /// <summary>Closes the links; after the machine has been disposed.</summary>
    public void Dispose()
    {
        foreach ((_, _, ILink link) in _cards)
        {
            link.Dispose();
        }
        _cards.Clear();
        foreach (NetworkAttachment attachment in _attachments)
        {
            attachment.Dispose();
        }
        _attachments.Clear();
        foreach (CaptureFile file in _captures.Values)
        {
            file.Dispose();
        }
        _captures.Clear();
    }

    /// <summary>The place where each kind of network opens its link; what the machine may have as its addresses goes with it.</summary>
    private ILink OpenLink(NetworkOption option, MacAddress mac, string name, out FilterOptions filter)
    {
        filter = new FilterOptions { Address = mac, BlocksSpoofing = option.SpoofCheck, Addresses = option.Addresses, LearnsAddresses = option.Addresses.Count == 0, Rules = RulesOf(option) };
        switch (option.Kind)
        {
            case NetworkKind.User:
                // The default system knows its address without asking for it.
                filter = filter with { Addresses = [.. new[] { option.User.Network, option.User.Network6 }.OfType<IPNetwork>().Select(PrefixOf)], LearnsAddresses = false };
                return OpenUser(option, mac, name);
            case NetworkKind.Tap:
                return TapLink.Open(option.Name, option.Vlan);
            default:
                NetworkAttachment attachment = option.Kind == NetworkKind.Bridge
                    ? NetworkStore.AttachToBridge(option.Name, mac, name, option.Vlan)
                    : NetworkStore.OfHost().Attach(option.Name, mac, name);
                _attachments.Add(attachment);
                foreach (string note in attachment.Notes)
                {
                    HostFile.Error($"lodge: {note}");
                }
                if (attachment.KnowsAddresses)
                {
                    if (option.Addresses.Count != 0)
                    {
                        throw new NetworkException($"network '{option.Name}' gives its machines their addresses; fix one with 'lodge network create --lease {mac}=ADDRESS'");
                    }
                    filter = filter with { Addresses = [.. new[] { attachment.Address, attachment.Address6 }.OfType<IPAddress>().Select(PrefixOf)], LearnsAddresses = false };
                }
                return attachment.Link;
        }
    }

    /// <summary>The rules of a card. The first that matches decides; a direction with a rule that allows something denies what no rule is about. The user network's name server is part of what is allowed.</summary>
    private static FilterRules RulesOf(NetworkOption option)
    {
        FilterAction Rest(FilterDirection direction) =>
            option.Rules.Any(r => r.Direction == direction && r.Action == FilterAction.Allow) ? FilterAction.Deny : FilterAction.Allow;
        List<FilterRule> rules = [.. option.Rules];
        if (option.Kind == NetworkKind.User && Rest(FilterDirection.Out) == FilterAction.Deny)
        {
            rules.AddRange(new[] { option.User.NameServer, option.User.NameServer6 }.OfType<IPAddress>().SelectMany(s => new[] { $"allow out udp {s} 53", $"allow out tcp {s} 53" }).Select(FilterRule.Parse));
        }
        return new FilterRules(rules, Rest(FilterDirection.Out), Rest(FilterDirection.In));
    }

    private static IpPrefix PrefixOf(IPNetwork network) => IpPrefix.TryParse(network.ToString(), out IpPrefix prefix) ? prefix : throw new NetworkException($"network {network} is not usable");

    private static IpPrefix PrefixOf(IPAddress address) => IpPrefix.TryParse(address.ToString(), out IpPrefix prefix) ? prefix : throw new NetworkException($"address {address} is not usable");

    private UserLink OpenUser(NetworkOption option, MacAddress mac, string name)
    {
        UserLink link = UserNetwork.Open(option.User with { HostName = name, GuestMac = mac });
        Published = [.. Published, .. link.Forwards.Select(forward => forward.ToString()!)];
        foreach ((PortForward asked, PortForward made) in option.User.Forwards.Zip(link.Forwards))
        {
            if (asked.HostPort == 0)
            {
                HostFile.Error($"lodge: published {made}");
            }
        }
        return link;
    }

    /// <summary>What stands between a link and its card, seen from the link: filter, limits, capture, offloads in software.</summary>
    private ILink Decorate(NetworkOption option, MacAddress mac, int number, ILink link, FilterOptions filter)
    {
        try
        {
            if (filter.BlocksSpoofing || filter.Rules.CanDeny)
            {
                link = new FilteredLink(link, filter);
            }
            if (option.Limits != LinkLimits.None)
            {
                link = new RateLimitedLink(link, option.Limits);
            }
            if (option.Capture is { } path)
            {
                if (!_captures.TryGetValue(path, out CaptureFile? file))
                {
                    file = CaptureFile.Create(path, line => HostFile.Error($"lodge: {line}"));
                    _captures.Add(path, file);
                }
                link = new CapturedLink(link, file, Title(number), mac, ownsFile: false);
            }
            return new OffloadingLink(link, trusted: option.Kind == NetworkKind.User);
        }
        catch
        {
            link.Dispose();
            throw;
        }
    }

    private static string Title(int number) => string.Create(CultureInfo.InvariantCulture, $"net{number}");

    /// <summary>The address of a named machine's card: random the first time, then the same.</summary>
    private static MacAddress KeptMac(string name, string? folder, int number)
    {
        if (folder is null)
        {
            return MacAddress.Random();
        }
        string path = Path.Combine(folder, string.Create(CultureInfo.InvariantCulture, $"mac{number}"));
        try
        {
            if (File.Exists(path) && MacAddress.TryParse(File.ReadAllText(path).Trim(), out MacAddress kept) && !kept.IsMulticast)
            {
                return kept;
            }
            MacAddress made = MacAddress.Random();
            AtomicFile.Write(path, $"{made}\n");
            return made;
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LodgeException($"the address of machine '{name}' cannot be kept in '{path}': {e.Message}; set XDG_STATE_HOME to a writable directory");
        }
    }
}
