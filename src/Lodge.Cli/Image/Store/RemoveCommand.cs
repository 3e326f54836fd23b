using System.CommandLine;
using Lodge.Management.Images;

namespace Lodge.Cli.Image.Store;

/// <summary>The verb <c>image remove</c>.</summary>
internal static class RemoveCommand
{
    /// <summary>Builds the verb.</summary>
    public static Command Create()
    {
        Argument<string[]> names = new("NAME") { Description = "Image as 'lodge image list' shows it", Arity = ArgumentArity.OneOrMore };
        Command command = new("remove", "Remove images from the local store") { names };
        command.Aliases.Add("rm");
        command.SetAction(parsed =>
        {
            ImageStore store = ImageStore.ForUser();
            foreach (string name in parsed.GetValue(names)!)
            {
                store.Remove(ImageName.Parse(name));
            }
            return 0;
        });
        return command;
    }
}
