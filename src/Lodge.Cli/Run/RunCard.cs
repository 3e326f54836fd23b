using Lodge.Machine.Devices.Virtio.Network;
using Lodge.Machine.Pci;
using Lodge.Management.Networks;
using Lodge.Network.Links;
using Microsoft.Win32.SafeHandles;

namespace Lodge.Cli.Run;

/// <summary>A network card of a machine that is there.</summary>
/// <param name="Option">What was asked for, with its address and its name.</param>
internal sealed record RunCard(NetworkOption Option) : IDisposable
{
    /// <summary>Its name in the machine.</summary>
    public string Name => Option.Device!;

    /// <summary>What it is plugged into.</summary>
    public ILink? Link { get; set; }

    /// <summary>The card itself.</summary>
    public VirtioNetwork? Device { get; set; }

    /// <summary>The function that the guest sees.</summary>
    public PciFunction? Function { get; set; }

    /// <summary>Its place on a network of the host.</summary>
    public NetworkAttachment? Attachment { get; set; }

    /// <summary>Ports of the host that lead to the guest through it.</summary>
    public IReadOnlyList<string> Published { get; set; } = [];

    /// <summary>The lock that says to others that the card is on its network, of one that another process has put there.</summary>
    public SafeFileHandle? Lock { get; set; }

    /// <summary>Takes it off its network.</summary>
    public void Dispose()
    {
        Link?.Dispose();
        Lock?.Dispose();
        Attachment?.Dispose();
    }
}
