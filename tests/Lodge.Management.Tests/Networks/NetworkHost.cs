using System.Diagnostics;
using Lodge.Management.Networks;
using Lodge.Network.Tests.Harness;

namespace Lodge.Management.Tests.Networks;

/// <summary>A host of the test's own: a namespace with a store of networks, and a server in another namespace that is the world outside (192.0.2.1, host 192.0.2.2).</summary>
internal sealed class NetworkHost : IDisposable
{
    public const string Outside = "192.0.2.1", OutsideV6 = "2001:db8::1";

    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-networks-").FullName;
    private readonly NetworkNamespace _world = new();
    private readonly Process _keeper;

    private NetworkHost(NetworkNamespace space)
    {
        Space = space;
        File.SetUnixFileMode(_folder, (UnixFileMode)0b111_101_101); // dnsmasq reads it as its own user
        Store = new NetworkStore(Path.Combine(_folder, "networks"));
        _keeper = _world.Start("exec sleep 600");
        space.Shell($"ip link add up0 type veth peer name world netns {_keeper.Id}; echo 0 >/proc/sys/net/ipv6/conf/up0/accept_dad; "
            + "ip addr add 192.0.2.2/24 dev up0; ip addr add 2001:db8::2/64 dev up0 nodad; ip link set up0 up; ip route add default via 192.0.2.1");
        _world.Shell("ip addr add 192.0.2.1/24 dev world; ip addr add 2001:db8::1/64 dev world nodad; ip link set world up");
    }

    public NetworkNamespace Space { get; }

    public NetworkNamespace World => _world;

    public NetworkStore Store { get; }

    public string Folder => Store.Folder;

    /// <summary>Runs a test on a host of its own; skips it where that is not possible.</summary>
    public static void Test(Action<NetworkHost> body)
    {
        NetworkNamespace.Need(("nft", "nftables"), ("dnsmasq", "dnsmasq-base"), ("busybox", "busybox"));
        NetworkNamespace.Test(space =>
        {
            using NetworkHost host = new(space);
            body(host);
        });
    }

    /// <summary>All that networks leave on a host: interfaces, rules, servers.</summary>
    public string Traces() => Space.Shell("ip -o link show | sed -n '/up0\\|lo:/!s/<.*//p'; nft list ruleset") + string.Join('\n', Servers().Select(process => $"dnsmasq {process}"));

    /// <summary>The DHCP servers of this store.</summary>
    public IReadOnlyList<int> Servers() =>
    [
        .. Directory.EnumerateDirectories("/proc").Select(Path.GetFileName).Select(name => int.TryParse(name, out int process) ? process : 0)
            .Where(process => process != 0 && CommandLine(process).Contains($"--conf-file={Path.GetFullPath(Folder)}/", StringComparison.Ordinal)),
    ];

    public void Dispose()
    {
        foreach (int server in Servers())
        {
            Process.GetProcessById(server).Kill();
        }
        _keeper.Kill();
        _keeper.Dispose();
        _world.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    private static string CommandLine(int process)
    {
        try
        {
            return File.ReadAllText($"/proc/{process}/cmdline");
        }
        catch (IOException)
        {
            return "";
        }
    }
}
