using Lodge.Cli.Engines;
using Xunit;

namespace Lodge.Cli.Tests;

public class EngineChoiceTests
{
    private static (string Engine, List<string> Told) Choose(string name, string? problem)
    {
        List<string> told = [];
        return (EngineChoice.Choose(name, () => problem, told.Add).Name, told);
    }

    [Fact]
    public void Automatic_is_the_hardware_where_it_can_run_a_kernel()
    {
        (string engine, List<string> told) = Choose("auto", null);
        Assert.Equal("kvm", engine);
        Assert.Empty(told);
    }

    [Fact]
    public void Otherwise_it_is_the_software_engine_and_one_line_says_why()
    {
        (string engine, List<string> told) = Choose("auto", "xsave fails");
        Assert.Equal("translate", engine);
        Assert.Contains("software engine: xsave fails", Assert.Single(told), StringComparison.Ordinal);
    }

    [Fact]
    public void Hardware_that_was_asked_for_and_cannot_be_used_is_an_error()
    {
        Assert.Equal("kvm", Choose("kvm", null).Engine);
        LodgeException e = Assert.Throws<LodgeException>(() => Choose("kvm", "xsave fails"));
        Assert.Contains("--engine kvm: xsave fails", e.Message, StringComparison.Ordinal);
        Assert.Equal(ExitStatus.CannotStart, e.Status);
    }

    [Fact]
    public void The_software_engine_asks_nobody()
    {
        List<string> told = [];
        Assert.Equal("translate", EngineChoice.Choose("translate", () => throw new InvalidOperationException(), told.Add).Name);
        Assert.Empty(told);
    }
}
