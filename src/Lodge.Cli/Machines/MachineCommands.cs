using System.CommandLine;
using System.Text;
using Lodge.Cli.Console;
using Lodge.Cli.Run;
using Lodge.Management;
using Lodge.Management.Control;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verbs on machines that are kept.</summary>
internal static class MachineCommands
{
    /// <summary>What makes each verb; words are what followed <c>--</c>.</summary>
    public static IReadOnlyDictionary<string, Func<IReadOnlyList<string>?, Command>> Verbs { get; } = new Dictionary<string, Func<IReadOnlyList<string>?, Command>>(StringComparer.Ordinal)
    {
        ["create"] = CreateCommand.Create,
        ["start"] = _ => LifeCommands.CreateStart(),
        ["stop"] = _ => LifeCommands.CreateStop(),
        ["restart"] = _ => LifeCommands.CreateRestart(),
        ["pause"] = _ => LifeCommands.CreatePause(),
        ["resume"] = _ => LifeCommands.CreateResume(),
        ["reset"] = _ => LifeCommands.CreateReset(),
        ["save"] = _ => SaveCommands.CreateSave(),
        ["restore"] = _ => SaveCommands.CreateRestore(),
        ["snapshot"] = _ => SnapshotCommands.Create(),
        ["remove"] = _ => RemoveCommand.Create(),
        ["rename"] = _ => RenameCommand.Create(),
        ["clone"] = _ => CloneCommand.Create(),
        ["list"] = _ => ListCommand.Create(),
        ["show"] = _ => ShowCommand.Create(),
        ["edit"] = _ => EditCommand.Create(),
        ["attach"] = _ => AttachCommand.Create(),
        ["detach"] = _ => DetachCommand.Create(),
        ["console"] = _ => ConsoleCommand.Create(),
        ["exec"] = ExecCommand.Create,
        ["copy"] = _ => CopyCommand.Create(),
        ["logs"] = _ => LogsCommand.Create(),
        ["stats"] = _ => StatsCommand.Create(),
        ["wait"] = _ => WaitCommand.Create(),
        ["events"] = _ => EventsCommand.Create(),
    };

    /// <summary>Machines to act on.</summary>
    public static Argument<string[]> Names() => new("NAME") { Description = "Machine as 'lodge list' shows it", Arity = ArgumentArity.OneOrMore };

    /// <summary>One machine.</summary>
    public static Argument<string> Name() => new("NAME") { Description = "Machine as 'lodge list' shows it" };

    /// <summary>An option that is a time.</summary>
    public static Option<TimeSpan?> Time(string name, string description) => new(name)
    {
        Description = description,
        HelpName = "TIME",
        CustomParser = result =>
        {
            try
            {
                return RunOptions.ParseTimeout(result.Tokens[0].Value);
            }
            catch (FormatException)
            {
                result.AddError($"{name} '{result.Tokens[0].Value}' is not a time; write it as 30, 30s, 5m or 1h (at most 720h)");
                return null;
            }
        },
    };

    /// <summary>An option that is a number of something, 0 or more.</summary>
    public static Option<int?> Number(string name, string description, string unit, params string[] aliases) => new(name, aliases)
    {
        Description = description,
        HelpName = unit,
        CustomParser = result =>
        {
            if (int.TryParse(result.Tokens[0].Value, System.Globalization.NumberStyles.None, System.Globalization.CultureInfo.InvariantCulture, out int number))
            {
                return number;
            }
            result.AddError($"{name} '{result.Tokens[0].Value}' is not a whole number; write it as 10");
            return null;
        },
    };

    /// <summary>Does something for each machine; one that fails does not hold up the others.</summary>
    /// <returns>Exit status: that of the last failure, or 0.</returns>
    public static int Each(IEnumerable<string> names, Action<string> action)
    {
        int status = 0;
        foreach (string name in names.Distinct())
        {
            try
            {
                action(name);
            }
            catch (ManagementException e)
            {
                HostFile.Error($"lodge: {e.Message.ReplaceLineEndings(" ")}");
                status = ExitStatus.CannotStart;
            }
        }
        return status;
    }

    /// <summary>Asks a machine's process.</summary>
    /// <exception cref="ManagementException">It does not run, or refuses.</exception>
    public static T Ask<T>(string name, Func<ControlClient, Task<T>> question)
    {
        using ControlClient client = ControlClient.Connect(MachineStore.ForUser().Get(name));
        return question(client).GetAwaiter().GetResult();
    }

    /// <summary>Asks a machine's process to do something.</summary>
    /// <exception cref="ManagementException">It does not run, or refuses.</exception>
    public static void Do(string name, string path)
    {
        using ControlClient client = ControlClient.Connect(MachineStore.ForUser().Get(name));
        client.DoAsync("POST", path).GetAwaiter().GetResult();
    }

    /// <summary>Writes a text to standard output.</summary>
    /// <returns>Exit status: 141 when its reader has gone.</returns>
    public static int Print(string text) => HostFile.Write(HostFile.StandardOutput, Encoding.UTF8.GetBytes(text)) ? 0 : ExitStatus.BrokenPipe;

    /// <summary>A time ago in a few letters: <c>12s</c>, <c>5m</c>, <c>3h</c>, <c>8d</c>.</summary>
    public static string Ago(DateTimeOffset? time) => time is not { } then ? "-" : (DateTimeOffset.Now - then) switch
    {
        { TotalSeconds: < 0 } => "0s",
        { TotalMinutes: < 2 } ago => $"{(int)ago.TotalSeconds}s",
        { TotalHours: < 2 } ago => $"{(int)ago.TotalMinutes}m",
        { TotalDays: < 2 } ago => $"{(int)ago.TotalHours}h",
        var ago => $"{(int)ago.TotalDays}d",
    };

    /// <summary>Bytes in a few letters: <c>512M</c>, <c>1.5G</c>.</summary>
    public static string Size(double bytes) => bytes switch
    {
        >= 1L << 40 => $"{bytes / (1L << 40):0.#}T",
        >= 1 << 30 => $"{bytes / (1 << 30):0.#}G",
        >= 1 << 20 => $"{bytes / (1 << 20):0.#}M",
        >= 1 << 10 => $"{bytes / (1 << 10):0.#}K",
        _ => $"{bytes:0}",
    };
}
