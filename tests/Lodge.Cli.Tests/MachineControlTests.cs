using System.Text.Json;
using System.Text.RegularExpressions;
using Lodge.Cli.Console;
using Lodge.Cli.Machines;
using Lodge.Cli.Run;
using Lodge.Management.Machines;
using Xunit;

namespace Lodge.Cli.Tests;

/// <summary>Tests that listen to the lines that the program says: it says them for the whole process, so nothing runs beside.</summary>
[CollectionDefinition(nameof(ToldLines), DisableParallelization = true)]
public sealed class ToldLines;

/// <summary>What the control socket's document says, and how a machine's definition and a command line become each other.</summary>
[Collection(nameof(ToldLines))]
public sealed partial class MachineControlTests
{
    [Fact]
    public void TheDocumentDescribesEachRouteAndNoOther()
    {
        using JsonDocument document = JsonDocument.Parse(ControlDocument.Read());
        IEnumerable<string> described = document.RootElement.GetProperty("paths").EnumerateObject().SelectMany(path => path.Value.EnumerateObject().Select(verb => $"{verb.Name.ToUpperInvariant()} {path.Name}"));
        Assert.Equal(MachineControl.RouteNames.Order(), described.Order());
        // Each reference leads somewhere.
        JsonElement schemas = document.RootElement.GetProperty("components").GetProperty("schemas");
        foreach (Match reference in Reference().Matches(document.RootElement.GetRawText()))
        {
            Assert.True(schemas.TryGetProperty(reference.Groups[1].Value, out _), reference.Value);
        }
    }

    [Fact]
    public void ACommandLineBecomesADefinitionAndBack()
    {
        MachineDefinition definition = new()
        {
            Id = Guid.NewGuid(),
            Created = DateTimeOffset.Now,
            Directory = "/",
            Options = new Dictionary<string, IReadOnlyList<string>>
            {
                ["memory"] = ["2G"],
                ["cpus"] = ["3"],
                ["disk"] = ["a.qcow2", "b.raw,readonly"],
                ["mergeable"] = ["true"],
                ["append"] = ["-x --y"],
                ["publish"] = ["8080:80"],
            },
            Command = ["sh", "-c", "true"],
        };
        RunOptions options = DefinitionOptions.Read(definition, new MachineFolder("/tmp/web"));
        Assert.Equal((2UL << 30, 3, "web", "-x --y", true), (options.Memory, options.Processors, options.Name, options.Append, options.Backing.Mergeable));
        Assert.Equal(["a.qcow2", "b.raw"], options.Disks.Select(disk => disk.Path));
        Assert.Equal(["sh", "-c", "true"], options.Command);
        Assert.Equal("/tmp/web", options.Folder);
    }

    [Theory]
    [InlineData("exec web ls -l", "exec web -- ls -l")]
    [InlineData("exec -i -e A=b web ls", "exec -i -e A=b web -- ls")]
    [InlineData("exec web -- ls --", "exec web -- ls --")]
    [InlineData("exec web", "exec web")]
    [InlineData("exec --help", "exec --help")]
    public void TheCommandOfExecNeedsNoDashes(string written, string meant) => Assert.Equal(meant.Split(' '), ExecCommand.WithSeparator(written.Split(' ')));

    [Theory]
    [InlineData("logs -n x a", "--lines 'x' is not a whole number")]
    [InlineData("exec --wait x a -- true", "--wait 'x' is not a whole number")]
    [InlineData("events --since x", "--since 'x' is not a time")]
    [InlineData("stop --timeout x a", "--timeout 'x' is not a time")]
    [InlineData("wait --timeout x a", "--timeout 'x' is not a time")]
    [InlineData("wait --for x a", "state 'x' is not known; give stopped, running or agent")]
    [InlineData("edit a --autostart x", "--autostart 'x' is not understood; give on or off")]
    public void AWrongValueIsToldWithWhatToWrite(string line, string words)
    {
        List<string> told = [];
        HostFile.Listener = told.Add;
        try
        {
            Assert.Equal(2, Program.Run(line.Split(' '), _ => 0));
        }
        finally
        {
            HostFile.Listener = null;
        }
        Assert.Contains(words, Assert.Single(told));
    }

    [GeneratedRegex("#/components/schemas/(\\w+)")]
    private static partial Regex Reference();
}
