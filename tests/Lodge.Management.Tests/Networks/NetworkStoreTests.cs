using System.Diagnostics;
using System.Net;
using Lodge.Management.Networks;
using Lodge.Network.Packets;
using Xunit;

namespace Lodge.Management.Tests.Networks;

public class NetworkStoreTests
{
    private static readonly MacAddress Known = new(0x5254_0000_0007);

    [Fact]
    public void What_was_lost_is_put_right_by_the_next_command()
    {
        NetworkHost.Test(host =>
        {
            host.Space.Shell("nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'");
            host.Store.Create(new NetworkRequest { Name = "lab" });
            using TestMachine machine = TestMachine.On(host.Store, "lab", "one");
            machine.Dhcp();

            // The server was killed.
            int old = Assert.Single(host.Servers());
            Process.GetProcessById(old).Kill();
            SpinWait.SpinUntil(() => host.Servers().Count == 0, 10_000);
            Assert.Equal("up", Assert.Single(host.Store.List(out _)).State);
            Assert.NotEqual(old, Assert.Single(host.Servers()));
            Assert.Equal($"{machine.Attachment.Address}", machine.Resolve("one"));

            // Its rules were flushed, as a reload of somebody's firewall does.
            host.Space.Shell("nft flush ruleset; nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'");
            Assert.True(machine.NeverReaches(NetworkHost.Outside));
            host.Store.List(out _);
            Assert.True(machine.Reaches(NetworkHost.Outside));

            // The host started anew: nothing is there but the files.
            string rules = host.Space.Shell("nft list ruleset");
            host.Space.Shell("nft flush ruleset; ip link delete lodge-lab; echo 0 >/proc/sys/net/ipv4/ip_forward");
            Process.GetProcessById(host.Servers()[0]).Kill();
            host.Space.Shell("nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'");
            using TestMachine another = TestMachine.On(host.Store, "lab", "two");
            another.Dhcp();
            Assert.True(another.Reaches(NetworkHost.Outside));
            Assert.NotEqual("", rules);
        });
    }

    [Fact]
    public void A_removal_that_was_cut_off_is_finished_by_the_next_command()
    {
        NetworkHost.Test(host =>
        {
            string before = host.Traces();
            host.Store.Create(new NetworkRequest { Name = "lab" });
            string file = Path.Combine(host.Folder, "lab", "network.json");
            File.WriteAllText(file, File.ReadAllText(file).Replace("\"removing\": false", "\"removing\": true"));
            Assert.Empty(host.Store.List(out _));
            Assert.Equal(before, host.Traces());
            Assert.Equal([".lock"], Directory.EnumerateFileSystemEntries(host.Folder).Select(Path.GetFileName));
        });
    }

    [Fact]
    public void A_damaged_network_is_told_and_can_be_removed()
    {
        NetworkHost.Test(host =>
        {
            string before = host.Traces();
            host.Store.Create(new NetworkRequest { Name = "lab" });
            File.WriteAllText(Path.Combine(host.Folder, "lab", "network.json"), "{");
            Assert.Empty(host.Store.List(out IReadOnlyList<string> damaged));
            Assert.Equal(Path.Combine(host.Folder, "lab"), Assert.Single(damaged));
            Assert.Throws<ManagementException>(() => host.Store.Create(new NetworkRequest { Name = "lab" }));
            host.Store.Remove("lab", force: false);
            Assert.Equal(before, host.Traces());
        });
    }

    [Fact]
    public void A_network_that_cannot_be_brought_up_leaves_nothing()
    {
        NetworkHost.Test(host =>
        {
            host.Space.Shell("ip link add lodge-lab type bridge");
            string before = host.Traces();
            Assert.Contains("interface lodge-lab exists", Assert.Throws<ManagementException>(() => host.Store.Create(new NetworkRequest { Name = "lab" })).Message);
            using System.Net.Sockets.Socket taken = new(System.Net.Sockets.AddressFamily.InterNetwork, System.Net.Sockets.SocketType.Dgram, System.Net.Sockets.ProtocolType.Udp);
            taken.Bind(new IPEndPoint(IPAddress.Any, 53)); // the DNS server cannot start
            Assert.Contains("does not start", Assert.Throws<ManagementException>(() => host.Store.Create(new NetworkRequest { Name = "other" })).Message);
            Assert.Equal(before, host.Traces());
            Assert.Empty(host.Store.List(out IReadOnlyList<string> damaged));
            Assert.Empty(damaged);
        });
    }

    [Fact]
    public void Addresses_and_names_are_kept_and_never_double()
    {
        NetworkHost.Test(host =>
        {
            Assert.True(IpSubnet.TryParse("10.9.0.0/29", out IpSubnet? subnet));
            host.Store.Create(new NetworkRequest
            {
                Name = "lab",
                Subnet = subnet,
                Leases = [new StaticLease { Mac = Known, Address = IPAddress.Parse("10.9.0.3"), Name = "db" }],
            });
            using NetworkAttachment one = host.Store.Attach("lab", new MacAddress(0x5254_0000_0001), "web");
            Assert.Equal("10.9.0.2", one.Address!.ToString());
            using (NetworkAttachment two = host.Store.Attach("lab", new MacAddress(0x5254_0000_0002), "web"))
            {
                Assert.Equal("10.9.0.4", two.Address!.ToString()); // .3 is taken for good
                Assert.Contains("has the name web", Assert.Single(two.Notes, note => note.Contains("name")));
                Assert.Null(two.Machine.DnsName);
                Assert.Throws<ManagementException>(() => host.Store.Attach("lab", new MacAddress(0x5254_0000_0002), "three"));
            }
            using (NetworkAttachment fixedOne = host.Store.Attach("lab", Known, "whatever"))
            {
                Assert.Equal(("10.9.0.3", "db"), (fixedOne.Address!.ToString(), fixedOne.Machine.DnsName));
            }
            using NetworkAttachment three = host.Store.Attach("lab", new MacAddress(0x5254_0000_0003), "three");
            Assert.Equal("10.9.0.5", three.Address!.ToString()); // .4 is kept
            using NetworkAttachment four = host.Store.Attach("lab", new MacAddress(0x5254_0000_0004), "four");
            Assert.Equal("10.9.0.6", four.Address!.ToString());
            using (NetworkAttachment five = host.Store.Attach("lab", new MacAddress(0x5254_0000_0005), "five"))
            {
                Assert.Equal("10.9.0.4", five.Address!.ToString()); // nothing else is free
                Assert.Contains("no free address", Assert.Throws<ManagementException>(() => host.Store.Attach("lab", new MacAddress(0x5254_0000_0006), "six")).Message);
            }
            using NetworkAttachment again = host.Store.Attach("lab", new MacAddress(0x5254_0000_0005), "five");
            Assert.Equal("10.9.0.4", again.Address!.ToString());
        });
    }

    [Fact]
    public void A_chosen_subnet_is_free()
    {
        NetworkHost.Test(host =>
        {
            // All of 10.64.0.0/10 but one /24.
            for (int bit = 10; bit < 24; bit++)
            {
                uint network = (10u << 24) | (64u << 16) | (0x123u << 8);
                uint sibling = (network ^ (1u << (31 - bit))) & (uint.MaxValue << (31 - bit));
                host.Space.Shell($"ip route add {new IPAddress([(byte)(sibling >> 24), (byte)(sibling >> 16), (byte)(sibling >> 8), 0])}/{bit + 1} via 192.0.2.1 metric 5");
            }
            Assert.Equal("10.65.35.0/24", host.Store.Create(new NetworkRequest { Name = "lab" }).Network.Subnet!.ToString());
            Assert.Contains("no free IPv4 subnet", Assert.Throws<ManagementException>(() => host.Store.Create(new NetworkRequest { Name = "two" })).Message);
        });
    }

    [Fact]
    public void What_cannot_be_is_refused_and_leaves_nothing()
    {
        NetworkHost.Test(host =>
        {
            string before = host.Traces();
            void Refused(NetworkRequest request, string why) => Assert.Contains(why, Assert.Throws<ManagementException>(() => host.Store.Create(request)).Message);
            IpSubnet Subnet(string text) => IpSubnet.TryParse(text, out IpSubnet? subnet) ? subnet : throw new InvalidOperationException();
            Refused(new() { Name = "a b" }, "cannot name a network");
            Refused(new() { Name = "../x" }, "cannot name a network");
            Refused(new() { Name = "none" }, "cannot name a network");
            Refused(new() { Name = "lab", Subnet = Subnet("192.0.2.0/25") }, "in use: 192.0.2.0/24 by up0");
            Refused(new() { Name = "lab", Subnet = Subnet("10.0.0.0/30") }, "unusable size");
            Refused(new() { Name = "lab", Subnet = Subnet("127.1.0.0/16") }, "reserved");
            Refused(new() { Name = "lab", WithoutV4 = true, WithoutV6 = true }, "needs an IPv4 or an IPv6");
            Refused(new() { Name = "lab", Mtu = 100 }, "MTU 100");
            Refused(new() { Name = "lab", Mtu = 1000 }, "too small for IPv6");
            Refused(new() { Name = "lab", Vlan = 5 }, "--kind bridge");
            Refused(new() { Name = "lab", Kind = NetworkKind.Bridge }, "which bridge");
            Refused(new() { Name = "lab", Kind = NetworkKind.Bridge, Bridge = "up0" }, "not a bridge");
            Refused(new() { Name = "lab", Bridge = "up0" }, "up0 exists");
            Refused(new() { Name = "lab", Bridge = "a name" }, "cannot name a bridge");
            Refused(new() { Name = "lab", Domain = "a_b" }, "not a domain");
            Refused(new() { Name = "lab", WithoutDhcp = true }, "--no-dhcp");
            Refused(new() { Name = "lab", Leases = [new StaticLease { Mac = Known, Address = IPAddress.Parse("10.9.9.9") }] }, "cannot be leased");
            Refused(new() { Name = "lab", Subnet = Subnet("10.9.0.0/24"), Leases = [new StaticLease { Mac = Known, Address = IPAddress.Parse("10.9.0.1") }] }, "cannot be leased");
            Refused(new() { Name = "lab", Subnet = Subnet("10.9.0.0/24"), Leases = [new StaticLease { Mac = Known, Address = IPAddress.Parse("10.9.0.9"), Name = "a b\nx" }] }, "cannot be a machine's name");
            Assert.Equal(before, host.Traces());
            Assert.Contains("no network 'lab'", Assert.Throws<ManagementException>(() => host.Store.Show("lab")).Message);
            Assert.Contains("no network 'lab'", Assert.Throws<ManagementException>(() => host.Store.Attach("lab", Known, "one")).Message);
        });
    }

    [Fact]
    public void The_default_network_is_made_when_it_is_first_used_and_a_stopped_one_is_brought_up()
    {
        NetworkHost.Test(host =>
        {
            string before = host.Traces();
            using (NetworkAttachment one = host.Store.Attach(NetworkName.Default, Known, "one"))
            {
                Assert.Equal(NetworkKind.Nat, one.Network!.Kind);
                Assert.Contains("in use by one", Assert.Throws<ManagementException>(() => host.Store.Stop(NetworkName.Default, force: false)).Message);
            }
            host.Store.Stop(NetworkName.Default, force: false);
            Assert.Equal(before, host.Traces());
            Assert.Equal("stopped", Assert.Single(host.Store.List(out _)).State);
            using (host.Store.Attach(NetworkName.Default, Known, "one"))
            {
                Assert.Equal("up", Assert.Single(host.Store.List(out _)).State);
            }
            host.Store.Stop(NetworkName.Default, force: false);
            host.Store.Start(NetworkName.Default);
            Assert.Single(host.Servers());
            using NetworkAttachment two = host.Store.Attach(NetworkName.Default, Known, "two");
            host.Store.Remove(NetworkName.Default, force: true);
            two.Dispose();
            Assert.Equal(before, host.Traces());
            Assert.Equal([".lock"], Directory.EnumerateFileSystemEntries(host.Folder).Select(Path.GetFileName));
        });
    }
}
