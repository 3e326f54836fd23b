using System.Diagnostics;
using Xunit;

namespace Lodge.Storage.Tests.Harness;

/// <summary>Debian's qemu-img, the peer that the formats are checked against.</summary>
public static class QemuImg
{
    /// <summary>Skips the test where the program is missing.</summary>
    public static void Require() => RequireProgram("qemu-img", "qemu-utils");

    /// <summary>Whether the program is there; for checks that are a sample beside our own.</summary>
    public static bool IsInstalled { get; } = (Environment.GetEnvironmentVariable("PATH") ?? "/usr/bin:/bin").Split(':').Any(folder => File.Exists(Path.Combine(folder, "qemu-img")));

    /// <summary>Skips the test where <paramref name="program"/> is missing.</summary>
    public static void RequireProgram(string program, string package)
    {
        var path = Environment.GetEnvironmentVariable("PATH") ?? "/usr/bin:/bin";
        if (!path.Split(':').Any(folder => File.Exists(Path.Combine(folder, program))))
        {
            Assert.Skip($"{program} is missing: install the package {package}");
        }
    }

    /// <summary>Runs qemu-img, fails the test on another status than 0, and gives what it printed.</summary>
    public static string Run(params string[] arguments)
    {
        var (status, output) = RunProgram("qemu-img", arguments);
        Assert.True(status == 0, $"qemu-img {string.Join(' ', arguments)} ended with {status}: {output}");
        return output;
    }

    /// <summary>Runs a program; gives its status and all that it printed.</summary>
    public static (int Status, string Output) RunProgram(string program, params string[] arguments) => RunProgramIn("", program, arguments);

    /// <summary>The same in a folder.</summary>
    public static (int Status, string Output) RunProgramIn(string folder, string program, params string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo(program, arguments) { WorkingDirectory = folder, RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true })!;
        process.StandardInput.Close();
        var error = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return (process.ExitCode, output + error.Result);
    }
}
