using System.CommandLine;
using Lodge.Management.Networks;

namespace Lodge.Cli.Network;

/// <summary>The verbs <c>network start</c>, <c>stop</c> and <c>remove</c>.</summary>
internal static class LifeCommands
{
    /// <summary>Builds <c>start</c>.</summary>
    public static Command CreateStart()
    {
        Argument<string[]> names = Names();
        Command command = new("start", "Bring networks up") { names };
        command.SetAction(parsed => Each(parsed.GetValue(names)!, name => NetworkCommand.Tell(NetworkStore.OfHost().Start(name))));
        return command;
    }

    /// <summary>Builds <c>stop</c>.</summary>
    public static Command CreateStop()
    {
        Argument<string[]> names = Names();
        Option<bool> force = Force();
        Command command = new("stop", "Take networks down until they are started or used again") { names, force };
        command.SetAction(parsed => Each(parsed.GetValue(names)!, name => NetworkStore.OfHost().Stop(name, parsed.GetValue(force))));
        return command;
    }

    /// <summary>Builds <c>remove</c>.</summary>
    public static Command CreateRemove()
    {
        Argument<string[]> names = Names();
        Option<bool> force = Force();
        Command command = new("remove", "Remove networks, and all that the host has for them") { names, force };
        command.Aliases.Add("rm");
        command.SetAction(parsed => Each(parsed.GetValue(names)!, name => NetworkStore.OfHost().Remove(name, parsed.GetValue(force))));
        return command;
    }

    private static Argument<string[]> Names() => new("NAME") { Description = "Network as 'lodge network list' shows it", Arity = ArgumentArity.OneOrMore };

    private static Option<bool> Force() => new("--force") { Description = "Also when machines are on it; they lose their link" };

    private static int Each(IEnumerable<string> names, Action<string> action)
    {
        foreach (string name in names)
        {
            action(name);
        }
        return 0;
    }
}
