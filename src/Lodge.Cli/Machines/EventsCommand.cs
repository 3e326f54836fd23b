using System.CommandLine;
using System.Runtime.InteropServices;
using System.Text.Json;
using Lodge.Cli.Run;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>events</c>.</summary>
internal static class EventsCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Option<bool> json = new("--json") { Description = "Print a line of JSON for each" };
        Option<TimeSpan?> since = MachineCommands.Time("--since", "Also those of this long ago, for example 10m or 24h");
        Option<bool> past = new("--no-follow") { Description = "End with the last that has happened" };
        Command command = new("events", "Tell what happens to machines: created, started, paused, stopped and so on, until Ctrl-C") { json, since, past };
        command.SetAction(parsed => RunAsync(parsed.GetValue(json), parsed.GetValue(since), !parsed.GetValue(past)).GetAwaiter().GetResult());
        return command;
    }

    private static async Task<int> RunAsync(bool json, TimeSpan? since, bool follow)
    {
        using CancellationTokenSource stop = new();
        using PosixSignalRegistration interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, context =>
        {
            context.Cancel = true;
            stop.Cancel();
        });
        await foreach (MachineEvent happened in MachineStore.ForUser().Journal.ReadAsync(since is { } ago ? DateTimeOffset.Now - ago : follow ? null : DateTimeOffset.MinValue, follow, stop.Token))
        {
            string line = json
                ? JsonSerializer.Serialize(happened, MachineLineJson.Default.MachineEvent)
                : $"{happened.Time.ToLocalTime():yyyy-MM-dd HH:mm:ss.fff}  {happened.Machine}  {happened.Event}{(happened.Detail is { } detail ? $"  ({detail})" : "")}";
            if (MachineCommands.Print(line + "\n") is not 0 and var status)
            {
                return status;
            }
        }
        return 0;
    }
}
