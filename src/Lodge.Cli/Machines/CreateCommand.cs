using System.CommandLine;
using System.CommandLine.Parsing;
using System.Security.Cryptography;
using Lodge.Cli.Image;
using Lodge.Cli.Run;
using Lodge.Cli.Templates;
using Lodge.Management.Images;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>create</c>.</summary>
internal static class CreateCommand
{
    private const string Manual = """

        The machine stands in the state folder ($XDG_DATA_HOME/lodge/machines/NAME, ~/.local/share/lodge/machines/NAME, for root /var/lib/lodge/machines/NAME) until it is removed. The options are those of
        'lodge run'; relative paths in them stay relative to this folder. With IMAGE it has a disk of its own on top of the image's.

        Examples:
          lodge create debian --name web --memory 2G --cpus 2 --publish 8080:80
          lodge start web && lodge console web
          lodge create --name builder --disk work.qcow2 --start -- sh -c 'mount /dev/vda /mnt && cd /mnt && ./build'

        """;

    /// <summary>Builds the verb.</summary>
    public static Command Create(IReadOnlyList<string>? words)
    {
        RunArguments arguments = new();
        Option<bool> autostart = new("--autostart") { Description = "Start it with the host (see 'lodge host install')" };
        Option<bool> start = new("--start") { Description = "Start it at once" };
        Command command = new("create", "Create a machine that is kept") { autostart, start };
        arguments.AddTo(command);
        command.SetAction(parsed =>
        {
            string name = Make(arguments, parsed, words, definition => definition with { Autostart = parsed.GetValue(autostart) });
            if (parsed.GetValue(start))
            {
                LifeCommands.Start(name);
            }
            return MachineCommands.Print(name + "\n");
        });
        ImageManual.AddTo(command, Manual);
        return command;
    }

    /// <summary>Creates a machine from a command line.</summary>
    /// <param name="arguments">The options of the verb.</param>
    /// <param name="parsed">What was given.</param>
    /// <param name="words">The command, or null.</param>
    /// <param name="finish">Completes the definition.</param>
    /// <param name="find">Finds the template that the machine's first start is to go on with; null: it boots.</param>
    /// <returns>Its name.</returns>
    public static string Make(
        RunArguments arguments, ParseResult parsed, IReadOnlyList<string>? words, Func<MachineDefinition, MachineDefinition> finish, Func<RunOptions, RunTemplate?>? find = null)
    {
        RunOptions options = arguments.Bind(parsed, words).WithImageMemory();
        Dictionary<string, IReadOnlyList<string>> kept = DefinitionOptions.Take(arguments, parsed);
        HostResources.Check(options);
        StoredImage? image = options.Image is { } text ? ImagePlan.Find(text) : null;
        using RunTemplate? template = find?.Invoke(options);
        MachineStore store = MachineStore.ForUser();
        string name = options.Named ? options.Name : FreeName(store, image?.Name.Name ?? "machine");
        MachineDefinition definition = finish(new MachineDefinition
        {
            Id = Guid.NewGuid(),
            Created = DateTimeOffset.Now,
            Directory = Environment.CurrentDirectory,
            Image = image?.Name.ToString(),
            Options = kept,
            Command = options.Command,
        });
        store.Create(name, definition, folder =>
        {
            if (template?.TryGiveTo(folder) == true)
            {
                folder.WriteDefinition(definition with { ClonedFrom = template.Identity, FromTemplate = true });
            }
            else if (image is not null)
            {
                SystemDisk.MakeKeptAsync(image, folder.Path).GetAwaiter().GetResult();
            }
        });
        return name;
    }

    private static string FreeName(MachineStore store, string stem)
    {
        while (true)
        {
            string name = $"{stem}-{Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(2))}";
            if (!Directory.Exists(Path.Combine(store.Folder, name)))
            {
                return name;
            }
        }
    }
}
