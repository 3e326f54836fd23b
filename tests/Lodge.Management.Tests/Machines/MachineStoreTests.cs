using Lodge.Management.Machines;
using Microsoft.Win32.SafeHandles;
using Xunit;

namespace Lodge.Management.Tests.Machines;

/// <summary>The store of machines: names, locks, what is left by those who die.</summary>
public sealed class MachineStoreTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("lodge-store.").FullName;

    private MachineStore Store => new(Path.Combine(_folder, "machines"));

    private static MachineDefinition Definition => new()
    {
        Id = Guid.NewGuid(),
        Created = DateTimeOffset.Now,
        Directory = "/",
        Options = new Dictionary<string, IReadOnlyList<string>> { ["memory"] = ["64M"], ["disk"] = ["a", "b,readonly"], ["verbose"] = ["true"] },
    };

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Fact]
    public void AMachineIsKeptAsItWasMade()
    {
        MachineDefinition made = Definition;
        Store.Create("web", made);
        (_, MachineDefinition read) = Store.Read("web");
        Assert.Equal(made.Id, read.Id);
        Assert.Equal(["run", "--disk=a", "--disk=b,readonly", "--memory=64M", "--verbose", "--name=web"], read.Arguments("web"));
        Assert.Equal("stopped", Assert.Single(Store.List()).State);
    }

    [Fact]
    public void ANameIsTakenOnce()
    {
        Store.Create("web", Definition);
        Assert.Contains("the name 'web' is taken", Assert.Throws<ManagementException>(() => Store.Create("web", Definition)).Message);
        Assert.Throws<ManagementException>(() => Store.Create("../web", Definition));
        Assert.Throws<ManagementException>(() => Store.Get(".events"));
    }

    [Fact]
    public void AMachineThatCannotBeFilledIsNotThere()
    {
        Assert.Throws<ManagementException>(() => Store.Create("web", Definition, _ => throw new IOException("disk full")));
        Assert.Throws<ManagementException>(() => Store.Create("web", Definition, _ => throw new ManagementException("no")));
        Assert.Empty(Store.List());
        Assert.Empty(Directory.GetDirectories(Store.Folder));
    }

    [Fact]
    public void TheLockAloneSaysWhetherAMachineRuns()
    {
        MachineFolder machine = Store.Create("web", Definition);
        machine.WriteStatus(new MachineStatus { State = MachineStates.Running, Since = DateTimeOffset.Now, Process = 1 });
        Assert.Equal("stopped", machine.Report().State);
        Assert.Contains("killed", machine.Report().End!.Reason);
        using (SafeFileHandle held = machine.TryRun()!)
        {
            Assert.Equal(("running", 1), (machine.Report().State, machine.Report().Process));
            Assert.Null(machine.TryRun());
            Assert.True(machine.IsRunning());
            Assert.Contains("runs; stop it first", Assert.Throws<ManagementException>(() => Store.Remove("web")).Message);
            Assert.Contains("runs; stop it first", Assert.Throws<ManagementException>(() => Store.Rename("web", "db")).Message);
        }
        Assert.False(machine.IsRunning());
        Store.Rename("web", "db");
        Store.Remove("db");
        Assert.Empty(Store.List());
    }

    [Fact]
    public void LookingDoesNotTakeTheLock()
    {
        MachineFolder machine = Store.Create("web", Definition);
        using CancellationTokenSource stop = new();
        Thread looker = new(() =>
        {
            while (!stop.IsCancellationRequested)
            {
                machine.IsRunning();
            }
        });
        looker.Start();
        for (int i = 0; i < 1000; i++)
        {
            using SafeFileHandle? held = machine.TryRun();
            Assert.NotNull(held);
        }
        stop.Cancel();
        looker.Join();
    }

    [Fact]
    public void WhatADeadCommandLeftIsRemovedByTheNext()
    {
        Store.Create("web", Definition);
        string made = Path.Combine(Store.Folder, ".new-1"), gone = Path.Combine(Store.Folder, ".gone-1"), busy = Path.Combine(Store.Folder, ".new-2");
        foreach (string folder in new[] { made, gone, busy })
        {
            Directory.CreateDirectory(folder);
            File.WriteAllText(Path.Combine(folder, "change.lock"), "");
        }
        using SafeFileHandle live = new MachineFolder(busy).TryChange(wait: false)!;
        Assert.Single(Store.List());
        Store.Create("db", Definition);
        Assert.False(Directory.Exists(made));
        Assert.False(Directory.Exists(gone));
        Assert.True(Directory.Exists(busy));
    }

    [Theory]
    [InlineData("", "is damaged or cannot be read")]
    [InlineData("{}", "")]
    [InlineData("{\"version\": 99, \"id\": \"4e34d03d-aa91-4f82-9ae5-2113577fab2f\", \"created\": \"2026-11-21T00:00:00Z\", \"directory\": \"/\"}", "newer Lodge")]
    public void ADamagedDefinitionIsShownAndCanBeRemoved(string text, string words)
    {
        MachineFolder machine = Store.Create("web", Definition);
        File.WriteAllText(Path.Combine(machine.Path, "machine.json"), text);
        MachineReport report = Assert.Single(Store.List());
        Assert.Equal("damaged", report.State);
        Assert.NotNull(report.Problem);
        Assert.True(words.Length == 0 || text.Length == 0 || report.Problem.Contains(words, StringComparison.Ordinal), report.Problem);
        Assert.Throws<ManagementException>(() => Store.Read("web"));
        Store.Remove("web");
        Assert.Empty(Store.List());
    }

    [Fact]
    public async Task EventsAreReadWhileTheyAreWritten()
    {
        MachineStore store = Store;
        store.Create("web", Definition);
        using CancellationTokenSource stop = new();
        List<string> seen = [];
        Task reader = Task.Run(async () =>
        {
            await foreach (MachineEvent happened in store.Journal.ReadAsync(DateTimeOffset.MinValue, follow: true, stop.Token))
            {
                seen.Add(happened.Event);
                if (seen.Count == 51)
                {
                    stop.Cancel();
                }
            }
        });
        for (int i = 0; i < 50; i++)
        {
            store.Journal.Add(new MachineEvent(DateTimeOffset.Now, "web", default, $"event {i}"));
        }
        await reader.WaitAsync(TimeSpan.FromMinutes(2));
        Assert.Equal(["created", .. Enumerable.Range(0, 50).Select(i => $"event {i}")], seen);
    }
}
