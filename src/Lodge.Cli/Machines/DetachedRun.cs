using System.CommandLine;
using System.CommandLine.Parsing;
using Lodge.Cli.Run;
using Lodge.Management;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary><c>lodge run --detach</c>: a machine is created and started in one step.</summary>
internal static class DetachedRun
{
    /// <summary>Does it; a machine that cannot be started is not left behind.</summary>
    public static int Start(RunArguments arguments, ParseResult parsed, IReadOnlyList<string>? words, bool temporary)
    {
        string name = CreateCommand.Make(arguments, parsed, words, definition => definition with { Temporary = temporary });
        try
        {
            LifeCommands.Start(name);
        }
        catch (ManagementException)
        {
            MachineStore.ForUser().Remove(name);
            throw;
        }
        return MachineCommands.Print(name + "\n");
    }
}
