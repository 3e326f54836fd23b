using System.Diagnostics;

namespace Lodge.Cli.DefaultSystem;

/// <summary>Runs programs of the host: no shell, C locale, standard error kept for the message when they fail.</summary>
internal static class HostProgram
{
    /// <summary>Whether a program is on the PATH.</summary>
    public static bool Exists(string name) => (Environment.GetEnvironmentVariable("PATH") ?? "/usr/bin:/bin")
        .Split(':', StringSplitOptions.RemoveEmptyEntries).Any(directory => File.Exists(Path.Combine(directory, name)));

    /// <summary>Runs a program; <paramref name="output"/> gets its standard output, <paramref name="input"/> is its standard input.</summary>
    /// <returns>Exit status and the last line of its standard error.</returns>
    public static (int Status, string Error) Run(string program, IEnumerable<string> arguments, string? directory, Action<Stream> output, byte[]? input = null)
    {
        ProcessStartInfo start = new(program)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            WorkingDirectory = directory ?? "/",
        };
        foreach (string argument in arguments)
        {
            start.ArgumentList.Add(argument);
        }
        start.Environment["LC_ALL"] = "C";
        start.Environment["DEBIAN_FRONTEND"] = "noninteractive";
        using Process process = Process.Start(start) ?? throw new LodgeException($"'{program}' cannot be started");
        string last = "";
        process.ErrorDataReceived += (_, e) => last = string.IsNullOrWhiteSpace(e.Data) ? last : e.Data.Trim();
        process.BeginErrorReadLine();
        Thread? feeder = null;
        if (input is not null)
        {
            feeder = new Thread(() =>
            {
                try
                {
                    process.StandardInput.BaseStream.Write(input);
                    process.StandardInput.Close();
                }
                catch (IOException)
                {
                    // The program ended before it had read everything; its status tells.
                }
            });
            feeder.Start();
        }
        else
        {
            process.StandardInput.Close();
        }
        try
        {
            output(process.StandardOutput.BaseStream);
            process.StandardOutput.BaseStream.CopyTo(Stream.Null);
        }
        catch
        {
            process.Kill();
            throw;
        }
        feeder?.Join();
        process.WaitForExit();
        return (process.ExitCode, last);
    }

    /// <summary>Runs a program and returns its standard output as text, or null when it fails.</summary>
    public static string? Text(string program, params string[] arguments)
    {
        string text = "";
        (int status, _) = Run(program, arguments, null, stream => text = new StreamReader(stream).ReadToEnd());
        return status == 0 ? text : null;
    }
}
