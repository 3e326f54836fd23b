using Lodge.Management.Limits;
using Xunit;

namespace Lodge.Management.Tests.Limits;

public sealed class MachineLimitsTests
{
    [Theory]
    [InlineData("150%", 150)]
    [InlineData("1.5", 150)]
    [InlineData("0.5", 50)]
    [InlineData("2", 200)]
    [InlineData("12.5%", 12)]
    public void QuotaIsPercentOrProcessors(string text, int percent) => Assert.Equal(percent, MachineLimits.ParseQuota(text));

    [Theory]
    [InlineData("")]
    [InlineData("%")]
    [InlineData("0")]
    [InlineData("0.4%")]
    [InlineData("-1")]
    [InlineData("many")]
    [InlineData("99999999999999999999999%")]
    public void OtherQuotasAreNot(string text) => Assert.Contains("150%", Assert.Throws<FormatException>(() => MachineLimits.ParseQuota(text)).Message);

    [Fact]
    public void CpuSetsAreNumbersAndRanges()
    {
        Assert.Equal([0, 2, 3, 4], MachineLimits.ParseCpuSet("2-4,0,3"));
        foreach (string bad in new[] { "", "a", "3-1", "1-2-3", "-1", "0,,1", "0-99999999" })
        {
            Assert.Throws<FormatException>(() => MachineLimits.ParseCpuSet(bad));
        }
    }

    [Fact]
    public void MemoryHasUnits()
    {
        Assert.Equal(2L << 30, MachineLimits.ParseMemory("2G"));
        Assert.Equal(512L << 20, MachineLimits.ParseMemory("512"));
        Assert.Equal(512L << 20, MachineLimits.ParseMemory("512MiB"));
        foreach (string bad in new[] { "", "1M", "9999999T", "x", "-5G", "G" })
        {
            Assert.Throws<FormatException>(() => MachineLimits.ParseMemory(bad));
        }
    }

    [Fact]
    public void EqualLimitsAreEqual()
    {
        Assert.Equal(new MachineLimits { CpuSet = [0, 1] }, new MachineLimits { CpuSet = new List<int> { 0, 1 } });
        Assert.NotEqual(new MachineLimits { CpuSet = [0, 1] }, new MachineLimits { CpuSet = [0] });
        Assert.True(new MachineLimits().IsNone);
    }
}
