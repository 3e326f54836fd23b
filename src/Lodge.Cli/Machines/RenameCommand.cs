using System.CommandLine;
using Lodge.Management.Machines;

namespace Lodge.Cli.Machines;

/// <summary>The verb <c>rename</c>.</summary>
internal static class RenameCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string> name = MachineCommands.Name();
        Argument<string> newName = new("NEW") { Description = "Its new name" };
        Command command = new("rename", "Give a machine that does not run another name") { name, newName };
        command.SetAction(parsed =>
        {
            MachineStore.ForUser().Rename(parsed.GetValue(name)!, parsed.GetValue(newName)!);
            return 0;
        });
        return command;
    }
}
