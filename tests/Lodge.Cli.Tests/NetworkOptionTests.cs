using System.Net;
using Lodge.Cli.Run;
using Lodge.Network.User;
using Xunit;

namespace Lodge.Cli.Tests;

public class NetworkOptionTests
{
    [Theory]
    [InlineData("user", "User", "")]
    [InlineData("none", "None", "")]
    [InlineData("tap=tap0", "Tap", "tap0")]
    [InlineData("bridge=br0", "Bridge", "br0")]
    [InlineData("office", "Named", "office")]
    public void The_kinds(string text, string kind, string name)
    {
        NetworkOption network = NetworkOption.Parse(text);
        Assert.Equal((kind, name), (network.Kind.ToString(), network.Name));
        Assert.True(network.LinkUp);
    }

    [Fact]
    public void Every_option_of_a_user_network()
    {
        NetworkOption network = NetworkOption.Parse(
            "user,mac=52:54:00:aa:bb:cc,model=virtio,mtu=1500,queues=2,link=down,capture=a,,b.pcap,bytes-in=1M,bytes-in-max=2M,packets-out=100,"
            + "publish=8080:80,publish=[::1]:53:53/udp,subnet=192.168.7.0/24,ipv6=fd00:1::/64,host-loopback=off,restrict=on");
        Assert.Equal(("52:54:00:aa:bb:cc", 1500, 2, false, "a,b.pcap"), (network.Mac.ToString(), network.Mtu, network.Queues, network.LinkUp, network.Capture));
        Assert.Equal((1 << 20, 2 << 20, 100), (network.Limits.ReceiveBytes.PerSecond, network.Limits.ReceiveBytes.Burst, network.Limits.SendPackets.PerSecond));
        Assert.Equal("127.0.0.1:8080:80/tcp [::1]:53:53/udp", string.Join(' ', network.User.Forwards));
        Assert.Equal((IPAddress.Parse("192.168.7.15"), IPAddress.Parse("fd00:1::2"), 1500), (network.User.Guest, network.User.Host6, network.User.Mtu));
        Assert.Equal((false, true), (network.User.HostLoopback, network.User.Restricted));
        network = NetworkOption.Parse("tap=t,vlan=7,address=192.0.2.7,address=2001:db8::/64,spoof-check=off,allow=tcp any 80,,443,deny=in udp 10.0.0.0/8");
        Assert.Equal("allow out tcp 80,443|deny in udp 10.0.0.0/8", string.Join('|', network.Rules));
        Assert.Equal((7, "192.0.2.7 2001:db8::/64", false), (network.Vlan, string.Join(' ', network.Addresses), network.SpoofCheck));
        Assert.Null(NetworkOption.Parse("user,ipv6=off").User.Network6);
    }

    [Theory]
    [InlineData("", "give user, none")]
    [InlineData("tap", "--net tap names no interface")]
    [InlineData("user=1", "give user, none")]
    [InlineData("none,mac=52:54:00:00:00:01", "--net none has no card")]
    [InlineData("user,mac=53:54:00:00:00:01", "53:54:00:00:00:01")]
    [InlineData("user,model=e1000", "'e1000'")]
    [InlineData("user,mtu=1000", "1280 to 65520")]
    [InlineData("office,publish=1:1", "not for --net office")]
    [InlineData("user,vlan=5", "it is for tap=")]
    [InlineData("tap=t,vlan=4095", "1 to 4094")]
    [InlineData("user,subnet=10.0.2.0", "10.0.2.0")]
    [InlineData("user,subnet=10.0.2.0/30", "8 to 29 bits")]
    [InlineData("user,ipv6=off,publish=[::1]:1:1", "no IPv6")]
    [InlineData("user,allow=", "has no rule")]
    [InlineData("user,deny=tcp 10.0.0.0/8 x", "'x'")]
    [InlineData("user,address=10.0.2.9", "tap= and bridge=")]
    [InlineData("user,speed=5", "'speed' is not known")]
    [InlineData("user,bytes-in=fast", "'fast'")]
    [InlineData("user,bytes-in-max=5", "needs the limit 'bytes-in'")]
    public void What_is_not_possible_is_said(string text, string expected) =>
        Assert.Contains(expected, Assert.Throws<FormatException>(() => NetworkOption.Parse(text)).Message);

    [Fact]
    public void Published_ports_and_a_capture_go_to_the_cards()
    {
        IReadOnlyList<NetworkOption> asked = [NetworkOption.Parse("tap=t,capture=own"), NetworkOption.Parse("user")];
        IReadOnlyList<NetworkOption> networks = RunNetworks.Choose(asked, PortForward.Parse("1:2"), "all", [NetworkOption.RuleOf("deny", "10.0.0.0/8")]);
        Assert.Equal(["own", "all"], networks.Select(n => n.Capture));
        Assert.Single(networks[1].User.Forwards);
        Assert.All(networks, n => Assert.Equal("deny out 10.0.0.0/8", Assert.Single(n.Rules).ToString()));
        Assert.Empty(RunNetworks.Choose([NetworkOption.Parse("none")], [], null, []));
        Assert.Contains("--net user", Assert.Throws<LodgeException>(() => RunNetworks.Choose([NetworkOption.Parse("none")], PortForward.Parse("1:2"), null, [])).Message);
        Assert.Contains("no network card", Assert.Throws<LodgeException>(() => RunNetworks.Choose([NetworkOption.Parse("none")], [], "all", [])).Message);
    }

    [Fact]
    public void The_default_system_knows_the_address_of_the_first_user_network()
    {
        NetworkNeeds needs = NetworkNeeds.Of([.. new[] { "tap=t", "user,subnet=10.9.0.0/16", "user", "user,link=down" }.Select(NetworkOption.Parse)]);
        Assert.Equal(["dhcp", "10.9.0.15/16,10.9.0.2", "dhcp", "none"], needs.Cards);
        Assert.Equal(IPAddress.Parse("10.9.0.3"), needs.NameServer);
    }
}
