using Lodge.Management.Networks;
using Lodge.Network.Packets;
using Lodge.Network.Taps;
using Xunit;

namespace Lodge.Management.Tests.Networks;

public class NamedNetworkTests
{
    /// <summary>What Docker sets: packets that are passed on are dropped by default.</summary>
    private const string DockerRules =
        "nft 'table ip filter { chain DOCKER-USER { }; chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }; }'; "
        + "nft 'table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'; "
        + "nft 'table ip filter { chain INPUT { type filter hook input priority 0; policy drop; }; }'";

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Machines_on_a_nat_network_reach_each_other_by_name_and_the_world(bool docker)
    {
        NetworkHost.Test(host =>
        {
            if (docker)
            {
                host.Space.Shell(DockerRules);
            }
            string before = host.Traces();
            NetworkDefinition network = host.Store.Create(new NetworkRequest { Name = "lab" }).Network;
            using (TestMachine web = TestMachine.On(host.Store, "lab", "web"), db = TestMachine.On(host.Store, "lab", "db"))
            {
                web.Dhcp();
                db.Dhcp();
                Assert.Contains($"{web.Attachment.Address}/24", web.Space.Shell("ip -o -4 addr show eth0"));
                Assert.Equal($"{db.Attachment.Address}", web.Resolve("db"));
                Assert.Equal($"{web.Attachment.Address}", db.Resolve("web.lodge.internal"));
                Assert.True(web.Reaches(db.Attachment.Address!));
                Assert.True(web.Reaches(network.Subnet!.Gateway));
                Assert.True(web.Reaches(NetworkHost.Outside));
                Transfer(web, host, db);
                foreach (TestMachine machine in new[] { web, db })
                {
                    machine.Space.Shell($"ip addr add {machine.Attachment.Address6}/64 dev eth0 nodad; ip route add default via {network.Subnet6!.Gateway}");
                }
                Assert.True(web.Reaches(db.Attachment.Address6!));
                Assert.True(web.Reaches(NetworkHost.OutsideV6));

                // Nobody outside comes in by himself.
                host.World.Shell($"ip route add {network.Subnet} via 192.0.2.2");
                Assert.NotEqual(0, host.World.Try($"busybox ping -c 1 -W 1 {web.Attachment.Address}").Status);
                Assert.Equal(["db", "web"], host.Store.Show("lab").Machines.Select(machine => machine.Machine).Order());
                Assert.Contains(host.Store.Leases("lab"), lease => lease.Name == "web" && lease.Expires is not null && lease.Address.Equals(web.Attachment.Address));
                Assert.Throws<ManagementException>(() => host.Store.Remove("lab", force: false));
            }
            Assert.Empty(host.Store.Show("lab").Machines);
            host.Store.Remove("lab", force: false);
            Assert.Equal(before, host.Traces());
            Assert.Empty(host.Store.List(out _));
        });
    }

    [Fact]
    public void Machines_on_an_isolated_network_reach_each_other_and_nothing_else()
    {
        NetworkHost.Test(host =>
        {
            NetworkDefinition network = host.Store.Create(new NetworkRequest { Name = "closed", Kind = NetworkKind.Isolated }).Network;
            host.Store.Create(new NetworkRequest { Name = "open" }); // switches forwarding on
            using TestServer service = new(host.Space, 8000, [1, 2, 3]);
            using TestMachine one = TestMachine.On(host.Store, "closed", "one"), two = TestMachine.On(host.Store, "closed", "two"), other = TestMachine.On(host.Store, "open", "other");
            one.Dhcp();
            two.Dhcp();
            other.Dhcp();
            Assert.True(one.Reaches(one.Resolve("two")));
            Assert.True(one.Reaches(network.Subnet!.Gateway));
            Assert.Equal("", one.Space.Shell("ip route show default"));
            one.Space.Shell($"ip route add default via {network.Subnet.Gateway}; ip addr add {one.Attachment.Address6}/64 dev eth0 nodad; ip route add default via {network.Subnet6!.Gateway}");
            Assert.True(other.Reaches(NetworkHost.Outside));
            Assert.True(one.NeverReaches(NetworkHost.Outside));
            Assert.True(one.NeverReaches(NetworkHost.OutsideV6));
            Assert.True(one.NeverReaches(other.Attachment.Address!));
            Assert.True(other.NeverReaches(one.Attachment.Address!));
            Assert.Equal([1, 2, 3], TestServer.Fetch(other.Space, "192.0.2.2", 8000, TimeSpan.FromSeconds(20)));
            Assert.Null(TestServer.Fetch(one.Space, "192.0.2.2", 8000, TimeSpan.FromSeconds(1)));
            Assert.Null(TestServer.Fetch(one.Space, $"{network.Subnet.Gateway}", 8000, TimeSpan.FromSeconds(1)));
            Assert.Equal("", one.Resolve("example.org")); // nor do questions get out
            using TestServer inside = new(one.Space, 8000, [4, 5, 6]);
            Assert.Equal([4, 5, 6], TestServer.Fetch(host.Space, $"{one.Attachment.Address}", 8000, TimeSpan.FromSeconds(20))); // but the host comes in
        });
    }

    [Fact]
    public void An_isolated_network_without_addresses_is_a_wire()
    {
        NetworkHost.Test(host =>
        {
            host.Store.Create(new NetworkRequest { Name = "wire", Kind = NetworkKind.Isolated, WithoutDhcp = true, Mtu = 9000 });
            Assert.Empty(host.Servers());
            using TestMachine one = TestMachine.On(host.Store, "wire", "one"), two = TestMachine.On(host.Store, "wire", "two");
            Assert.Equal(9014, one.Attachment.Link.MaximumFrame);
            one.Space.Shell("ip link set eth0 mtu 9000; ip addr add 10.1.1.1/24 dev eth0");
            two.Space.Shell("ip link set eth0 mtu 9000; ip addr add 10.1.1.2/24 dev eth0");
            Assert.Equal(0, one.Space.Try("busybox ping -c 1 -W 10 -s 8900 10.1.1.2").Status);
            Assert.Equal("", host.Space.Shell("ip -o addr show dev lodge-wire"));
        });
    }

    [Fact]
    public void A_forged_MAC_or_IP_address_gets_nothing_through()
    {
        NetworkHost.Test(host =>
        {
            NetworkDefinition network = host.Store.Create(new NetworkRequest { Name = "lab" }).Network;
            using TestMachine thief = TestMachine.On(host.Store, "lab", "thief"), victim = TestMachine.On(host.Store, "lab", "victim");
            thief.Dhcp();
            victim.Dhcp();
            string gateway = network.Subnet!.Gateway.ToString();
            Assert.True(thief.Reaches(gateway));

            // A packet with a forged address goes out; none comes to the host, whose counter sees each from that address.
            host.Space.Shell("nft 'table inet watch { chain c { type filter hook prerouting priority -400; }; }'");
            void Watch(string match) => host.Space.Shell($"nft flush chain inet watch c; nft add rule inet watch c iifname lodge-lab {match} counter");
            bool Saw() => !host.Space.Shell("nft list chain inet watch c").Contains("packets 0 ");
            Watch($"ip saddr {thief.Attachment.Address}");
            Assert.True(thief.Reaches(gateway));
            Assert.True(Saw());

            foreach (string forged in new[] { network.Subnet.Host(77).ToString(), victim.Attachment.Address!.ToString() })
            {
                thief.Space.Shell($"ip addr add {forged}/32 dev eth0");
                Watch($"ip saddr {forged}");
                Assert.NotEqual(0, thief.Space.Try($"busybox ping -c 3 -i 0.1 -W 1 -I {forged} {gateway}").Status);
                Assert.False(Saw());
                thief.Space.Try($"busybox arping -c 2 -w 1 -U -I eth0 -s {forged} {forged}");
                Assert.DoesNotContain($"{forged} lladdr {thief.Attachment.Mac}", host.Space.Shell("ip neigh show"));
                thief.Space.Shell($"ip addr del {forged}/32 dev eth0");
            }

            string forged6 = network.Subnet6!.Host(77).ToString();
            thief.Space.Shell($"ip addr add {forged6}/64 dev eth0 nodad");
            Watch($"ip6 saddr {forged6}");
            Assert.NotEqual(0, thief.Space.Try($"busybox ping -c 3 -i 0.1 -W 1 -I {forged6} {network.Subnet6.Gateway}").Status);
            Assert.False(Saw());

            // Another machine's MAC address, and one of nobody.
            Assert.True(thief.Reaches(gateway));
            foreach (MacAddress mac in new[] { victim.Attachment.Mac, MacAddress.Random() })
            {
                thief.Space.Shell($"ip link set eth0 address {mac}");
                Assert.True(thief.NeverReaches(gateway));
                Assert.True(victim.Reaches(gateway));
            }
            thief.Space.Shell($"ip link set eth0 address {thief.Attachment.Mac}");
            Assert.True(thief.Reaches(gateway));
        });
    }

    [Theory]
    [InlineData(NetworkKind.Nat)]
    [InlineData(NetworkKind.Isolated)]
    public void Isolated_machines_do_not_reach_each_other(NetworkKind kind)
    {
        NetworkHost.Test(host =>
        {
            NetworkDefinition network = host.Store.Create(new NetworkRequest { Name = "lab", Kind = kind, IsolateMachines = true }).Network;
            using TestMachine one = TestMachine.On(host.Store, "lab", "one"), two = TestMachine.On(host.Store, "lab", "two");
            one.Dhcp();
            two.Dhcp();
            Assert.Equal($"{two.Attachment.Address}", one.Resolve("two"));
            Assert.True(one.Reaches(network.Subnet!.Gateway));
            Assert.Equal(kind == NetworkKind.Nat, one.Reaches(NetworkHost.Outside));
            Assert.True(one.NeverReaches(two.Attachment.Address!));
            one.Space.Shell($"ip route add {two.Attachment.Address} via {network.Subnet.Gateway}"); // nor over the host
            Assert.True(one.NeverReaches(two.Attachment.Address!));
        });
    }

    [Fact]
    public void A_bridge_of_the_host_takes_machines_with_a_VLAN_tag_and_isolation()
    {
        NetworkHost.Test(host =>
        {
            host.Space.Shell("ip link add br7 type bridge; ip link set br7 mtu 1400 up");
            string before = host.Traces();
            host.Store.Create(new NetworkRequest { Name = "office", Kind = NetworkKind.Bridge, Bridge = "br7", Vlan = 30 });
            host.Store.Create(new NetworkRequest { Name = "guests", Kind = NetworkKind.Bridge, Bridge = "br7", Vlan = 31, IsolateMachines = true });
            using (TestMachine one = TestMachine.On(host.Store, "office", "one"), two = TestMachine.On(host.Store, "office", "two"),
                three = TestMachine.On(host.Store, "guests", "three"), four = TestMachine.On(host.Store, "guests", "four"))
            {
                Assert.Equal(1414, one.Attachment.Link.MaximumFrame);
                Assert.Null(one.Attachment.Address);
                int number = 0;
                foreach (TestMachine machine in new[] { one, two, three, four })
                {
                    machine.Space.Shell($"ip link set eth0 mtu 1400; ip addr add 10.1.1.{++number}/24 dev eth0");
                }
                Assert.Equal(0, one.Space.Try("busybox ping -c 1 -W 10 -s 1372 10.1.1.2").Status);
                Assert.True(one.NeverReaches("10.1.1.3"));
                Assert.True(three.NeverReaches("10.1.1.4"));
                using TapLink trunk = TapLink.Create("trunk");
                host.Space.Shell("ip link set trunk master br7 up");
                one.Space.Try("busybox arping -c 1 -w 1 -I eth0 10.1.1.99");
                byte[] buffer = new byte[65562];
                int length;
                do
                {
                    length = trunk.TryReceive(buffer, out _);
                }
                while (length != 0 && !buffer.AsSpan(12, 6).SequenceEqual((ReadOnlySpan<byte>)[0x81, 0, 0, 30, 8, 6]));
                Assert.NotEqual(0, length);
            }
            host.Store.Remove("office", force: false);
            host.Store.Remove("guests", force: false);
            Assert.Equal(before, host.Traces());
        });
    }

    [Fact]
    public void A_machine_on_a_bridge_that_is_named_directly_is_plugged_in()
    {
        NetworkHost.Test(host =>
        {
            host.Space.Shell("ip link add br7 type bridge; ip addr add 10.1.1.1/24 dev br7; ip link set br7 up");
            using TestMachine machine = new(NetworkStore.AttachToBridge("br7", MacAddress.Random(), "one"));
            machine.Space.Shell("ip addr add 10.1.1.2/24 dev eth0");
            Assert.True(machine.Reaches("10.1.1.1"));
            using TestMachine tagged = new(NetworkStore.AttachToBridge("br7", MacAddress.Random(), "two", vlan: 5));
            tagged.Space.Shell("ip addr add 10.1.1.3/24 dev eth0");
            Assert.True(tagged.NeverReaches("10.1.1.1"));
            Assert.Contains("not a bridge", Assert.Throws<ManagementException>(() => NetworkStore.AttachToBridge("up0", MacAddress.Random(), "one")).Message);
            Assert.Contains("no bridge 'br8'", Assert.Throws<ManagementException>(() => NetworkStore.AttachToBridge("br8", MacAddress.Random(), "one")).Message);
        });
    }

    /// <summary>A few megabytes through NAT in long frames, and between machines, unharmed.</summary>
    private static void Transfer(TestMachine machine, NetworkHost host, TestMachine other)
    {
        byte[] data = new byte[8 << 20];
        new Random(7).NextBytes(data);
        using TestServer outside = new(host.World, 9000, data), inside = new(other.Space, 9000, data);
        foreach (string from in new[] { NetworkHost.Outside, other.Attachment.Address!.ToString() })
        {
            Assert.Equal(data, TestServer.Fetch(machine.Space, from, 9000, TimeSpan.FromSeconds(20)));
        }
    }
}
