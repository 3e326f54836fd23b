using Lodge.Cli.Machines;
using Xunit;

namespace Lodge.Cli.Tests;

/// <summary>A machine that runs does not need the program's file any more.</summary>
public sealed class WholeProgramTests
{
    [Fact]
    public void AllPartsAreLoaded()
    {
        WholeProgram.Load();
        string[] loaded = [.. AppDomain.CurrentDomain.GetAssemblies().Select(one => one.GetName().Name!)];
        string[] parts = ["Lodge.Engine", "Lodge.Engine.Kvm", "Lodge.Engine.Translation", "Lodge.Machine", "Lodge.Management", "Lodge.Network", "Lodge.Storage", "System.CommandLine"];
        Assert.Empty(parts.Except(loaded, StringComparer.OrdinalIgnoreCase));
    }
}
