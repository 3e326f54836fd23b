using System.Net;
using Lodge.Cli.Console;
using Lodge.Management.Control;
using Lodge.Management.Networks;
using Lodge.Network;
using Lodge.Network.Taps;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Cli.Run;

/// <summary>A card's place on a network of the host, made by a command for the process of a machine, which has not the rights to do it and gets what is open.</summary>
internal sealed class HostCard : IDisposable
{
    private readonly TapLink? _link;
    private readonly NetworkAttachment? _attachment;

    private HostCard(TapLink? link, NetworkAttachment? attachment, ControlTap tap) => (_link, _attachment, Tap) = (link, attachment, tap);

    /// <summary>What the process is told of it.</summary>
    public ControlTap Tap { get; }

    /// <summary>What it is given.</summary>
    public IReadOnlyList<SafeFileHandle> Handles => _attachment?.Handles ?? _link!.Handles;

    /// <summary>Makes the place of a card.</summary>
    /// <param name="option">The card, on a tap, a bridge or a named network, with its address.</param>
    /// <param name="machine">The machine's name.</param>
    /// <param name="process">The machine's process, if it is there already.</param>
    /// <exception cref="NetworkException">The host has no such tap, or refuses.</exception>
    /// <exception cref="Management.ManagementException">There is no such network, or the host refuses.</exception>
    public static HostCard Open(NetworkOption option, string machine, int? process)
    {
        if (option.Kind == NetworkKind.Tap)
        {
            TapLink link = TapLink.Open(option.Name, option.Vlan);
            return new HostCard(link, null, new ControlTap(link.Name, link.Vlan, KnowsAddresses: false, [], option.Mac!.Value.ToString(), Locked: false));
        }
        NetworkAttachment attachment = option.Kind == NetworkKind.Bridge
            ? NetworkStore.AttachToBridge(option.Name, option.Mac!.Value, machine, option.Vlan)
            : NetworkStore.OfHost().Attach(option.Name, option.Mac!.Value, machine, process);
        try
        {
            foreach (string note in attachment.Notes)
            {
                HostFile.Error($"lodge: {note}");
            }
            if (attachment.KnowsAddresses && option.Addresses.Count != 0)
            {
                throw new NetworkException($"network '{option.Name}' gives its machines their addresses; fix one with 'lodge network create --lease {option.Mac}=ADDRESS'");
            }
            string[] addresses = [.. new[] { attachment.Address, attachment.Address6 }.OfType<IPAddress>().Select(address => address.ToString())];
            return new HostCard(null, attachment, new ControlTap(attachment.Link.Name, attachment.Link.Vlan, attachment.KnowsAddresses, addresses, option.Mac!.Value.ToString(), attachment.IsLocked));
        }
        catch
        {
            attachment.Dispose();
            throw;
        }
    }

    /// <summary>The process has it now.</summary>
    /// <param name="process">Its number, if it was not known before.</param>
    public void Taken(int? process)
    {
        _attachment?.Taken();
        if (process is { } number && _attachment is { IsLocked: true })
        {
            NetworkStore.OfHost().SetProcess(_attachment, number);
        }
    }

    /// <summary>Closes it here; takes the card off its network if nobody else has it.</summary>
    public void Dispose()
    {
        _link?.Dispose();
        _attachment?.Dispose();
    }
}
