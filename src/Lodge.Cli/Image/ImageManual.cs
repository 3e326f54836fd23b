using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;

namespace Lodge.Cli.Image;

/// <summary>The generated help of a verb of <c>lodge image</c>, followed by examples and what else it cannot know.</summary>
internal sealed class ImageManual(string manual) : SynchronousCommandLineAction
{
    /// <summary>Gives a command this help.</summary>
    public static void AddTo(Command command, string manual) => command.Add(new HelpOption { Action = new ImageManual(manual) });

    public override int Invoke(ParseResult parseResult)
    {
        InvocationConfiguration configuration = parseResult.InvocationConfiguration;
        TextWriter output = configuration.Output;
        using StringWriter generated = new();
        configuration.Output = generated;
        int status = new HelpAction { MaxWidth = 140 }.Invoke(parseResult);
        configuration.Output = output;
        output.WriteLine(generated.ToString().TrimEnd());
        output.Write(manual);
        return status;
    }
}
