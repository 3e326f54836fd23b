using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Parsing;
using Lodge.Cli.Console;
using Lodge.Cli.Host;
using Lodge.Cli.Image;
using Lodge.Cli.Machines;
using Lodge.Cli.Network;
using Lodge.Cli.Run;
using Lodge.Cli.Templates;
using Lodge.Management;
using Lodge.Management.Machines;
using Lodge.Network;
using Lodge.Storage.Disks;

namespace Lodge.Cli;

/// <summary>The command <c>lodge</c>.</summary>
internal static class Program
{
    /// <summary>Version as <c>lodge --version</c> prints it.</summary>
    public static string Version { get; } = typeof(Program).Assembly.GetName().Version is { } v ? $"{v.Major}.{v.Minor}.{v.Build}" : "unknown";

    private static int Main(string[] arguments)
    {
        if (arguments is ["--version"])
        {
            HostFile.Write(HostFile.StandardOutput, System.Text.Encoding.ASCII.GetBytes($"lodge {Version}\n")); // the common case needs no parser
            return 0;
        }
        RunTimes.Mark("process started");
        return arguments is [MachineLauncher.Verb, { } folder, .. { } more]
            ? MachineProcess.Run(folder, more)
            : arguments is [SandboxProbe.Verb, { } probed, { } other] && SandboxProbe.Enabled ? SandboxProbe.Start(probed, other)
            : Run(arguments, options => RunSession.Run(options));
    }

    /// <summary>Parses and runs. Errors are one line on standard error.</summary>
    internal static int Run(string[] arguments, Func<RunOptions, int> run)
    {
        try
        {
            arguments = arguments is ["exec", ..] ? ExecCommand.WithSeparator(arguments) : arguments;
            int separator = arguments is ["image" or "network" or "host" or "template", ..] ? -1 : Array.IndexOf(arguments, "--");
            string[]? words = separator < 0 ? null : arguments[(separator + 1)..];
            string[] own = separator < 0 ? arguments : arguments[..separator];
            if (own is ["run"] || (own is ["run", { Length: not 0 } image] && image[0] != '-'))
            {
                return run(RunArguments.Plain(own.Length == 2 ? own[1] : null, words)); // the common case needs no parser, whose making costs a tenth of a clone's start
            }
            own = own is ["run" or "create" or "edit", ..] ? HostResources.WithDefaults(own) : own;
            RootCommand root = Root(own, words, run);
            root.Directives.Clear();
            ParseResult parsed = root.Parse(own, new ParserConfiguration { ResponseFileTokenReplacer = null, EnablePosixBundling = false });
            if (parsed.Errors.Count != 0 && parsed.Action is not (HelpAction or RunCommand.ManualAction or ImageManual))
            {
                throw new LodgeException(Explain(parsed), ExitStatus.Usage);
            }
            return parsed.Invoke(new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null });
        }
        catch (LodgeException e)
        {
            Terminal.Leave();
            HostFile.Error($"lodge: {OneLine(e.Message)}");
            return e.Status;
        }
        catch (Exception e) when (e is ManagementException or DiskException or NetworkException)
        {
            Terminal.Leave();
            HostFile.Error($"lodge: {OneLine(e.Message)}");
            return ExitStatus.CannotStart;
        }
        catch (Exception e)
        {
            Terminal.Leave();
            HostFile.Error($"lodge: internal error, please report it: {e.GetType().Name}: {OneLine(e.Message)}");
            if (Environment.GetEnvironmentVariable("LODGE_DEBUG") == "1")
            {
                HostFile.Error(e.ToString());
            }
            return ExitStatus.CannotStart;
        }
    }

    /// <summary>The commands: only the one that is called where that is known, since making them takes time.</summary>
    private static RootCommand Root(string[] own, IReadOnlyList<string>? words, Func<RunOptions, int> run)
    {
        RootCommand root = new("Lodge runs virtual machines.");
        switch (own)
        {
            case ["image", { } verb, ..]:
                root.Add(ImageCommand.Create(verb));
                break;
            case ["run", ..]:
                root.Add(RunCommand.Create(words, run));
                break;
            case [{ } verb, ..] when MachineCommands.Verbs.TryGetValue(verb, out Func<IReadOnlyList<string>?, Command>? make):
                root.Add(make(words));
                break;
            default:
                root.Add(RunCommand.Create(words, run));
                foreach (Func<IReadOnlyList<string>?, Command> make in MachineCommands.Verbs.Values)
                {
                    root.Add(make(words));
                }
                root.Add(ImageCommand.Create());
                root.Add(NetworkCommand.Create());
                root.Add(HostCommand.Create());
                root.Add(TemplateCommand.Create(run));
                break;
        }
        return root;
    }

    private static string Explain(ParseResult parsed)
    {
        string? group = parsed.RootCommandResult.Children.OfType<CommandResult>().FirstOrDefault()?.Command.Name;
        group = group is "image" or "network" or "host" or "template" or "snapshot" ? group : null;
        string name = parsed.CommandResult.Command.Name;
        string verb = parsed.CommandResult.Command is RootCommand ? "lodge" : group is not null && name != group ? $"lodge {group} {name}" : $"lodge {name}";
        if (group is not null)
        {
            return ExplainGroup(parsed, group, verb);
        }
        if (name == "run" && parsed.UnmatchedTokens is [{ } word, ..] && !word.StartsWith('-'))
        {
            return $"'{word}' is not expected here; a command for the guest follows '--', as in: lodge run -- {word}";
        }
        if (parsed.CommandResult.Command is RootCommand && parsed.UnmatchedTokens is [{ } verbWord, ..])
        {
            return $"'{verbWord}' is not a command of lodge; see 'lodge --help'";
        }
        if (parsed.UnmatchedTokens is [{ } option, ..])
        {
            return option.StartsWith('-') ? $"option '{option}' is not known; see '{verb} --help'" : $"'{option}' is not expected here; see '{verb} --help'";
        }
        string message = OneLine(parsed.Errors[0].Message).TrimEnd('.');
        return message.Contains(';', StringComparison.Ordinal) ? message : $"{message}; see '{verb} --help'";
    }

    private static string ExplainGroup(ParseResult parsed, string group, string verb)
    {
        if (parsed.CommandResult.Command.Subcommands.Count != 0)
        {
            return parsed.UnmatchedTokens is [{ } word, ..] ? word.StartsWith('-') ? $"option '{word}' is not known; see 'lodge {group} --help'" : $"'{word}' is not a command of lodge {group}; see 'lodge {group} --help'" : $"a command is missing; see 'lodge {group} --help'";
        }
        string message = parsed.UnmatchedTokens is [{ } token, ..]
            ? token.StartsWith('-') ? $"option '{token}' is not known" : $"'{token}' is not expected here"
            : OneLine(parsed.Errors[0].Message).TrimEnd('.');
        return $"{message}; see '{verb} --help'";
    }

    private static string OneLine(string text) => text.ReplaceLineEndings(" ").Trim();
}
