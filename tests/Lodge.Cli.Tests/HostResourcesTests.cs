using Lodge.Cli.Run;
using Lodge.Engine.Memory;
using Xunit;

namespace Lodge.Cli.Tests;

public class HostResourcesTests
{
    private static RunOptions Parse(params string[] arguments)
    {
        RunOptions? parsed = null;
        Assert.Equal(0, Program.Run(["run", .. arguments], options =>
        {
            parsed = options;
            return 0;
        }));
        return parsed!;
    }

    [Fact]
    public void Huge_pages_have_a_size_of_their_own_when_none_is_given()
    {
        Assert.Equal(HugePages.Pool2M, Parse("--hugepages").Backing.HugePages);
        Assert.Equal(HugePages.Pool1G, Parse("--hugepages=1G").Backing.HugePages);
        Assert.Equal(HugePages.Pool1G, Parse("--hugepages", "1G").Backing.HugePages);
        Assert.Equal(HugePages.Transparent, Parse("--hugepages=transparent").Backing.HugePages);
        Assert.Equal(HugePages.None, Parse().Backing.HugePages);
        RunOptions image = Parse("--hugepages", "debian");
        Assert.Equal(("debian", HugePages.Pool2M), (image.Image, image.Backing.HugePages));
        Assert.Equal(["--hugepages"], Parse("--hugepages", "--", "--hugepages").Command);
    }

    [Fact]
    public void Memory_is_mergeable_or_locked_when_asked_for()
    {
        Assert.Equal(MemoryBacking.Default, Parse().Backing);
        Assert.Equal(new MemoryBacking(Mergeable: true), Parse("--mergeable").Backing);
        Assert.Equal(new MemoryBacking(Locked: true), Parse("--memory-lock").Backing);
    }

    [Theory]
    [InlineData("2", new[] { 2 })]
    [InlineData("2,3", new[] { 2, 3 })]
    [InlineData("4-7,0", new[] { 4, 5, 6, 7, 0 })]
    public void CPUs_are_numbers_and_ranges(string text, int[] cpus) => Assert.Equal(cpus, HostResources.ParsePin(text));

    [Theory]
    [InlineData("")]
    [InlineData("x")]
    [InlineData("1,")]
    [InlineData("3-1")]
    [InlineData("1-2-3")]
    [InlineData("-1")]
    [InlineData("99999")]
    [InlineData("0-99999999999")]
    public void Other_CPUs_are_refused_with_the_text(string text) =>
        Assert.Contains($"'{text}'", Assert.Throws<FormatException>(() => HostResources.ParsePin(text)).Message, StringComparison.Ordinal);

    [Fact]
    public void Other_huge_pages_are_refused_with_the_text() =>
        Assert.Contains("'4K'", Assert.Throws<FormatException>(() => HostResources.ParseHugePages("4K")).Message, StringComparison.Ordinal);

    [Fact]
    public void What_cannot_be_is_refused_in_one_line()
    {
        string Refused(RunOptions options) => Assert.Throws<LodgeException>(() => HostResources.Check(options, [0, 1])).Message;
        Assert.Contains("mergeable and locked", Refused(new RunOptions { Backing = new MemoryBacking(Mergeable: true, Locked: true) }), StringComparison.Ordinal);
        Assert.Contains("1 GiB", Refused(new RunOptions { Backing = new MemoryBacking(HugePages.Pool1G) }), StringComparison.Ordinal);
        Assert.Contains("CPU 2 is not one", Refused(new RunOptions { Pin = [2] }), StringComparison.Ordinal);
        Assert.Contains("(0-1)", Refused(new RunOptions { Pin = [2] }), StringComparison.Ordinal);
        Assert.Contains("2 CPUs of the host for 1", Refused(new RunOptions { Pin = [0, 1] }), StringComparison.Ordinal);
        HostResources.Check(new RunOptions { Processors = 4, Pin = [0, 1] }, [0, 1]);
        HostResources.Check(new RunOptions { Pin = [7] }, []); // the host does not tell
    }

    [Theory]
    [InlineData(new[] { 0, 1, 2, 5, 7, 8 }, "0-2,5,7-8")]
    [InlineData(new int[0], "")]
    public void Numbers_as_ranges(int[] numbers, string text) => Assert.Equal(text, HostResources.Ranges(numbers));
}
