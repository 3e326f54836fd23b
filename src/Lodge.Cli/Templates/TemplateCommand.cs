using System.CommandLine;
using System.Globalization;
using System.Text;
using System.Text.Json;
using Lodge.Cli.Console;
using Lodge.Cli.Image;
using Lodge.Cli.Network;
using Lodge.Cli.Run;
using Lodge.Engine.Processor;
using Lodge.Management.Templates;

namespace Lodge.Cli.Templates;

/// <summary>The group <c>lodge template</c>: booted machines that runs are cloned from.</summary>
internal static class TemplateCommand
{
    private const string Manual = """

        'lodge run' makes a template by itself when it boots a machine of which there is none yet, and clones it from then on; '--no-template' boots. A template
        is of one build of Lodge, one kernel, one size of memory, one number of CPUs and so on: another machine has another one. Templates are in the cache
        (~/.cache/lodge/templates) and can be removed at any time, also while clones of them run.

        Examples:
          lodge template create --memory 1G --cpus 2     so that the first such 'lodge run' is fast already
          lodge template create debian                   of a stored image: for 'lodge run debian' and 'lodge run -d debian'
          lodge template list
          lodge template remove 3f0c9e1d2b4a5968
          lodge template prune --older 30d

        """;

    /// <summary>Builds the group.</summary>
    /// <param name="run">Runs a machine; returns the exit status.</param>
    public static Command Create(Func<RunOptions, int> run)
    {
        Command group = new("template", "Make, show and remove templates: booted machines that 'lodge run' clones")
        {
            CreateVerb(run), ListVerb(), ShowVerb(), RemoveVerb(), PruneVerb(),
        };
        ImageManual.AddTo(group, Manual);
        return group;
    }

    /// <summary>Writes to standard output.</summary>
    public static int Print(string text)
    {
        HostFile.Write(HostFile.StandardOutput, Encoding.UTF8.GetBytes(text));
        return 0;
    }

    private static Command CreateVerb(Func<RunOptions, int> run)
    {
        Argument<string?> image = new("IMAGE") { Description = "Stored image, for example debian; none is the default system", Arity = ArgumentArity.ZeroOrOne };
        Option<string?> memory = new("--memory") { Description = "Size of RAM [default: 512M, of an image's machine 1G]", HelpName = "SIZE" };
        Option<string?> processors = new("--cpus") { Description = "Number of CPUs [default: 1]", HelpName = "N" };
        Option<string?> cpu = new("--cpu") { Description = $"CPU model: {string.Join(", ", CpuModel.Names)} [default: v3]", HelpName = "MODEL" };
        Command command = new("create", "Boot a machine and keep it as a template; prints its name") { image, memory, processors, cpu };
        command.SetAction(parsed => run(Understood(() => new RunOptions
        {
            OnlyTemplate = true,
            Image = parsed.GetValue(image),
            MemoryGiven = parsed.GetValue(memory) is not null,
            Memory = parsed.GetValue(memory) is { } size ? RunOptions.ParseMemory(size) : RunOptions.DefaultMemory,
            Processors = parsed.GetValue(processors) is { } count ? RunOptions.ParseProcessors(count) : 1,
            Cpu = parsed.GetValue(cpu) is { } model ? RunOptions.ParseCpu(model) : CpuModelName.V3,
        })));
        return command;
    }

    private static Command ListVerb()
    {
        Option<bool> json = new("--json") { Description = "Print JSON" };
        Command command = new("list", "List the templates, the one first that was used last") { json };
        command.Aliases.Add("ls");
        command.SetAction(parsed =>
        {
            IReadOnlyList<StoredTemplate> all = TemplateStore.ForUser().List();
            return parsed.GetValue(json)
                ? Print(JsonSerializer.Serialize([.. all.Select(t => t.Description)], TemplateJson.Default.ListTemplateDescription) + "\n")
                : Print(NetworkCommand.Table([["TEMPLATE", "SYSTEM", "MEMORY", "CPUS", "ON DISK", "MADE", "USED"], .. all.Select(Row)]));
        });
        return command;
    }

    private static Command ShowVerb()
    {
        Argument<string> name = new("TEMPLATE") { Description = "Name as 'lodge template list' shows it" };
        Command command = new("show", "Show a template and what its machine is made from, as JSON") { name };
        command.SetAction(parsed =>
        {
            StoredTemplate template = TemplateStore.ForUser().List().FirstOrDefault(t => t.Description.Key == parsed.GetValue(name)) ?? throw Missing(parsed.GetValue(name)!);
            return Print(JsonSerializer.Serialize(template.Description, TemplateJson.Default.TemplateDescription) + "\n");
        });
        return command;
    }

    private static Command RemoveVerb()
    {
        Argument<string[]> names = new("TEMPLATE") { Description = "Name as 'lodge template list' shows it", Arity = ArgumentArity.OneOrMore };
        Command command = new("remove", "Remove templates; their clones run on") { names };
        command.Aliases.Add("rm");
        command.SetAction(parsed =>
        {
            foreach (string name in parsed.GetValue(names)!)
            {
                if (!TemplateStore.ForUser().Remove(name))
                {
                    throw Missing(name);
                }
            }
            return 0;
        });
        return command;
    }

    private static Command PruneVerb()
    {
        Option<bool> all = new("--all") { Description = "Remove all of them" };
        Option<string?> older = new("--older") { Description = "Remove what was not used for this time, for example 12h or 30d", HelpName = "TIME" };
        Command command = new("prune", $"Remove the templates that were not used for longest beyond {TemplateStore.MaximumCount} or {TemplateStore.MaximumBytes >> 30} GiB, as runs do by themselves; prints their names") { all, older };
        command.SetAction(parsed =>
        {
            DateTimeOffset? before = parsed.GetValue(older) is { } text ? DateTimeOffset.UtcNow - Understood(() => Age(text)) : null;
            IReadOnlyList<string> removed = TemplateStore.ForUser().Prune(parsed.GetValue(all) ? 0 : TemplateStore.MaximumCount, before: before);
            return Print(string.Concat(removed.Select(name => name + "\n")));
        });
        return command;
    }

    private static string[] Row(StoredTemplate template)
    {
        TemplateDescription d = template.Description;
        return
        [
            d.Key, d.System, $"{d.Memory >> 20} MiB", d.Processors.ToString(CultureInfo.InvariantCulture), $"{d.StoredBytes >> 20} MiB",
            d.Created.ToLocalTime().ToString("yyyy-MM-dd HH:mm", CultureInfo.InvariantCulture), template.Used.ToLocalTime().ToString("yyyy-MM-dd HH:mm", CultureInfo.InvariantCulture),
        ];
    }

    private static LodgeException Missing(string name) => new($"there is no template '{name}'; see 'lodge template list'");

    /// <summary>A number of hours or days.</summary>
    internal static TimeSpan Age(string text) =>
        text.Length > 1 && int.TryParse(text.AsSpan(0, text.Length - 1), NumberStyles.None, CultureInfo.InvariantCulture, out int number) && number <= 36500 && text[^1] is 'h' or 'd'
            ? text[^1] == 'h' ? TimeSpan.FromHours(number) : TimeSpan.FromDays(number)
            : throw new FormatException($"time '{text}' is not understood; write it as 12h or 30d");

    private static T Understood<T>(Func<T> parse)
    {
        try
        {
            return parse();
        }
        catch (FormatException e)
        {
            throw new LodgeException(e.Message, ExitStatus.Usage);
        }
    }
}
