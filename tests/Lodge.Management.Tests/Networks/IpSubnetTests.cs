using System.Net;
using Lodge.Management.Networks;
using Lodge.Network.Packets;
using Xunit;

namespace Lodge.Management.Tests.Networks;

public class IpSubnetTests
{
    [Theory]
    [InlineData("10.1.2.3/24", "10.1.2.0/24", "10.1.2.1", 254)]
    [InlineData("192.168.7.8/29", "192.168.7.8/29", "192.168.7.9", 6)]
    [InlineData("fd00:1:2:3::99/64", "fd00:1:2:3::/64", "fd00:1:2:3::1", 0xF_FFFF)]
    [InlineData("0.0.0.0/0", "0.0.0.0/0", "0.0.0.1", 0xF_FFFF)]
    [InlineData("::/0", "::/0", "::1", 0xF_FFFF)]
    public void A_subnet_is_parsed(string text, string shown, string gateway, int last)
    {
        Assert.True(IpSubnet.TryParse(text, out IpSubnet? subnet));
        Assert.Equal((shown, gateway, last), (subnet.ToString(), subnet.Gateway.ToString(), subnet.LastHost));
        Assert.Equal(subnet, IpSubnet.Of(subnet.Gateway, subnet.Prefix));
        Assert.Equal(5, subnet.NumberOf(subnet.Host(5)));
        Assert.Equal(-1, subnet.NumberOf(subnet.Network));
    }

    [Theory]
    [InlineData("")]
    [InlineData("10.1.2.0")]
    [InlineData("10.1.2.0/33")]
    [InlineData("10.1.2.0/-1")]
    [InlineData("10.1/16")]
    [InlineData("10.1.2.0/24/3")]
    [InlineData("0x0a000001/8")]
    [InlineData("fe80::1%eth0/64")]
    [InlineData("fd00::/129")]
    public void What_is_no_subnet_is_refused(string text) => Assert.False(IpSubnet.TryParse(text, out _));

    [Theory]
    [InlineData("10.0.0.0/8", "10.200.0.0/16", true)]
    [InlineData("10.200.0.0/16", "10.0.0.0/8", true)]
    [InlineData("10.1.0.0/24", "10.1.1.0/24", false)]
    [InlineData("fd00::/48", "fd00:0:0:7::/64", true)]
    [InlineData("0.0.0.0/0", "fd00::/8", false)]
    public void Overlap_is_seen(string one, string other, bool overlaps)
    {
        Assert.True(IpSubnet.TryParse(one, out IpSubnet? first) & IpSubnet.TryParse(other, out IpSubnet? second));
        Assert.Equal(overlaps, first!.Overlaps(second!));
    }

    [Fact]
    public void The_broadcast_address_and_what_is_outside_are_no_machines()
    {
        Assert.True(IpSubnet.TryParse("10.1.2.0/24", out IpSubnet? subnet));
        Assert.Equal(-1, subnet.NumberOf(IPAddress.Parse("10.1.2.255")));
        Assert.Equal(254, subnet.NumberOf(IPAddress.Parse("10.1.2.254")));
        Assert.Equal(-1, subnet.NumberOf(IPAddress.Parse("10.1.3.1")));
        Assert.Equal(-1, subnet.NumberOf(IPAddress.Parse("::ffff:10.1.2.3")));
    }

    [Fact]
    public void Names_of_what_the_host_has_are_short_and_of_one_network()
    {
        Assert.Equal("lodge-default", NetworkName.Bridge("default"));
        Assert.Equal("lodge-abcdefghi", NetworkName.Bridge("abcdefghi"));
        string one = NetworkName.Bridge("a-long-name-of-a-network-1"), other = NetworkName.Bridge("a-long-name-of-a-network-2");
        Assert.True(NetworkName.IsInterface(one) && NetworkName.IsInterface(other));
        Assert.NotEqual(one, other);
        Assert.False(NetworkName.BridgeMac("/x", "lab").IsMulticast);
        Assert.NotEqual(NetworkName.BridgeMac("/x", "lab"), NetworkName.BridgeMac("/y", "lab"));
        Assert.Equal("fe80::5054:ff:fe12:3456", NetworkName.LinkLocal(new MacAddress(0x525400123456)).ToString());
        Assert.Equal("my-vm", NetworkName.Dns("My_VM"));
        Assert.Null(NetworkName.Dns("--"));
    }
}
