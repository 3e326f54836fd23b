using Lodge.Network.Packets;
using Xunit;

namespace Lodge.Network.Tests;

public class MacAddressTests
{
    [Theory]
    [InlineData("52:54:00:12:34:56", "52:54:00:12:34:56")]
    [InlineData("52-54-00-AB-cd-eF", "52:54:00:ab:cd:ef")]
    public void An_address_is_parsed_and_shown(string text, string shown)
    {
        Assert.True(MacAddress.TryParse(text, out MacAddress address));
        Assert.Equal(shown, address.ToString());
        Span<byte> bytes = stackalloc byte[6];
        address.Write(bytes);
        Assert.Equal(0x52, bytes[0]);
        Assert.Equal(address, MacAddress.Read(bytes));
    }

    [Theory]
    [InlineData("")]
    [InlineData("52:54:00:12:34")]
    [InlineData("52:54:00:12:34:5")]
    [InlineData("52:54:00:12:34:5g")]
    [InlineData("52:54:00:12:34:+5")]
    [InlineData("52:54:00:12:34:56:78")]
    public void What_is_no_address_is_refused(string text) => Assert.False(MacAddress.TryParse(text, out _));

    [Fact]
    public void A_random_address_is_of_one_station()
    {
        MacAddress address = MacAddress.Random();
        Assert.False(address.IsMulticast);
        Assert.StartsWith("52:54:00:", address.ToString());
    }
}
