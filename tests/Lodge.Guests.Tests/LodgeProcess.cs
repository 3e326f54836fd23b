using System.Diagnostics;

namespace Lodge.Guests.Tests;

/// <summary>Runs the built <c>lodge</c> as a user would.</summary>
internal static class LodgeProcess
{
    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(10); // far beyond any success; a hang must end

    /// <summary>The program.</summary>
    public static string Program { get; } = Path.Combine(AppContext.BaseDirectory, "lodge");

    /// <summary>Runs it; standard input is closed after <paramref name="input"/>.</summary>
    public static (int Status, string Output, string Error) Run(string[] arguments, string input = "") => RunProgram(Program, arguments, input);

    /// <summary>Runs a shell script with <c>lodge</c> as <c>$0</c>.</summary>
    public static (int Status, string Output, string Error) Script(string script, params string[] arguments) => Script("", script, arguments);

    /// <summary>The same with a standard input.</summary>
    public static (int Status, string Output, string Error) Script(string input, string script, string[] arguments) =>
        RunProgram("/bin/sh", ["-c", script, Program, .. arguments], input);

    private static (int Status, string Output, string Error) RunProgram(string program, string[] arguments, string input)
    {
        ProcessStartInfo start = new(program)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = "/",
        };
        foreach (string argument in arguments)
        {
            start.ArgumentList.Add(argument);
        }
        using Process process = Process.Start(start)!;
        Task<string> output = process.StandardOutput.ReadToEndAsync();
        Task<string> error = process.StandardError.ReadToEndAsync();
        Task feed = Task.Run(() =>
        {
            try
            {
                process.StandardInput.Write(input);
                process.StandardInput.Close();
            }
            catch (IOException)
            {
                // Ended before it had read everything.
            }
        });
        if (!process.WaitForExit(Limit))
        {
            process.Kill();
            Xunit.Assert.Fail($"lodge {string.Join(' ', arguments)} did not end: {output.Result}{error.Result}");
        }
        feed.Wait();
        return (process.ExitCode, output.Result, WithoutEngine(error.Result));
    }

    /// <summary>Without the line that tells why a machine is on the software engine: on most hosts of these tests it is there.</summary>
    private static string WithoutEngine(string error) =>
        string.Concat(error.Split('\n').Where(line => !line.StartsWith("lodge: on the software engine: ", StringComparison.Ordinal)).Select((line, i) => i == 0 ? line : "\n" + line));
}
