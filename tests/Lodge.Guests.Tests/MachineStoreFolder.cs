using System.Diagnostics;
using System.Text.Json;
using Xunit;

namespace Lodge.Guests.Tests;

/// <summary>A store of machines of a test's own; what still runs in it at the end is killed.</summary>
public sealed class MachineStoreFolder : IDisposable
{
    /// <summary>The folder that stands for the user's data.</summary>
    public string Data { get; } = Directory.CreateTempSubdirectory("lodge-machines.").FullName;

    /// <summary>The folder of a machine.</summary>
    public string Of(string name) => Path.Combine(Data, "lodge", "machines", name);

    /// <summary>Runs lodge with the store.</summary>
    public (int Status, string Output, string Error) Run(params string[] arguments) => RunWithInput("", arguments);

    /// <summary>Runs lodge with the store and a standard input.</summary>
    public (int Status, string Output, string Error) RunWithInput(string input, params string[] arguments) =>
        LodgeProcess.Script(input, "export XDG_DATA_HOME=$1; shift; exec \"$0\" \"$@\"", [Data, .. arguments]);

    /// <summary>Runs lodge, which must succeed; returns its output.</summary>
    public string Done(params string[] arguments)
    {
        (int status, string output, string error) = Run(arguments);
        Assert.True(status == 0, $"lodge {string.Join(' ', arguments)} ended with {status}: {output}{error}");
        return output;
    }

    /// <summary>Runs lodge, which must refuse with one line that has these words.</summary>
    public void Refused(string words, params string[] arguments)
    {
        (int status, string output, string error) = Run(arguments);
        Assert.True(status is 1 or 2, $"lodge {string.Join(' ', arguments)} ended with {status}: {output}{error}");
        Assert.Contains(words, error);
        Assert.Equal(error.Length - 1, error.IndexOf('\n', StringComparison.Ordinal));
    }

    /// <summary>Starts lodge and does not wait for it.</summary>
    public Process Begin(params string[] arguments)
    {
        ProcessStartInfo start = new(LodgeProcess.Program, arguments) { RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true };
        start.Environment["XDG_DATA_HOME"] = Data;
        return Process.Start(start)!;
    }

    /// <summary>What the list says.</summary>
    public IReadOnlyDictionary<string, JsonElement> List()
    {
        using JsonDocument document = JsonDocument.Parse(Done("list", "--json"));
        return document.RootElement.EnumerateArray().ToDictionary(machine => machine.GetProperty("name").GetString()!, machine => machine.Clone());
    }

    /// <summary>The state of a machine.</summary>
    public string State(string name) => List()[name].GetProperty("state").GetString()!;

    /// <summary>Waits until the console log of a machine has some words.</summary>
    public void AwaitLog(string name, string words)
    {
        for (int i = 0; i < 6000; i++)
        {
            // A confined machine's files are in a folder of its own user's.
            foreach (string log in new[] { "console.log", "work/console.log" }.Select(file => Path.Combine(Of(name), file)))
            {
                if (File.Exists(log) && File.ReadAllText(log).Contains(words, StringComparison.Ordinal))
                {
                    return;
                }
            }
            Thread.Sleep(20);
        }
        Assert.Fail($"machine '{name}' did not print '{words}': {Run("logs", name).Output}");
    }

    /// <summary>Numbers of the processes of machines of this store.</summary>
    public IReadOnlyList<int> Processes() =>
    [
        .. Directory.EnumerateDirectories("/proc").Select(Path.GetFileName).Where(name => int.TryParse(name, out _)).Where(name =>
        {
            try
            {
                return File.ReadAllText($"/proc/{name}/cmdline").Contains(Data + "/", StringComparison.Ordinal);
            }
            catch (Exception e) when (e is IOException or UnauthorizedAccessException)
            {
                return false;
            }
        }).Select(name => int.Parse(name!)),
    ];

    public void Dispose()
    {
        for (int i = 0; i < 100 && Processes() is { Count: not 0 } left; i++)
        {
            foreach (int process in left)
            {
                try
                {
                    using Process one = Process.GetProcessById(process);
                    one.Kill();
                }
                catch (ArgumentException)
                {
                    // It has ended.
                }
            }
            Thread.Sleep(50);
        }
        Directory.Delete(Data, recursive: true);
    }
}
