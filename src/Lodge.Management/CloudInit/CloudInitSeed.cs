using System.Text;
using System.Text.Json;
using Lodge.Management.Images;

namespace Lodge.Management.CloudInit;

/// <summary>
/// What cloud-init's data source NoCloud reads at boot from a small disk labelled <c>cidata</c> (cloud-init documentation, "NoCloud"). Lodge's own part, the command
/// service and the login on the consoles, is the vendor data, so that it stands beside whatever user data the user gives.
/// </summary>
public sealed record CloudInitSeed
{
    /// <summary>Largest file of a seed in bytes.</summary>
    public const int LargestFile = 16 << 20;

    /// <summary>Label of the disk's file system.</summary>
    public const string Label = "cidata";

    /// <summary>Word for the kernel's command line: cloud-init uses a seed's disk and looks for no cloud, also where its disk appears only after it has looked.</summary>
    public const string KernelArgument = "ds=nocloud";

    /// <summary>Who the machine is, YAML: <c>instance-id</c>, <c>local-hostname</c>, <c>public-keys</c>.</summary>
    public required byte[] MetaData { get; init; }

    /// <summary>What the user wants, in one of cloud-init's forms.</summary>
    public required byte[] UserData { get; init; }

    /// <summary>Lodge's own part; empty for none.</summary>
    public byte[] VendorData { get; init; } = [];

    /// <summary>Network configuration, YAML of version 1 or 2; null: cloud-init configures the first card by DHCP.</summary>
    public byte[]? NetworkConfig { get; init; }

    /// <summary>The files of the disk.</summary>
    public IReadOnlyList<(string Name, byte[] Contents)> Files =>
    [
        ("meta-data", MetaData),
        ("user-data", UserData),
        .. VendorData.Length == 0 ? [] : (ReadOnlySpan<(string, byte[])>)[("vendor-data", VendorData)],
        .. NetworkConfig is null ? [] : (ReadOnlySpan<(string, byte[])>)[("network-config", NetworkConfig)],
    ];

    /// <summary>Meta data of a machine. The instance's name stays the same for a name, so that a machine whose disk is kept is not set up anew.</summary>
    /// <param name="name">Name of the machine, its host name.</param>
    /// <param name="authorizedKeys">SSH public keys for the distribution's user.</param>
    public static byte[] DefaultMetaData(string name, IReadOnlyList<string> authorizedKeys) =>
        JsonSerializer.SerializeToUtf8Bytes(new SeedMetaData("lodge-" + name, name, authorizedKeys), SeedJson.Default.SeedMetaData);

    /// <summary>User data when the user gives none: names resolve, and cards that are added to a kept machine are configured at its next boot.</summary>
    public static byte[] DefaultUserData() => "#cloud-config\nmanage_etc_hosts: localhost\nupdates:\n  network:\n    when: [boot-new-instance, boot]\n"u8.ToArray();

    /// <summary>DHCP for IPv4 and router advertisements for IPv6 on cards of the given addresses, named eth0, eth1 and so on.</summary>
    /// <remarks>None is optional: systemd-networkd-wait-online waits in vain where all are, and user data may need the network.</remarks>
    /// <param name="addresses">MAC addresses as <c>52:54:00:12:34:56</c>, in the order of the cards.</param>
    public static byte[] DefaultNetworkConfig(IReadOnlyList<string> addresses)
    {
        Dictionary<string, SeedCard> cards = [];
        for (int i = 0; i < addresses.Count; i++)
        {
            cards.Add($"eth{i}", new SeedCard(new SeedMatch(addresses[i].ToLowerInvariant()), $"eth{i}", true));
        }
        return JsonSerializer.SerializeToUtf8Bytes(new SeedNetwork(2, cards), SeedJson.Default.SeedNetwork);
    }

    /// <summary>
    /// Vendor data that puts the command service and root's login on the consoles into the guest. It is a boot hook: it runs at every boot, early, and whatever modules
    /// the user data configures.
    /// </summary>
    public static byte[] CommandService()
    {
        StringBuilder script = new("#cloud-boothook\n#!/bin/sh\n# Lodge: the command of lodge run, and root's login on the machine's own consoles.\numask 022\n");
        foreach (GuestFile file in (IEnumerable<GuestFile>)[.. GuestFiles.Command, .. GuestFiles.Login])
        {
            script.Append($"mkdir -p '/{Path.GetDirectoryName(file.Path)}'\ncat >'/{file.Path}' <<'LODGE-END-OF-FILE'\n{file.Contents}LODGE-END-OF-FILE\n");
            script.Append(file.Executable ? $"chmod 755 '/{file.Path}'\n" : "");
        }
        // A unit whose device is not there would wait for it; when it appears, what was enabled starts by itself.
        script.Append($"""
            [ -d /run/systemd/system ] || exit 0
            modprobe -q virtio_console
            udevadm settle --timeout=10
            systemctl --quiet enable {GuestFiles.CommandService} serial-getty@hvc0.service
            systemctl daemon-reload
            [ ! -e /dev/virtio-ports/lodge.command ] || systemctl --no-block start {GuestFiles.CommandService}
            [ ! -e /dev/hvc0 ] || systemctl --no-block start serial-getty@hvc0.service
            exit 0

            """);
        return Encoding.ASCII.GetBytes(script.ToString());
    }
}
