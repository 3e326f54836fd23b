using Lodge.Storage.Tests.Kill;

namespace Lodge.Storage.Tests;

/// <summary>Runs the tests, or is one of the processes that they need.</summary>
internal static class Program
{
    public static int Main(string[] arguments) => arguments switch
    {
        ["kill-writer", .. var rest] => KillWriter.Run(rest),
        ["kill-commands", .. var rest] => KillDriver.RunCommands(rest),
        ["kill", .. var rest] => KillDriver.Run(rest),
        _ when arguments.Contains("--server") || arguments.Contains("--internal-msbuild-node") =>
            Xunit.MicrosoftTestingPlatform.TestPlatformTestFramework.RunAsync(arguments, SelfRegisteredExtensions.AddSelfRegisteredExtensions).GetAwaiter().GetResult(),
        _ => Xunit.Runner.InProc.SystemConsole.ConsoleRunner.Run(arguments).GetAwaiter().GetResult(),
    };
}
