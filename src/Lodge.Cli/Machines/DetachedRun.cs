using System.CommandLine;
using System.CommandLine.Parsing;
using Lodge.Cli.Engines;
using Lodge.Cli.Run;
using Lodge.Cli.Templates;
using Lodge.Engine;
using Lodge.Management;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary><c>lodge run --detach</c>: a machine is created and started in one step.</summary>
internal static class DetachedRun
{
    /// <summary>Does it; a machine that cannot be started is not left behind. Where there is a template of such a machine it goes on there, and boots if that cannot be.</summary>
    public static int Start(RunArguments arguments, ParseResult parsed, IReadOnlyList<string>? words, bool temporary)
    {
        bool cloned = false;
        RunTemplate? Find(RunOptions options)
        {
            RunTemplate? template = FindTemplate(options);
            cloned = template is not null;
            return template;
        }
        string name = CreateCommand.Make(arguments, parsed, words, definition => definition with { Temporary = temporary }, Find);
        try
        {
            LifeCommands.Start(name);
        }
        catch (ManagementException) when (cloned)
        {
            MachineStore.ForUser().Remove(name);
            name = CreateCommand.Make(arguments, parsed, words, definition => definition with { Temporary = temporary });
            StartOrRemove(name);
        }
        catch (ManagementException)
        {
            MachineStore.ForUser().Remove(name);
            throw;
        }
        return MachineCommands.Print(name + "\n");
    }

    private static void StartOrRemove(string name)
    {
        try
        {
            LifeCommands.Start(name);
        }
        catch (ManagementException)
        {
            MachineStore.ForUser().Remove(name);
            throw;
        }
    }

    /// <summary>Whether there is a machine of that name, so that this one will not be made.</summary>
    private static bool IsTaken(RunOptions options) => options.Named && MachineStore.ForUser().List().Any(machine => machine.Name == options.Name);

    /// <summary>The template that serves a machine, made if it has to be, or null.</summary>
    private static RunTemplate? FindTemplate(RunOptions options)
    {
        if (options.Image is null)
        {
            return null;
        }
        IEngine engine = EngineChoice.Choose(options.Engine, _ => { });
        IReadOnlyList<NetworkOption> cards = RunNetworks.Choose(options.Networks, options.Publish, options.Capture, options.NetworkRules, guess: true);
        RunTemplate? template = RunTemplate.Of(options, engine, cards, kept: true);
        if (template is { IsClone: false } && !IsTaken(options) && TemplateBoot.CommandFor(options, template) is { } command)
        {
            template.Dispose();
            TemplateBoot.Run(options.Image, command);
            template = RunTemplate.Of(options, engine, cards, kept: true);
        }
        if (template is { IsClone: true })
        {
            return template;
        }
        template?.Dispose();
        return null;
    }
}
