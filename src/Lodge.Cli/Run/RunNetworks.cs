using System.Net;
using Lodge.Cli.Console;
using Lodge.Engine.Memory;
using Lodge.Machine;
using Lodge.Machine.Devices.Virtio.Network;
using Lodge.Machine.Pci;
using Lodge.Machine.Virtio.Transport;
using Lodge.Management.Control;
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
using Microsoft.Win32.SafeHandles;

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
    private readonly Lock _gate = new();
    private readonly List<RunCard?> _places = [];   // in the order of slots; null: an empty place
    private readonly Dictionary<string, CaptureFile> _captures = [];
    private IReadOnlyList<RunCard> _cards = [];     // replaced as a whole, under the lock
    private long _receivedBefore, _sentBefore;      // by cards that are gone

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
            networks = [.. DevicePlaces.OfCards(asked.Where(n => n.Kind != NetworkKind.None || n.IsPlace))];
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
            if (networks.All(n => n.IsPlace))
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
        [.. networks.Select(n => n.Mac is null && !n.IsPlace ? n with { Mac = named ? KeptMac(name, folder ?? StateFolder.Of(name), n) : MacAddress.Random() } : n)];

    /// <summary>The address that a card has, was given before, or gets now: for whoever puts it on its network. Nothing is written.</summary>
    /// <param name="card">The card.</param>
    /// <param name="folder">Where addresses are kept.</param>
    public static MacAddress AddressOf(NetworkOption card, string folder)
    {
        try
        {
            return card.Mac ?? (MacAddress.TryParse(File.ReadAllText(MacFile(folder, card)).Trim(), out MacAddress kept) && !kept.IsMulticast ? kept : MacAddress.Random());
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            return MacAddress.Random();
        }
    }

    /// <summary>The cards with the addresses by which their networks know them, which are kept.</summary>
    /// <param name="networks">From <see cref="Choose"/>.</param>
    /// <param name="handed">Cards by name that another process has put on their networks.</param>
    /// <param name="folder">Where addresses are kept.</param>
    /// <exception cref="LodgeException">They cannot be kept.</exception>
    public static IReadOnlyList<NetworkOption> WithHanded(IReadOnlyList<NetworkOption> networks, IReadOnlyDictionary<string, HandedCard> handed, string folder)
    {
        return [.. networks.Select(Given)];

        NetworkOption Given(NetworkOption card)
        {
            if (card.Mac is not null || !handed.TryGetValue(card.Device ?? "", out HandedCard? given) || !MacAddress.TryParse(given.Tap.Mac, out MacAddress mac))
            {
                return card;
            }
            try
            {
                AtomicFile.Write(MacFile(folder, card), $"{mac}\n");
                return card with { Mac = mac };
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                throw new LodgeException($"the address of a network card cannot be kept in '{folder}': {e.Message}");
            }
        }
    }

    /// <summary>Opens all links.</summary>
    /// <param name="networks">From <see cref="WithAddresses"/>.</param>
    /// <param name="name">The machine's name, which networks tell others.</param>
    /// <param name="late">Whether a user network to which nothing leads from outside may be opened when the guest first sends something: its guest knows its address already.</param>
    /// <exception cref="LodgeException">One cannot be opened.</exception>
    /// <param name="handed">Cards by name whose taps another process has opened.</param>
    public static RunNetworks Open(IReadOnlyList<NetworkOption> networks, string name, bool late = false, IReadOnlyDictionary<string, HandedCard>? handed = null)
    {
        RunNetworks cards = new();
        try
        {
            foreach (NetworkOption option in networks)
            {
                if (option.IsPlace)
                {
                    cards._places.Add(null);
                    continue;
                }
                RunCard card = new(option);
                bool waits = late && option is { Kind: NetworkKind.User, Capture: null } && option.User.Forwards.Count == 0;
                cards._cards = [.. cards._cards, card];
                card.Link = handed is not null && handed.TryGetValue(card.Name, out HandedCard? tap) ? cards.Adopt(card, tap.Tap, tap.Files)
                    : waits ? new DeferredLink(() => cards.OpenWhole(card, name), Tell, OffloadingLink.All, option.User.Mtu + EthernetHeader) : cards.OpenWhole(card, name);
                if (option.Slot is null)
                {
                    cards._places.Add(card);
                }
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

    /// <summary>All cards that there are now.</summary>
    public IReadOnlyList<RunCard> All => _cards;

    /// <summary>Adds those that have a slot of their own to a machine that is being made; before anything takes the next free one.</summary>
    /// <param name="chipset">The machine's.</param>
    /// <param name="processors">Its processors.</param>
    /// <param name="removable">Whether the guest may be asked to eject them.</param>
    /// <exception cref="LodgeException">A slot is taken.</exception>
    public void AddPlaced(Chipset chipset, int processors, bool removable)
    {
        foreach (RunCard card in _cards)
        {
            if (card.Option.Slot is { } slot)
            {
                DevicePlaces.RequireFree(chipset, slot, card.Name);
                chipset.Pci.Add(Function(card, chipset.Memory, processors, removable), slot);
            }
        }
    }

    /// <summary>Adds the cards to a machine that is being made.</summary>
    /// <param name="chipset">The machine's.</param>
    /// <param name="processors">Its processors.</param>
    /// <param name="removable">Whether the guest may be asked to eject them.</param>
    public void AddDevices(Chipset chipset, int processors, bool removable)
    {
        foreach (RunCard? card in _places)
        {
            if (card is null)
            {
                chipset.Pci.SkipPlace();
            }
            else
            {
                chipset.Pci.Add(Function(card, chipset.Memory, processors, removable));
            }
        }
    }

    /// <summary>Ports of the host that lead to the guest.</summary>
    public IReadOnlyList<string> Published => [.. _cards.SelectMany(card => card.Published)];

    /// <summary>
    /// Has the guest tell the networks of the host where its cards are now: their switches know it from before, or not at all. A user network has no switches and knows its guest. Once the machine runs; no effect on
    /// a guest whose driver does not take part.
    /// </summary>
    public void Announce()
    {
        foreach (RunCard card in _cards.Where(card => card.Option.Kind != NetworkKind.User))
        {
            card.Device?.Announce();
        }
    }

    /// <summary>Bytes of frames that the guest received.</summary>
    public long ReceivedBytes => Interlocked.Read(ref _receivedBefore) + _cards.Sum(card => card.Device?.Counters.ReceivedBytes ?? 0);

    /// <summary>Bytes of frames that the guest sent.</summary>
    public long SentBytes => Interlocked.Read(ref _sentBefore) + _cards.Sum(card => card.Device?.Counters.SentBytes ?? 0);

    /// <summary>Plugs a card into a machine that runs.</summary>
    /// <param name="machine">The machine.</param>
    /// <param name="option">What it is to be, with its name and address.</param>
    /// <param name="tap">The tap that was handed over for it; null: it is on a user network.</param>
    /// <param name="files">The tap's open files, which belong to this from now on, also when it fails.</param>
    /// <param name="name">The machine's name.</param>
    /// <param name="slot">A free PCI slot.</param>
    /// <param name="processors">The machine's processors.</param>
    /// <exception cref="NetworkException">Its link cannot be opened.</exception>
    /// <exception cref="ArgumentException">The name is taken.</exception>
    /// <exception cref="InvalidOperationException">The slot is taken, or the machine has ended.</exception>
    public void Attach(VirtualMachine machine, NetworkOption option, ControlTap? tap, IReadOnlyList<SafeFileHandle> files, string name, int slot, int processors)
    {
        RunCard card = new(option);
        try
        {
            card.Link = tap is null ? OpenWhole(card, name) : Adopt(card, tap, files);
            PciFunction function = Function(card, machine.Memory, processors, removable: false);
            lock (_gate)
            {
                _cards = [.. _cards, card];
            }
            try
            {
                machine.Attach(function, slot);
            }
            catch
            {
                Closed(function);
                throw;
            }
        }
        catch
        {
            card.Dispose();
            throw;
        }
    }

    /// <summary>The link of a tap that another process has opened, with all that stands before it.</summary>
    private ILink Adopt(RunCard card, ControlTap tap, IReadOnlyList<SafeFileHandle> files)
    {
        int own = files.Count - (tap.Locked ? 1 : 0);
        card.Lock = tap.Locked && files.Count != 0 ? files[^1] : null;
        TapLink link = TapLink.Adopt([.. files.Take(Math.Max(own, 0))], tap.Name, tap.Vlan);
        FilterOptions filter = FilterOf(card.Option);
        return Decorate(card, link, tap.KnowsAddresses ? filter with { Addresses = [.. tap.Addresses.Select(text => IpPrefix.TryParse(text, out IpPrefix prefix) ? prefix : throw new NetworkException($"address {text} is not usable"))], LearnsAddresses = false } : filter);
    }

    private static FilterOptions FilterOf(NetworkOption option) =>
        new() { Address = option.Mac!.Value, BlocksSpoofing = option.SpoofCheck, Addresses = option.Addresses, LearnsAddresses = option.Addresses.Count == 0, Rules = RulesOf(option) };

    /// <summary>Closes the link of a function that is gone.</summary>
    /// <returns>Its name; null when it is none of these.</returns>
    public string? Closed(PciFunction function)
    {
        lock (_gate)
        {
            if (_cards.FirstOrDefault(card => card.Function == function) is not { } gone)
            {
                return null;
            }
            Interlocked.Add(ref _receivedBefore, gone.Device?.Counters.ReceivedBytes ?? 0);
            Interlocked.Add(ref _sentBefore, gone.Device?.Counters.SentBytes ?? 0);
            _cards = [.. _cards.Where(card => card != gone)];
            gone.Dispose();
            return gone.Name;
        }
    }

    /// <summary>Closes the links; after the machine has been disposed.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            foreach (RunCard card in _cards)
            {
                card.Dispose();
            }
            _cards = [];
            foreach (CaptureFile file in _captures.Values)
            {
                file.Dispose();
            }
            _captures.Clear();
        }
    }

    /// <summary>What the guest sees of a card.</summary>
    private static VirtioPciFunction Function(RunCard card, GuestMemory memory, int processors, bool removable)
    {
        VirtioNetworkConfiguration configuration = new(card.Link!, card.Option.Mac!.Value)
        {
            QueuePairs = card.Option.Queues ?? Math.Min(processors, CommonQueuePairs),
            Mtu = card.Option.Mtu,
            LinkUp = card.Option.LinkUp,
        };
        card.Device = new VirtioNetwork(memory, configuration);
        VirtioPciFunction function = new(card.Name, card.Device, ClassEthernet) { IsRemovable = removable };
        card.Function = function;
        return function;
    }

    private ILink OpenWhole(RunCard card, string name)
    {
        ILink link = OpenLink(card, name, out FilterOptions filter);
        return Decorate(card, link, filter);
    }

    /// <summary>The place where each kind of network opens its link; what the machine may have as its addresses goes with it.</summary>
    private static ILink OpenLink(RunCard card, string name, out FilterOptions filter)
    {
        NetworkOption option = card.Option;
        MacAddress mac = option.Mac!.Value;
        filter = FilterOf(option);
        switch (option.Kind)
        {
            case NetworkKind.User:
                // The default system knows its address without asking for it.
                filter = filter with { Addresses = [.. new[] { option.User.Network, option.User.Network6 }.OfType<IPNetwork>().Select(PrefixOf)], LearnsAddresses = false };
                return OpenUser(card, name);
            case NetworkKind.Tap:
                return TapLink.Open(option.Name, option.Vlan);
            default:
                NetworkAttachment attachment = option.Kind == NetworkKind.Bridge
                    ? NetworkStore.AttachToBridge(option.Name, mac, name, option.Vlan)
                    : NetworkStore.OfHost().Attach(option.Name, mac, name);
                card.Attachment = attachment;
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

    private static UserLink OpenUser(RunCard card, string name)
    {
        NetworkOption option = card.Option;
        UserLink link = UserNetwork.Open(option.User with { HostName = name, GuestMac = option.Mac!.Value });
        card.Published = [.. link.Forwards.Select(forward => forward.ToString()!)];
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
    private ILink Decorate(RunCard card, ILink link, FilterOptions filter)
    {
        NetworkOption option = card.Option;
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
                link = new CapturedLink(link, file, card.Name, option.Mac!.Value, ownsFile: false);
            }
            return new OffloadingLink(link, trusted: option.Kind == NetworkKind.User);
        }
        catch
        {
            link.Dispose();
            throw;
        }
    }

    private static string MacFile(string folder, NetworkOption card) => Path.Combine(folder, card.IsNamed ? $"mac-{card.Device}" : card.Device!.Replace("net", "mac", StringComparison.Ordinal));

    /// <summary>The address of a named machine's card: random the first time, then the same.</summary>
    private static MacAddress KeptMac(string name, string? folder, NetworkOption card)
    {
        if (folder is null)
        {
            return MacAddress.Random();
        }
        string path = MacFile(folder, card);
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
