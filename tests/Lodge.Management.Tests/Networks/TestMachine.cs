using Lodge.Management.Networks;
using Lodge.Network.Links;
using Lodge.Network.Packets;
using Lodge.Network.Taps;
using Lodge.Network.Tests.Harness;

namespace Lodge.Management.Tests.Networks;

/// <summary>
/// A machine without a virtual computer: its card is the tap <c>eth0</c> of a namespace whose kernel is the guest. A thread carries frames between it and the
/// link under test, with all offloads.
/// </summary>
internal sealed class TestMachine : IDisposable
{
    private const OffloadFeatures All =
        OffloadFeatures.Checksum | OffloadFeatures.TcpV4 | OffloadFeatures.TcpV6 | OffloadFeatures.TcpEcn | OffloadFeatures.UdpSegmentation;

    private readonly TapLink _card;
    private readonly Thread _carrier;
    private readonly AutoResetEvent _wake = new(false);
    private readonly string _files = Directory.CreateTempSubdirectory("lodge-machine-").FullName;
    private volatile bool _ended;

    public TestMachine(NetworkAttachment attachment)
    {
        Attachment = attachment;
        Space = new NetworkNamespace();
        _card = Space.Get(() => TapLink.Create("eth0"));
        // Quiet: no addresses of its own making, no search for duplicates that takes a second.
        Space.Shell($"echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip link set eth0 address {attachment.Mac} up");
        string resolver = Path.Combine(_files, "resolv.conf"), names = Path.Combine(_files, "nsswitch.conf");
        File.WriteAllText(resolver, "");
        File.WriteAllText(names, "hosts: dns\n");
        Space.Bind(resolver, "/etc/resolv.conf");
        if (File.Exists("/etc/nsswitch.conf"))
        {
            Space.Bind(names, "/etc/nsswitch.conf");
        }
        File.WriteAllText(Path.Combine(_files, "dhcp"), $"""
            #!/bin/sh
            [ "$1" = bound ] || [ "$1" = renew ] || exit 0
            ip addr flush dev eth0 scope global
            ip addr add $ip/$mask dev eth0
            [ -z "$mtu" ] || ip link set eth0 mtu $mtu
            for i in $router; do ip route add default via $i; done
            echo "search $search $domain" >{resolver}
            for i in $dns; do echo "nameserver $i" >>{resolver}; done
            echo "options timeout:2 attempts:2" >>{resolver}
            """);
        File.SetUnixFileMode(Path.Combine(_files, "dhcp"), UnixFileMode.UserRead | UnixFileMode.UserExecute);
        _carrier = new Thread(Carry) { IsBackground = true, Name = "carrier" };
        _carrier.Start();
    }

    public NetworkAttachment Attachment { get; }

    public NetworkNamespace Space { get; }

    /// <summary>Attaches a machine of a name with a random MAC address.</summary>
    public static TestMachine On(NetworkStore store, string network, string name) => new(store.Attach(network, MacAddress.Random(), name));

    /// <summary>Gets an address as a guest does. Returns what the client printed.</summary>
    public string Dhcp() => Space.Shell($"busybox udhcpc -f -q -n -t 15 -T 1 -i eth0 -s {_files}/dhcp -O search -O mtu");

    /// <summary>Whether a host answers.</summary>
    public bool Reaches(object host) => Space.Try($"busybox ping -c 1 -W 10 {host}").Status == 0;

    /// <summary>Whether a host, which is expected not to, answers none of several.</summary>
    public bool NeverReaches(object host) => Space.Try($"busybox ping -c 3 -i 0.1 -W 1 {host}").Text.Contains(" 0 packets received");

    /// <summary>The IPv4 address of a name.</summary>
    public string Resolve(string name) => Space.Try($"getent ahostsv4 {name} | sed -n '1s/ .*//p'").Text.Trim();

    public void Dispose()
    {
        _ended = true;
        _wake.Set();
        _carrier.Join();
        Attachment.Dispose();
        _card.Dispose();
        Space.Dispose();
        Directory.Delete(_files, recursive: true);
    }

    private void Carry()
    {
        TapLink link = Attachment.Link;
        byte[] buffer = new byte[65562];
        link.AcceptOffloads(All);
        _card.AcceptOffloads(All);
        link.Connect(() => _wake.Set());
        _card.Connect(() => _wake.Set());
        while (!_ended)
        {
            bool moved = Move(link, _card, buffer);
            moved |= Move(_card, link, buffer);
            if (!moved)
            {
                _wake.WaitOne();
            }
        }
    }

    private static bool Move(ILink from, ILink to, byte[] buffer)
    {
        int length = from.TryReceive(buffer, out FrameOffload offload);
        return length != 0 && (to.TrySend(buffer.AsSpan(0, length), offload) || true);
    }
}
