using Lodge.Network.User;
using Xunit;

namespace Lodge.Network.Tests;

public class PortForwardTests
{
    [Theory]
    [InlineData("8080:80", "127.0.0.1:8080:80/tcp")]
    [InlineData("127.0.0.1:8080:80", "127.0.0.1:8080:80/tcp")]
    [InlineData("0.0.0.0:53:5353/udp", "0.0.0.0:53:5353/udp")]
    [InlineData("[::1]:8080:80/TCP", "[::1]:8080:80/tcp")]
    [InlineData("localhost:0:22", "127.0.0.1:0:22/tcp")]
    [InlineData("5000-5002:6000-6002/udp", "127.0.0.1:5000:6000/udp 127.0.0.1:5001:6001/udp 127.0.0.1:5002:6002/udp")]
    [InlineData("0:80-81", "127.0.0.1:0:80/tcp 127.0.0.1:0:81/tcp")]
    public void A_published_port_is_understood(string text, string expected) => Assert.Equal(expected, string.Join(' ', PortForward.Parse(text)));

    [Theory]
    [InlineData("")]
    [InlineData("80")]
    [InlineData(":80")]
    [InlineData("8080:")]
    [InlineData("8080:0")]
    [InlineData("8080:65536")]
    [InlineData("8080:80/sctp")]
    [InlineData("8080-8081:80")]
    [InlineData("8081-8080:80-81")]
    [InlineData("1-2000:1-2000")]
    [InlineData("::1:8080:80")]
    [InlineData("[127.0.0.1]:8080:80")]
    [InlineData("127.1:8080:80")]
    [InlineData("host:8080:80")]
    [InlineData("1.2.3.4:+80:80")]
    [InlineData("0-1:80-81")]
    public void What_is_no_port_is_refused_with_the_text(string text) =>
        Assert.Contains($"'{text}'", Assert.Throws<FormatException>(() => PortForward.Parse(text)).Message);
}
