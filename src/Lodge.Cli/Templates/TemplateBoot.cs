using System.Diagnostics;
using System.Globalization;
using Lodge.Cli.Console;
using Lodge.Cli.Engines;
using Lodge.Cli.Run;
using Lodge.Engine.Processor;
using Lodge.Management.Host;

namespace Lodge.Cli.Templates;

/// <summary>Makes the template that a machine is to go on with: by a machine of its own, which boots and is thrown away (<c>lodge template create</c>).</summary>
internal static class TemplateBoot
{
    // More than a system that comes to rest needs on a busy host.
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(4);

    /// <summary>The command that makes a template for a machine; null when the machine is one that this command does not make.</summary>
    /// <param name="options">The machine.</param>
    /// <param name="wanted">What it looks for.</param>
    public static IReadOnlyList<string>? CommandFor(RunOptions options, RunTemplate wanted)
    {
        RunOptions made = new() { OnlyTemplate = true, Image = options.Image, MemoryGiven = true, Memory = options.Memory, Processors = options.Processors, Cpu = options.Cpu };
        using RunTemplate? template = RunTemplate.Of(made, EngineChoice.Choose(made.Engine, _ => { }), RunNetworks.Choose(null, [], null, [], guess: true));
        return template?.Name != wanted.Name || options.Image is not { } image ? null :
        [
            "template", "create", image, "--memory", string.Create(CultureInfo.InvariantCulture, $"{options.Memory >> 10}K"),
            "--cpus", string.Create(CultureInfo.InvariantCulture, $"{options.Processors}"), "--cpu", CpuModel.NameText(options.Cpu),
        ];
    }

    /// <summary>Runs it. That there is no template then harms nobody, and is told.</summary>
    /// <param name="image">Name of the image.</param>
    /// <param name="command">What <see cref="CommandFor"/> gave.</param>
    public static void Run(string image, IReadOnlyList<string> command)
    {
        HostFile.Error($"lodge: booting {image} once, to make a template with which such machines start at once ('--no-template' boots the machine itself)");
        ProcessStartInfo start = new(DetachedProcess.Self[0], [.. DetachedProcess.Self.Skip(1), .. command]) { UseShellExecute = false, RedirectStandardOutput = true, RedirectStandardInput = true };
        using Process process = Process.Start(start)!;
        process.StandardInput.Close();
        process.OutputDataReceived += static (_, _) => { };
        process.BeginOutputReadLine();
        if (!process.WaitForExit(Patience))
        {
            process.Kill();
            HostFile.Error($"lodge: no template: {image} did not come to rest within {Patience.TotalMinutes} minutes");
        }
    }
}
