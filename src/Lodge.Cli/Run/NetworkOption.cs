using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Lodge.Network;
using Lodge.Network.Filters;
using Lodge.Network.Limits;
using Lodge.Network.Packets;
using Lodge.Network.User;

namespace Lodge.Cli.Run;

/// <summary>What a network card is plugged into.</summary>
internal enum NetworkKind
{
    /// <summary>No card.</summary>
    None,

    /// <summary>User-mode networking, without root.</summary>
    User,

    /// <summary>A tap that exists.</summary>
    Tap,

    /// <summary>A bridge of the host.</summary>
    Bridge,

    /// <summary>A network that Lodge keeps.</summary>
    Named,
}

/// <summary>A network card that <c>--net</c> asked for.</summary>
internal sealed record NetworkOption
{
    /// <summary>What it is plugged into.</summary>
    public required NetworkKind Kind { get; init; }

    /// <summary>Name of the tap, bridge or network; empty for the others.</summary>
    public string Name { get; init; } = "";

    /// <summary>The card's address; null: one that is kept with a named machine, or random.</summary>
    public MacAddress? Mac { get; init; }

    /// <summary>MTU that the guest is told; null: the network's.</summary>
    public int? Mtu { get; init; }

    /// <summary>Pairs of queues; null: one for each processor, at most 8.</summary>
    public int? Queues { get; init; }

    /// <summary>802.1Q tag on the tap; 0: none.</summary>
    public int Vlan { get; init; }

    /// <summary>Limits of its traffic.</summary>
    public LinkLimits Limits { get; init; } = LinkLimits.None;

    /// <summary>Rules for what the machine sends and receives, in their order, as <see cref="FilterRules.Parse"/> takes them.</summary>
    public IReadOnlyList<FilterRule> Rules { get; init; } = [];

    /// <summary>Whether the machine may only use its own addresses.</summary>
    public bool SpoofCheck { get; init; } = true;

    /// <summary>Addresses that the machine has on a tap or bridge; none: those that it gets by DHCP or makes from a router's prefix.</summary>
    public IReadOnlyList<IpPrefix> Addresses { get; init; } = [];

    /// <summary>File that gets what passes, or null.</summary>
    public string? Capture { get; init; }

    /// <summary>Whether the cable is plugged in.</summary>
    public bool LinkUp { get; init; } = true;

    /// <summary>Its name in the machine; null: <c>net</c> and its place among those without a name.</summary>
    public string? Device { get; init; }

    /// <summary>Whether the name was given.</summary>
    public bool IsNamed { get; init; }

    /// <summary>PCI slot that it gets; null: the next.</summary>
    public int? Slot { get; init; }

    /// <summary>No card: the place of one that was detached, so that those after it keep their names and slots.</summary>
    public bool IsPlace { get; init; }

    /// <summary>Set-up of a user network; its host name and address of the guest's card are not filled in.</summary>
    public UserNetworkOptions User { get; init; } = new();

    /// <summary>A user network with the defaults.</summary>
    public static NetworkOption DefaultUser { get; } = new() { Kind = NetworkKind.User, Device = DevicePlaces.Card(0) };

    /// <summary>What to call it in messages.</summary>
    public string Title => Kind switch
    {
        NetworkKind.Tap => $"tap={Name}",
        NetworkKind.Bridge => $"bridge={Name}",
        NetworkKind.Named => Name,
        NetworkKind.User => "user",
        _ => "none",
    };

    /// <summary>Parses <c>user|none|NETWORK|tap=NAME|bridge=NAME[,NAME=VALUE...]</c>.</summary>
    /// <exception cref="FormatException">It is not understood; the message says what to write instead.</exception>
    public static NetworkOption Parse(string text)
    {
        List<string> parts = OptionWords.Split(text);
        NetworkOption option = KindOf(parts[0], text);
        foreach (string part in parts.Skip(1))
        {
            if (option.Kind == NetworkKind.None)
            {
                if (part == DevicePlaces.PlaceWord)
                {
                    return option with { IsPlace = true };
                }
                throw new FormatException("--net none has no card and no options");
            }
            (string name, string value) = OptionWords.Pair(part);
            option = option.With(name, value);
        }
        try
        {
            option.Limits.Check();
            (option.User with { GuestMac = option.Mac ?? MacAddress.Random() }).Check();
        }
        catch (NetworkException e)
        {
            throw new FormatException(e.Message);
        }
        return option;
    }

    private static NetworkOption KindOf(string text, string all)
    {
        (string kind, string name) = text.IndexOf('=', StringComparison.Ordinal) is >= 0 and var equals ? (text[..equals], text[(equals + 1)..]) : (text, "");
        NetworkOption option = new()
        {
            Name = name,
            Kind = (kind, name) switch
            {
                ("user", "") => NetworkKind.User,
                ("none", "") => NetworkKind.None,
                ("tap", not "") => NetworkKind.Tap,
                ("bridge", not "") => NetworkKind.Bridge,
                ("tap" or "bridge", _) => throw new FormatException($"--net {all} names no interface; write it as --net {kind}=NAME"),
                (not "", "") when kind == text => NetworkKind.Named,
                _ => throw new FormatException($"network '{all}' is not understood; give user, none, the name of a network, tap=NAME or bridge=NAME"),
            },
        };
        return option.Kind == NetworkKind.Named ? option with { Name = kind } : option;
    }

    private NetworkOption With(string name, string value)
    {
        switch (name)
        {
            case "mac":
                return MacAddress.TryParse(value, out MacAddress mac) && !mac.IsMulticast && mac.Value != 0
                    ? this with { Mac = mac }
                    : throw new FormatException($"MAC address '{value}' of a network card is not possible; write one of a station as 52:54:00:12:34:56");
            case "name":
                return this with { Device = DevicePlaces.CheckName(value), IsNamed = true };
            case "slot":
                return this with { Slot = DevicePlaces.CheckSlot(value) };
            case "model":
                return value == "virtio" ? this : throw new FormatException($"model '{value}' of a network card is not known; there is virtio");
            case "mtu":
                int mtu = Number(name, value, 68, ushort.MaxValue);
                if (Kind == NetworkKind.User && mtu is < 1280 or > UserNetworkOptions.MaximumMtu)
                {
                    throw new FormatException($"MTU {value} of a user network is not possible; give 1280 to {UserNetworkOptions.MaximumMtu}");
                }
                return this with { Mtu = mtu, User = Kind == NetworkKind.User ? User with { Mtu = mtu } : User };
            case "queues":
                return this with { Queues = Number(name, value, 1, RunNetworks.MaximumQueuePairs) };
            case "capture":
                return this with { Capture = value.Length != 0 && value != "on" ? value : throw new FormatException("capture= of a network has no file") };
            case "link":
                return this with
                {
                    LinkUp = value switch
                    {
                        "up" => true,
                        "down" => false,
                        _ => OptionWords.Switch("network", name, value),
                    },
                };
            case "allow" or "deny":
                return this with { Rules = [.. Rules, RuleOf(name, value)] };
            case "spoof-check":
                return this with { SpoofCheck = OptionWords.Switch("network", name, value) };
            case "address" when Kind is NetworkKind.Tap or NetworkKind.Bridge or NetworkKind.Named:
                return IpPrefix.TryParse(value, out IpPrefix prefix)
                    ? this with { Addresses = [.. Addresses, prefix] }
                    : throw new FormatException($"address '{value}' of a network card is not understood; write it as 192.0.2.7, 192.0.2.0/28 or 2001:db8::7");
            case "vlan" when Kind == NetworkKind.Tap:
                return this with { Vlan = Number(name, value, 1, 4094) };
            case var limit when LinkLimits.Names.Contains(limit):
                return this with { Limits = Understood(() => Limits.With(limit, value)) };
            case "publish" when Kind == NetworkKind.User:
                return this with { User = User with { Forwards = [.. User.Forwards, .. PortForward.Parse(value)] } };
            case "subnet" when Kind == NetworkKind.User:
                return this with { User = User with { Network = NetworkOf(value, AddressFamily.InterNetwork, "10.0.2.0/24") } };
            case "ipv6" when Kind == NetworkKind.User:
                return this with { User = User with { Network6 = value is "off" or "no" ? null : value is "on" or "yes" ? new UserNetworkOptions().Network6 : NetworkOf(value, AddressFamily.InterNetworkV6, "fec0::/64") } };
            case "host-loopback" when Kind == NetworkKind.User:
                return this with { User = User with { HostLoopback = OptionWords.Switch("network", name, value) } };
            case "restrict" when Kind == NetworkKind.User:
                return this with { User = User with { Restricted = OptionWords.Switch("network", name, value) } };
            case "vlan" or "address" or "publish" or "subnet" or "ipv6" or "host-loopback" or "restrict":
                throw new FormatException($"network option '{name}' is not for --net {Title}; it is for {(name switch { "vlan" => "tap=", "address" => "tap= and bridge=", _ => "user" })}");
            default:
                throw new FormatException(
                    $"network option '{name}' is not known; there are name, slot, mac, model, mtu, queues, link, capture, allow, deny, spoof-check, {string.Join(", ", LinkLimits.Names)}, "
                    + "for user publish, subnet, ipv6, host-loopback, restrict, for tap vlan, for tap and bridge address");
        }
    }

    /// <summary>
    /// A rule: <c>[in|out] [PROTOCOL] [REMOTE] [PORTS]</c>, without a direction for what the machine sends.
    /// </summary>
    /// <param name="action"><c>allow</c> or <c>deny</c>.</param>
    /// <exception cref="FormatException">It is none.</exception>
    public static FilterRule RuleOf(string action, string value)
    {
        string text = value.Trim();
        string first = text.Split(' ')[0];
        return text.Length != 0 && text != "on"
            ? Understood(() => FilterRule.Parse(first is "in" or "out" ? $"{action} {text}" : $"{action} out {text}"))
            : throw new FormatException($"--{action} has no rule; write it as 'tcp 192.0.2.0/24 80,443', '10.0.0.0/8' or 'in udp any 53'");
    }

    private static IPNetwork NetworkOf(string value, AddressFamily family, string example) =>
        IPNetwork.TryParse(value, out IPNetwork network) && network.BaseAddress.AddressFamily == family
            ? network
            : throw new FormatException($"network '{value}' is not understood; write it as {example}");

    private static int Number(string name, string value, int least, int most) =>
        int.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out int number) && number >= least && number <= most
            ? number
            : throw new FormatException($"network option {name}={value} is out of range; give {least} to {most}");

    private static T Understood<T>(Func<T> parse)
    {
        try
        {
            return parse();
        }
        catch (NetworkException e)
        {
            throw new FormatException(e.Message);
        }
    }
}
