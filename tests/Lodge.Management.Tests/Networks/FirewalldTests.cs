using System.Diagnostics;
using Lodge.Management.Networks;
using Lodge.Network.Tests.Harness;
using Xunit;

namespace Lodge.Management.Tests.Networks;

/// <summary>Named networks on a host with firewalld as it is after its installation: all interfaces in the zone <c>public</c>, which lets in SSH and little else, and passes nothing on.</summary>
public class FirewalldTests
{
    private static readonly TimeSpan Moment = TimeSpan.FromSeconds(1), Long = TimeSpan.FromSeconds(20);

    [Fact]
    public void Machines_on_a_nat_network_reach_the_world_but_no_more_of_the_host_than_they_need()
    {
        Test((host, _) =>
        {
            host.Space.Shell("firewall-cmd --zone=trusted --add-interface=none; firewall-cmd --zone=trusted --remove-interface=none"); // a zone keeps its chains from its first use on
            string before = host.Traces();
            NetworkDefinition network = host.Store.Create(new NetworkRequest { Name = "lab" }).Network;
            Assert.Equal("trusted", Zone(host));
            using (TestMachine web = TestMachine.On(host.Store, "lab", "web"), db = TestMachine.On(host.Store, "lab", "db"))
            {
                web.Dhcp();
                db.Dhcp();
                Assert.Equal($"{db.Attachment.Address}", web.Resolve("db"));
                Assert.True(web.Reaches(network.Subnet!.Gateway));
                Assert.True(web.Reaches(NetworkHost.Outside));
                web.Space.Shell($"ip addr add {web.Attachment.Address6}/64 dev eth0 nodad; ip route add default via {network.Subnet6!.Gateway}");
                Assert.True(web.Reaches(NetworkHost.OutsideV6));

                // What the administrator closed is closed for machines too, on whichever of the host's addresses; the host comes in.
                using TestServer service = new(host.Space, 8000, [1, 2, 3]), inside = new(web.Space, 8000, [4, 5, 6]), outside = new(host.World, 8000, [7]);
                Assert.Equal([7], TestServer.Fetch(web.Space, NetworkHost.Outside, 8000, Long));
                Assert.Null(TestServer.Fetch(web.Space, $"{network.Subnet.Gateway}", 8000, Moment));
                Assert.Null(TestServer.Fetch(web.Space, "192.0.2.2", 8000, Moment));
                Assert.Equal([4, 5, 6], TestServer.Fetch(host.Space, $"{web.Attachment.Address}", 8000, Long));
                host.World.Shell($"ip route add {network.Subnet} via 192.0.2.2");
                Assert.Null(TestServer.Fetch(host.World, $"{web.Attachment.Address}", 8000, Moment));

                // A reload forgets what is not permanent; the next command on the network does it again.
                host.Space.Shell("firewall-cmd --reload");
                Assert.Equal("no zone", Zone(host));
                Assert.True(web.NeverReaches(NetworkHost.Outside));
                Assert.Equal("up", Assert.Single(host.Store.List(out IReadOnlyList<string> _)).State);
                Assert.True(web.Reaches(NetworkHost.Outside));
                Assert.Null(TestServer.Fetch(web.Space, "192.0.2.2", 8000, Moment));
                db.Attachment.Dispose(); // one that leaves changes nothing for the other
                Assert.Null(TestServer.Fetch(web.Space, "192.0.2.2", 8000, Moment));
                Assert.Equal([4, 5, 6], TestServer.Fetch(host.Space, $"{web.Attachment.Address}", 8000, Long));
            }
            host.Store.Remove("lab", force: false);
            Assert.Equal("no zone", Zone(host));
            Assert.Equal(before, host.Traces());
            Assert.DoesNotContain("lodge", host.Space.Shell("firewall-cmd --list-all-zones; firewall-cmd --permanent --list-all-zones"));
        });
    }

    [Fact]
    public void An_isolated_network_stays_isolated()
    {
        Test((host, _) =>
        {
            NetworkDefinition network = host.Store.Create(new NetworkRequest { Name = "lab", Kind = NetworkKind.Isolated }).Network;
            host.Store.Create(new NetworkRequest { Name = "open" }); // switches forwarding on
            using TestServer service = new(host.Space, 8000, [1, 2, 3]);
            using TestMachine one = TestMachine.On(host.Store, "lab", "one"), two = TestMachine.On(host.Store, "lab", "two"), other = TestMachine.On(host.Store, "open", "other");
            one.Dhcp();
            two.Dhcp();
            other.Dhcp();
            one.Space.Shell($"ip route add default via {network.Subnet!.Gateway}");
            Assert.True(one.Reaches(one.Resolve("two")));
            Assert.True(one.Reaches(network.Subnet.Gateway));
            Assert.True(other.Reaches(NetworkHost.Outside));
            Assert.True(one.NeverReaches(NetworkHost.Outside));
            Assert.True(one.NeverReaches(other.Attachment.Address!));
            Assert.True(other.NeverReaches(one.Attachment.Address!));
            Assert.Null(TestServer.Fetch(one.Space, $"{network.Subnet.Gateway}", 8000, Moment));
        });
    }

    [Fact]
    public void A_zone_that_the_administrator_chose_for_the_bridge_decides()
    {
        Test((host, _) =>
        {
            host.Space.Shell("firewall-cmd --zone=internal --add-interface=lodge-lab; firewall-cmd --zone=internal --add-service=dhcp; firewall-cmd --zone=internal --add-port=8000/tcp");
            NetworkDefinition network = host.Store.Create(new NetworkRequest { Name = "lab" }).Network;
            using (TestServer service = new(host.Space, 8000, [1, 2, 3]))
            using (TestMachine machine = TestMachine.On(host.Store, "lab", "one"))
            {
                machine.Dhcp();
                Assert.Equal([1, 2, 3], TestServer.Fetch(machine.Space, $"{network.Subnet!.Gateway}", 8000, Long));
                Assert.True(machine.NeverReaches(NetworkHost.Outside));
            }
            host.Store.Remove("lab", force: false);
            Assert.Equal("internal", Zone(host));
        });
    }

    [Fact]
    public void When_firewalld_was_killed_and_its_rules_stand_one_line_says_so_and_nothing_is_left()
    {
        Test((host, firewalld) =>
        {
            firewalld.Kill();
            firewalld.WaitForExit();
            string before = host.Traces();
            Assert.Equal("the bridge of network 'lab' cannot be put into a zone of firewalld: firewall-cmd says: FirewallD is not running",
                Assert.Throws<ManagementException>(() => host.Store.Create(new NetworkRequest { Name = "lab" })).Message);
            Assert.Equal(before, host.Traces());
            Assert.Empty(host.Store.List(out IReadOnlyList<string> _));
        });
    }

    private static string Zone(NetworkHost host) => host.Space.Try("firewall-cmd --get-zone-of-interface=lodge-lab").Text.Trim();

    /// <summary>Runs a test on a host of its own with a bus and firewalld of its own, which sees none of this host's configuration.</summary>
    private static void Test(Action<NetworkHost, Process> body)
    {
        NetworkNamespace.Need(("firewalld", "firewalld"), ("dbus-daemon", "dbus-daemon"));
        NetworkHost.Test(host =>
        {
            host.Space.Shell("""
                for folder in /run /var/log /etc/firewalld; do mount -t tmpfs none $folder; done
                mkdir -p /run/dbus /run/lock
                cat >/run/bus.conf <<END
                <busconfig>
                  <type>system</type>
                  <listen>unix:path=/run/dbus/system_bus_socket</listen>
                  <auth>EXTERNAL</auth>
                  <policy context="default"><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow user="*"/></policy>
                </busconfig>
                END
                """);
            using Process bus = host.Space.Start("exec dbus-daemon --config-file=/run/bus.conf --nofork --nopidfile >/run/bus.log");
            Process? firewalld = null;
            try
            {
                Wait(host, "[ -S /run/dbus/system_bus_socket ]");
                firewalld = host.Space.Start("exec firewalld --nofork --nopid >/run/firewalld.log");
                Wait(host, "firewall-cmd --state");
                body(host, firewalld);
            }
            finally
            {
                foreach (Process process in new[] { firewalld, bus }.OfType<Process>())
                {
                    process.Kill();
                    process.WaitForExit();
                }
                firewalld?.Dispose();
            }
        });
    }

    private static void Wait(NetworkHost host, string condition) =>
        host.Space.Shell($"for i in $(seq 300); do {condition} >/dev/null && exit 0; sleep 0.1; done; cat /run/*.log; exit 1");
}
