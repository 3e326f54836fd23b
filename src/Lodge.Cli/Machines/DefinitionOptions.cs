using System.CommandLine;
using System.CommandLine.Parsing;
using Lodge.Cli.Run;
using Lodge.Management;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>A machine's definition as a command line, and back.</summary>
internal static class DefinitionOptions
{
    /// <summary>Options of <c>lodge run</c> that are of one run and not of a machine.</summary>
    private static readonly string[] OfOneRun = ["keep", "name", "timeout", "gdb", "trace"];

    /// <summary>What a definition asks for.</summary>
    /// <exception cref="ManagementException">It is not understood.</exception>
    public static RunOptions Read(MachineDefinition definition, MachineFolder folder)
    {
        RunArguments arguments = new();
        Command verb = new("run");
        arguments.AddTo(verb);
        ParseResult parsed = new RootCommand { verb }.Parse(
            HostResources.WithDefaults([.. definition.Arguments(folder.Name)]), new ParserConfiguration { ResponseFileTokenReplacer = null, EnablePosixBundling = false });
        if (parsed.Errors.Count != 0)
        {
            throw new ManagementException($"machine '{folder.Name}' has an option that is not understood: {parsed.Errors[0].Message.ReplaceLineEndings(" ")}; change it: lodge edit {folder.Name}");
        }
        RunOptions options = arguments.Bind(parsed, definition.Command.Count == 0 ? null : definition.Command).WithImageMemory();
        return options with { Folder = folder.Path, WorkFolder = folder.Work, Named = true, Keep = definition.Image is not null, CommandPort = definition.FromTemplate, MachineId = definition.ClonedFrom is null ? null : definition.Id };
    }

    /// <summary>The options of a command line as a definition keeps them.</summary>
    /// <exception cref="LodgeException">One is of a single run only.</exception>
    public static Dictionary<string, IReadOnlyList<string>> Take(RunArguments arguments, ParseResult parsed)
    {
        Dictionary<string, IReadOnlyList<string>> options = new(StringComparer.Ordinal);
        foreach (Option option in arguments.All)
        {
            if (parsed.GetResult(option) is not { Implicit: false } result)
            {
                continue;
            }
            string name = option.Name.TrimStart('-');
            if (OfOneRun.Contains(name))
            {
                if (name != "name")
                {
                    throw new LodgeException($"{option.Name} is for 'lodge run' in the foreground only", ExitStatus.Usage);
                }
                continue;
            }
            string[] values = [.. result.Tokens.Select(token => token.Value)];
            options[name] = values is [] or ["true"] ? ["true"] : values;
        }
        return options;
    }
}
