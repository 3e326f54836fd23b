using Lodge.Cli.Run;
using Xunit;

namespace Lodge.Cli.Tests;

public class VsockOptionTests
{
    [Theory]
    [InlineData("/tmp/v", "/tmp/v", 3)]
    [InlineData("socket=v.sock,cid=42", "v.sock", 42)]
    [InlineData("a,,b,cid=4294967294", "a,b", 4294967294)]
    public void A_path_and_a_context_identifier(string text, string path, uint cid) => Assert.Equal(new VsockOption(path, cid), VsockOption.Parse(text));

    [Theory]
    [InlineData("")]
    [InlineData("v,cid=2")]
    [InlineData("v,cid=4294967295")]
    [InlineData("v,cid=-1")]
    [InlineData("v,port=3")]
    [InlineData("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")]
    public void What_makes_no_sense_is_refused(string text) => Assert.Throws<FormatException>(() => VsockOption.Parse(text));
}
